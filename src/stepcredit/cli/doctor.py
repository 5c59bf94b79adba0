"""`stepcredit doctor`: is everything here that a run needs?"""

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

from stepcredit.cli.terminal import console

# Measured when the models were embedded, with the lowest and the newest releases that were tested.
KNOWN_SCORE = 0.90797
"""What the embedded CLIP gives a drawn picture and its caption."""
KNOWN_SIZE = 1.43049
"""Root mean square of the embedded generator's velocity at fixed latents."""
TOLERANCE = 1e-4


class Finding(NamedTuple):
    """What a check found, `Finding(True, "scenes world: 100 of 100 drawn scenes recognised")`."""

    passed: bool
    sentence: str


def doctor() -> None:
    """Check this installation: versions, devices, embedded assets, one tiny sampling step."""
    _print_versions()
    checks = (
        versions_are_new_enough,
        assets_are_there,
        scenes_are_recognised,
        judge_gives_its_known_score,
        policy_gives_its_known_velocity,
        half_precision_is_honoured,
        policy_draws,
    )
    passed = [_passes(check) for check in checks]  # a list, because `all` of a generator would stop at the first
    if not all(passed):
        sys.exit(1)


def versions_are_new_enough() -> Finding:
    """Every package at its floor or above."""
    from stepcredit.files.versions import floors, too_old

    sentences = too_old()
    if sentences:
        return Finding(False, f"{'; '.join(sentences)}; pip install --upgrade stepcredit")
    count = len(floors())
    return Finding(True, f"versions: {count} packages at or above what was measured to be right")


def assets_are_there() -> Finding:
    """Embedded models, safetensors only."""
    files = [path for path in Path(str(resources.files("stepcredit") / "assets")).rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    if len(weights) < 6:
        return Finding(False, f"found {len(weights)} weight files in the package, wanted at least 6; install again")
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return Finding(True, f"embedded models: {megabytes:.1f} MB")


def scenes_are_recognised() -> Finding:
    """The renderer and the checker agree."""
    import numpy as np

    from stepcredit.scenes.captions import balanced, every_caption
    from stepcredit.scenes.checker import check
    from stepcredit.scenes.renderer import draw

    generator = np.random.default_rng(0)
    captions = balanced(every_caption(), 100, 0)
    recognised = sum(check(draw(caption, generator), caption).correct for caption in captions)
    # Not 100: the checker reads shapes off 32 x 32 pixels, and may take a few for something else.
    if recognised < 95:
        return Finding(False, f"only {recognised} of 100 drawn scenes were recognised")
    return Finding(True, f"scenes world: {recognised} of 100 drawn scenes recognised")


def judge_gives_its_known_score() -> Finding:
    """The embedded CLIP scores a fixed picture as it did when it was shipped."""
    import numpy as np

    from stepcredit.files.folders import resolve
    from stepcredit.files.quiet import quiet_loading
    from stepcredit.rewards.clip import load_clip
    from stepcredit.scenes.captions import balanced, every_caption
    from stepcredit.scenes.renderer import draw

    caption = balanced(every_caption(), 1, 0)[0]
    picture = draw(caption, np.random.default_rng(0))
    with quiet_loading():
        clip = load_clip(resolve("scenes", "clip_scenes"))
    score = float(clip.agreement(picture[None], [str(caption)])[0])
    # written so that NaN fails, too
    if not abs(score - KNOWN_SCORE) < TOLERANCE:
        return Finding(
            False,
            f"the embedded CLIP scores a drawn picture with {score:.4f}, wanted {KNOWN_SCORE:.4f}: transformers loads "
            "or computes it wrongly; pip install --upgrade stepcredit",
        )
    return Finding(True, f"embedded CLIP gives its known score, {score:.4f}")


def policy_gives_its_known_velocity() -> Finding:
    """The embedded generator answers a fixed question as it did when it was shipped."""
    size = _velocity_size("float32")
    if not abs(size - KNOWN_SIZE) < TOLERANCE:
        return Finding(
            False,
            f"the embedded generator's velocity has size {size:.4f}, wanted {KNOWN_SIZE:.4f}: diffusers or "
            "transformers loads or computes it wrongly; pip install --upgrade stepcredit",
        )
    return Finding(True, f"embedded generator gives its known velocity, of size {size:.4f}")


def half_precision_is_honoured() -> Finding:
    """A generator that is asked for in bfloat16 is in bfloat16, and answers nearly the same."""
    size = _velocity_size("bfloat16")
    if not 0 < abs(size - KNOWN_SIZE) < 100 * TOLERANCE:
        return Finding(False, f"in bfloat16 the velocity has size {size:.4f}, wanted nearly {KNOWN_SIZE:.4f}")
    return Finding(True, "half precision is honoured")


def policy_draws() -> Finding:
    """The embedded generator loads and draws a picture that is neither blank nor broken."""
    from stepcredit.build import open_generator
    from stepcredit.evaluation.held_out import draw, shown
    from stepcredit.policies.families.flux import Flux

    policy = open_generator(Flux(resolution=32, max_tokens=12))
    picture = shown(draw(policy, ["a red circle"], members=1, steps=4, shift=None, seed=0, micro_batch=1))
    if not picture.std() > 1:  # of 256 shades; written so that NaN fails, too
        return Finding(False, "the embedded generator drew a blank picture; install again")
    return Finding(True, f"embedded generator draws on {policy.device}")


def _velocity_size(dtype: Literal["float32", "bfloat16"]) -> float:
    """Root mean square of what the embedded generator predicts for fixed latents, on the CPU."""
    import torch

    from stepcredit.build import open_generator
    from stepcredit.policies.families.flux import Flux

    policy = open_generator(Flux(resolution=32, max_tokens=12, device="cpu", dtype=dtype))
    shape = policy.latent_shape()
    count = torch.Size(shape).numel()
    # a sine and no noise: generators of random numbers may change with torch
    latents = torch.arange(count, dtype=torch.float64).sin().float().reshape(1, *shape)
    with torch.no_grad():
        velocity = policy.velocity(latents, torch.tensor([0.5]), policy.encode(["a red circle"]))
    return float(velocity.square().mean().sqrt())


def _print_versions() -> None:
    from stepcredit.runs.environment import describe

    for name, value in describe().items():
        if isinstance(value, dict):
            value = ", ".join(f"{package} {version}" for package, version in value.items())
        console.print(f"[bold]{name}[/]  {value}", highlight=False, soft_wrap=True)


def _passes(check: Callable[[], Finding]) -> bool:
    try:
        finding = check()
    except Exception as error:  # a broken installation may fail in any way, and the next check is still worth it
        finding = Finding(False, str(error))
    if finding.passed:
        console.print(f"[green]ok[/]      {finding.sentence}", highlight=False)
    else:
        console.print(f"[red]broken[/]  {check.__name__.replace('_', ' ')}: {finding.sentence}", highlight=False)
    return finding.passed

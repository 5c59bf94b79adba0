"""`stepcredit doctor`: is everything here that a run needs?"""

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from stepcredit.cli.terminal import console


class Finding(NamedTuple):
    """What a check found, `Finding(True, "scenes world: 100 of 100 drawn scenes recognised")`."""

    passed: bool
    sentence: str


def doctor() -> None:
    """Check this installation: versions, devices, embedded assets, one tiny sampling step."""
    _print_versions()
    checks = (assets_are_there, scenes_are_recognised, policy_draws)
    passed = [_passes(check) for check in checks]  # a list, because `all` of a generator would stop at the first
    if not all(passed):
        sys.exit(1)


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


def policy_draws() -> Finding:
    """The embedded generator loads and draws a picture that is neither blank nor broken."""
    from stepcredit.build import open_generator
    from stepcredit.evaluation.held_out import draw_pictures
    from stepcredit.policies.families.flux import Flux

    policy = open_generator(Flux(resolution=32, max_tokens=12))
    picture = draw_pictures(policy, ["a red circle"], members=1, steps=4, shift=None, seed=0, micro_batch=1)
    if not picture.std() > 1:  # of 256 shades; written so that NaN fails, too
        return Finding(False, "the embedded generator drew a blank picture; install again")
    return Finding(True, f"embedded generator draws on {policy.device}")


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

"""`stepcredit doctor`: is everything here that a run needs?"""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from rich.console import Console

from stepcredit.runs.environment import describe


def examine(console: Console) -> bool:
    """Print versions and run a few checks; True if all of them hold."""
    for name, value in describe().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {version}" for key, version in value.items())
        console.print(f"[bold]{name}[/]  {value}", highlight=False, soft_wrap=True)
    held = [_holds(console, check) for check in (assets_are_there, scenes_are_recognised, policy_draws)]
    return all(held)


def assets_are_there() -> str:
    """Embedded models, safetensors only."""
    files = [path for path in Path(str(resources.files("stepcredit") / "assets")).rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) >= 6, f"found {len(weights)} weight files in the package, wanted at least 6; install again"
    return f"embedded models: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def scenes_are_recognised() -> str:
    """The renderer and the checker agree."""
    import numpy as np

    from stepcredit.scenes.captions import balanced, every_caption
    from stepcredit.scenes.checker import check
    from stepcredit.scenes.renderer import draw

    generator = np.random.default_rng(0)
    captions = balanced(every_caption(), 100, 0)
    right = sum(check(draw(caption, generator), caption).correct for caption in captions)
    assert right >= 95, f"only {right} of 100 drawn scenes were recognised"
    return f"scenes world: {right} of 100 drawn scenes recognised"


def policy_draws() -> str:
    """The embedded generator loads and draws a picture that is neither blank nor broken."""
    from stepcredit.build import open_generator
    from stepcredit.evaluation.held_out import draw_pictures
    from stepcredit.policies.families.flux import Flux

    policy = open_generator(Flux(resolution=32, max_tokens=12))
    picture = draw_pictures(policy, ["a red circle"], members=1, steps=4, shift=None, seed=0, micro_batch=1)
    assert picture.std() > 1, "the embedded generator drew a blank picture; install again"
    return f"embedded generator draws on {policy.device}"


def _holds(console: Console, check: Callable[[], str]) -> bool:
    try:
        console.print(f"[green]ok[/]      {check()}", highlight=False)
    except Exception as error:  # every failure is shown, none hides the next
        console.print(f"[red]broken[/]  {check.__name__.replace('_', ' ')}: {error}", highlight=False)
        return False
    return True

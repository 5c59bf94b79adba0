"""The whole, from Python: `stepcredit.train(...)` and `stepcredit.sample(...)`."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import diffusers.utils.logging
import transformers.utils.logging
from rich.console import Console
from rich.table import Table

from stepcredit.build import build_policy, build_trainer
from stepcredit.config.load import DEFAULT, load_recipe
from stepcredit.config.recipe import Recipe
from stepcredit.errors import RecipeError
from stepcredit.evaluation.grid import before_after
from stepcredit.evaluation.held_out import Difference, draw_pictures
from stepcredit.runs.folder import RunFolder
from stepcredit.tracking.console import ConsoleTracker
from stepcredit.training import checkpoint, loop

for library in (diffusers.utils.logging, transformers.utils.logging):
    library.disable_progress_bar()  # a dozen bars for files of a few megabytes hide the one that matters


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    rows: list[Difference]

    def metrics(self) -> list[dict]:
        """One dictionary per iteration; `polars.DataFrame(run.metrics())` makes a table of it."""
        return [dict(line) for line in RunFolder.open(self.folder).metrics()]


def train(recipe: str | Path | Recipe = DEFAULT, *, console: Console | None = None, **settings: object) -> Run:
    """Run a recipe. Settings are recipe keys, e.g. `seed=3`; nested ones as `**{"method.floor": 0}`."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, [f"--{key}={json.dumps(value, default=str)}" for key, value in settings.items()])
    elif settings:
        raise RecipeError(f"got a finished Recipe and settings {sorted(settings)}; put them into the recipe")
    console = console or Console()
    folder = RunFolder.create(recipe.output.folder or Path("runs") / f"{recipe.method_name}-{recipe.seed}")
    started = time.perf_counter()
    trainer, judges = build_trainer(recipe)
    count = sum(parameter.numel() for parameter in trainer.policy.parameters())
    console.print(
        f"[bold]{recipe.method_name}[/] on {recipe.policy.weights}, seed {recipe.seed}: {count:,} trained parameters, "
        f"objectives {', '.join(trainer.rewards.names)}; writing {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    show = ConsoleTracker(console, recipe.training.iterations, every=10)
    try:
        rows = loop.train(trainer, judges, folder, [folder, show], show.advance)
    finally:
        show.close()
    console.print(table(rows, {reward.label for reward in recipe.rewards}))
    console.print(
        f"{time.perf_counter() - started:.0f} s   before and after: {folder.path / 'before_after.png'}   "
        f"adapter: {checkpoint.newest(folder.checkpoints)}",
        highlight=False,
        soft_wrap=True,
    )
    return Run(folder.path, rows)


def sample(
    run: str | Path,
    prompts: Sequence[str],
    *,
    count: int = 4,
    seed: int = 0,
    raw: bool = False,
    out: Path | None = None,
) -> Path:
    """Draw pictures with a run's newest checkpoint, beside its base from the same noise; returns the picture's path."""
    folder = RunFolder.open(Path(run))
    recipe = load_recipe(folder.path / "run.yaml")
    policy = build_policy(recipe)
    draw = partial(
        draw_pictures,
        policy,
        prompts,
        members=count,
        steps=recipe.evaluation.steps or recipe.rollout.steps,
        shift=recipe.rollout.shift,
        seed=seed,
        micro_batch=recipe.rollout.micro_batch,
    )
    base = draw()
    checkpoint.restore_weights(checkpoint.newest(folder.checkpoints), policy, raw=raw)
    tuned = draw()
    path = out or folder.path / "samples.png"
    captions = [prompt for prompt in prompts for _ in range(count)]
    before_after(path, captions, base, tuned, columns=min(count, 6))
    return path


def table(rows: Sequence[Difference], trained: set[str]) -> Table:
    """Base against tuned, for the terminal."""
    shown = Table("held-out captions", "", "base", "tuned", "difference", "95 % interval", "", header_style="bold")
    for column in shown.columns[2:6]:
        column.justify = "right"
    for row in rows:
        verdict = "[green]up[/]" if row.low > 0 else "[red]down[/]" if row.high < 0 else "unclear"
        shown.add_row(
            row.name,
            "trained" if row.name in trained else "held out",
            f"{row.base:.4f}",
            f"{row.tuned:.4f}",
            f"{row.difference:+.4f}",
            f"[{row.low:+.4f}, {row.high:+.4f}]".replace("[", "\\[", 1),
            verdict,
        )
    return shown

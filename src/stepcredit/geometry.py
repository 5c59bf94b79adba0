"""What a recipe will do, counted before anything is loaded: `stepcredit train --dry-run`."""

from dataclasses import dataclass
from typing import cast

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from stepcredit.config.load import to_yaml
from stepcredit.config.recipe import Recipe
from stepcredit.methods.base import Method
from stepcredit.rollout.plan import draw


@dataclass(frozen=True)
class Geometry:
    """Counts of one iteration."""

    samples: int
    rollout_calls: int
    pairs: int
    update_calls: int
    reference_calls: int
    optimiser_steps: int
    rollout_batches: int
    update_batches: int

    @property
    def forward_equivalents(self) -> int:
        """Network cost in forwards: a trained pair costs one forward and a backward of about two."""
        return self.rollout_calls + 3 * self.update_calls + self.reference_calls


def count(recipe: Recipe) -> Geometry:
    """Count one iteration; an upper bound, since pairs without credit are skipped."""
    rollout, training = recipe.rollout, recipe.training
    plan = draw(
        cast(Method, recipe.method),
        steps=rollout.steps,
        prompts=rollout.prompts,
        group_size=rollout.group_size,
        seed=recipe.seed,
        iteration=0,
    )
    samples, pairs = rollout.prompts * rollout.group_size, int(plan.trained.sum())
    per_update = -(-pairs // training.updates)
    uses_reference = getattr(recipe.method, "kl_weight", 0.0) > 0
    return Geometry(
        samples=samples,
        rollout_calls=samples * rollout.steps,
        pairs=pairs,
        update_calls=pairs * training.passes,
        reference_calls=pairs * training.passes if uses_reference else 0,
        optimiser_steps=training.updates * training.passes,
        rollout_batches=-(-samples // rollout.micro_batch) * rollout.steps,
        update_batches=-(-per_update // training.micro_batch) * training.updates * training.passes,
    )


def show(recipe: Recipe, console: Console) -> None:
    """Print the resolved recipe and the counts."""
    geometry = count(recipe)
    console.print(Syntax(to_yaml(recipe), "yaml", background_color="default"))
    table = Table("one iteration", "", box=None, pad_edge=False, header_style="bold")
    rollout = recipe.rollout
    table.add_row("pictures", f"{geometry.samples:,} = {rollout.prompts} prompts x {rollout.group_size}")
    table.add_row("trained (sample, step) pairs", f"{geometry.pairs:,}")
    table.add_row("optimiser steps", f"{geometry.optimiser_steps}")
    table.add_row("rollout", f"{geometry.rollout_calls:,} network calls in {geometry.rollout_batches} batches")
    table.add_row(
        "update", f"{geometry.update_calls:,} network calls with gradient in {geometry.update_batches} batches"
    )
    table.add_row("reference (KL)", f"{geometry.reference_calls:,} network calls")
    table.add_row("cost", f"{geometry.forward_equivalents:,} forward-equivalents")
    console.print(table)
    whole = geometry.forward_equivalents * recipe.training.iterations
    ends = f"; it ends once {recipe.training.budget:,} are spent" if recipe.training.budget is not None else ""
    console.print(
        f"\nwhole run: {recipe.training.iterations} iterations, "
        f"{geometry.samples * recipe.training.iterations:,} pictures, {whole:,} forward-equivalents{ends}. "
        "Nothing was loaded or written.",
        highlight=False,
        soft_wrap=True,
    )

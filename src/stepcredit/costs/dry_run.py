"""What a recipe will do, counted before anything is loaded: `stepcredit train --dry-run`."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from stepcredit.costs.count import Costs, count_costs
from stepcredit.recipe.load import to_yaml
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Key


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


def count(recipe: Recipe, pairs: int | None = None) -> Geometry:
    """Count one iteration; an upper bound, since pairs without credit are skipped. `pairs` are the trained ones, where
    the model decides that as well: one of two experts."""
    rollout, training = recipe.rollout, recipe.training
    plan = recipe.method.plan.draw(
        recipe.method.sampler,
        steps=rollout.steps,
        prompts=rollout.prompts,
        group_size=rollout.group_size,
        key=Key(recipe.seed, iteration=0),
    )
    samples = rollout.prompts * rollout.group_size
    pairs = int(plan.trained.sum()) if pairs is None else pairs
    per_update = -(-pairs // training.updates)
    uses_reference = recipe.method.objective.asks_reference
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


def show(recipe: Recipe, console: Console, *, peak_tflops: float, utilisation: float) -> None:
    """Print the resolved recipe, the counts, and what they cost on a device of so many TFLOP/s."""
    costs = count_costs(recipe)
    geometry = count(recipe, costs.pairs)
    console.print(Syntax(to_yaml(recipe), "yaml", background_color="default"))
    table = Table("one iteration", "", box=None, pad_edge=False, header_style="bold")
    rollout = recipe.rollout
    table.add_row(
        f"{recipe.policy.medium}s", f"{geometry.samples:,} = {rollout.prompts} prompts x {rollout.group_size}"
    )
    table.add_row("trained (sample, step) pairs", f"{geometry.pairs:,}")
    table.add_row("optimiser steps", f"{geometry.optimiser_steps}")
    table.add_row("rollout", f"{geometry.rollout_calls:,} network calls in {geometry.rollout_batches} batches")
    table.add_row(
        "update", f"{geometry.update_calls:,} network calls with gradient in {geometry.update_batches} batches"
    )
    table.add_row("reference (KL)", f"{geometry.reference_calls:,} network calls")
    table.add_row("cost", f"{geometry.forward_equivalents:,} forward-equivalents")
    console.print(table)
    show_costs(costs, console, peak_tflops=peak_tflops, utilisation=utilisation)
    whole = geometry.forward_equivalents * recipe.training.iterations
    seconds = costs.seconds(peak_tflops=peak_tflops, utilisation=utilisation) * recipe.training.iterations
    ends = f"; it ends once {recipe.training.budget:,} are spent" if recipe.training.budget is not None else ""
    console.print(
        f"\nwhole run: {recipe.training.iterations} iterations, "
        f"{geometry.samples * recipe.training.iterations:,} {recipe.policy.medium}s, {whole:,} forward-equivalents, "
        f"{work(costs.flops * recipe.training.iterations)}, {duration(seconds)}{ends}. "
        "Nothing was loaded or written.",
        highlight=False,
        soft_wrap=True,
    )


def show_costs(costs: Costs, console: Console, *, peak_tflops: float, utilisation: float) -> None:
    """Work by phase and memory by part, as two tables."""
    table = Table("work of an iteration", "", "", "time", box=None, pad_edge=False, header_style="bold")
    rate = peak_tflops * 1e12 * utilisation
    for phase, flops in costs.work.items():
        table.add_row(phase, work(flops), f"{flops / costs.flops:.1%}", duration(flops / rate))
    table.add_row("all", work(costs.flops), "", duration(costs.flops / rate), style="bold")
    console.print()
    console.print(table)
    rewards = "Rewards are not counted."
    texts = " Lengths of texts are guessed: the tokenizer is not on this machine." if costs.guessed_texts else ""
    if costs.missing is not None:
        texts += f" Prompts of twenty words stand in for the recipe's: {costs.missing}."
    console.print(
        f"Time at {utilisation:.0%} of {peak_tflops:,g} TFLOP/s; --utilisation and --peak-tflops change it. "
        f"{rewards}{texts}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("memory of the device", "", "", box=None, pad_edge=False, header_style="bold")
    for part, size in costs.resident.items():
        table.add_row(part, gibibytes(size), "")
    for phase, need in costs.needs.items():
        fixed = f" + {gibibytes(need.fixed)}" if need.fixed else ""
        table.add_row(f"while it runs: {phase}", gibibytes(need.total), f"{need.batch} x {gibibytes(need.each)}{fixed}")
    table.add_row("at most", gibibytes(costs.peak), "", style="bold")
    console.print()
    console.print(table)
    _waiting(costs.waiting, console)


def _waiting(parts: Mapping[str, int], console: Console) -> None:
    told = ", ".join(f"{part} {gibibytes(size)}" for part, size in parts.items())
    console.print(f"In main memory: {told}.", highlight=False, soft_wrap=True)


def work(flops: int) -> str:
    """FLOPs in the largest unit that leaves a number above 1."""
    for unit, size in {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}.items():
        if flops >= size:
            return f"{flops / size:,.4g} {unit}"
    return f"{flops / 1e6:,.4g} MFLOP"


def gibibytes(size: int) -> str:
    """Bytes for people."""
    for unit, least in {"GiB": 2**30, "MiB": 2**20}.items():
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, size, least in (("h", 3600, 7200), ("min", 60, 120), ("s", 1, 1)):
        if seconds >= least:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1000:,.3g} ms"

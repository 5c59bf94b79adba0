"""What a recipe will do, counted before anything is loaded: `stepcredit train --dry-run`."""

import math
from dataclasses import dataclass

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from stepcredit.costs.count import Costs, count_costs, first_plan, samples_of, uses_reference
from stepcredit.recipe.foreign import warning_of
from stepcredit.recipe.load import to_yaml
from stepcredit.recipe.recipe import Recipe

_BACKWARD = 2  # forwards that a backward costs: one product for the inputs, one for the weights
_WORK = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}
_SIZES = {"GiB": 2**30, "MiB": 2**20}
# Unit, its seconds, and the least that is shown in it: 90 min are told better than 1.5 h.
_TIMES = (("h", 3600, 7200), ("min", 60, 120), ("s", 1, 1))


@dataclass(frozen=True)
class Geometry:
    """Counts of one iteration.

    Of 8 prompts x 12 in 16 steps, all but the last trained, in micro-batches of 12 and 4: `samples` 96,
    `rollout_calls` 1536, `pairs` 1440, `update_calls` 1440, `reference_calls` 0, `optimiser_steps` 1,
    `rollout_batches` 128, `update_batches` 360.
    """

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
        """Network cost in forwards."""
        return self.rollout_calls + (1 + _BACKWARD) * self.update_calls + self.reference_calls


def count(recipe: Recipe, pairs: int | None = None) -> Geometry:
    """Count one iteration; an upper bound, since pairs without credit are skipped. `pairs` are the trained ones, where
    the model decides that as well: one of two experts."""
    rollout = recipe.rollout
    training = recipe.training
    samples = samples_of(recipe)
    if pairs is None:
        pairs = int(first_plan(recipe).trained.sum())
    optimiser_steps = training.updates * training.passes
    # Pairs are dealt to the optimiser steps of a pass, and each step's share is cut into micro-batches.
    batches_per_step = math.ceil(math.ceil(pairs / training.updates) / training.micro_batch)
    return Geometry(
        samples=samples,
        rollout_calls=samples * rollout.steps,
        pairs=pairs,
        update_calls=pairs * training.passes,
        reference_calls=pairs * training.passes if uses_reference(recipe) else 0,
        optimiser_steps=optimiser_steps,
        rollout_batches=math.ceil(samples / rollout.micro_batch) * rollout.steps,
        update_batches=batches_per_step * optimiser_steps,
    )


def show(recipe: Recipe, console: Console, *, peak_tflops: float, utilisation: float) -> None:
    """Print the resolved recipe, the counts, and what they cost on a device of so many TFLOP/s."""
    costs = count_costs(recipe)
    geometry = count(recipe, costs.pairs)
    console.print(Syntax(to_yaml(recipe), "yaml", background_color="default"))
    console.print(_iteration(recipe, geometry))
    console.print()
    console.print(_work_by_phase(costs, peak_tflops * 1e12 * utilisation))
    _say(
        console,
        f"Time at {utilisation:.0%} of {peak_tflops:,g} TFLOP/s; --utilisation and --peak-tflops change it. "
        f"Rewards are not counted.{_guesses(costs)}",
    )
    console.print()
    console.print(_memory_by_part(costs))
    waiting = ", ".join(f"{part} {gibibytes(size)}" for part, size in costs.waiting.items())
    _say(console, f"In main memory: {waiting}.")
    seconds = costs.seconds(peak_tflops=peak_tflops, utilisation=utilisation) * recipe.training.iterations
    _say(console, f"\n{_whole_run(recipe, geometry, costs, seconds)} Nothing was loaded or written.")
    warning = warning_of(recipe)
    if warning is not None:
        console.print(f"\n{warning}", style="yellow", highlight=False, soft_wrap=True, markup=False)


def _iteration(recipe: Recipe, geometry: Geometry) -> Table:
    """How often everything is done in one iteration."""
    rollout = recipe.rollout
    table = _table("one iteration", "")
    for what, times in {
        f"{recipe.policy.medium}s": f"{geometry.samples:,} = {rollout.prompts} prompts x {rollout.group_size}",
        "trained (sample, step) pairs": f"{geometry.pairs:,}",
        "optimiser steps": f"{geometry.optimiser_steps}",
        "rollout": f"{geometry.rollout_calls:,} network calls in {geometry.rollout_batches} batches",
        "update": f"{geometry.update_calls:,} network calls with gradient in {geometry.update_batches} batches",
        "reference (KL)": f"{geometry.reference_calls:,} network calls",
        "cost": f"{geometry.forward_equivalents:,} forward-equivalents",
    }.items():
        table.add_row(what, times)
    return table


def _work_by_phase(costs: Costs, rate: float) -> Table:
    """Work, its share and its time at so many FLOP/s."""
    table = _table("work of an iteration", "", "", "time")
    for phase, flops in costs.work.items():
        table.add_row(phase, work(flops), f"{flops / costs.flops:.1%}", duration(flops / rate))
    table.add_row("all", work(costs.flops), "", duration(costs.flops / rate), style="bold")
    return table


def _memory_by_part(costs: Costs) -> Table:
    """What is on the device all the time, what each phase adds, and the worst moment."""
    table = _table("memory of the device", "", "")
    for part, size in costs.resident.items():
        table.add_row(part, gibibytes(size), "")
    for phase, need in costs.needs.items():
        fixed = f" + {gibibytes(need.fixed)}" if need.fixed else ""
        table.add_row(f"while it runs: {phase}", gibibytes(need.total), f"{need.batch} x {gibibytes(need.each)}{fixed}")
    table.add_row("at most", gibibytes(costs.peak), "", style="bold")
    return table


def _guesses(costs: Costs) -> str:
    """What the count had to assume, as sentences."""
    # Prompts that were guessed have lengths that were guessed as well, but each has its own way out.
    texts = " Lengths of texts are guessed: the tokenizer is not on this machine." if costs.guessed_texts else ""
    prompts = f" Prompts of twenty words stand in for the recipe's: {costs.missing}." if costs.missing else ""
    return texts + prompts


def _whole_run(recipe: Recipe, geometry: Geometry, costs: Costs, seconds: float) -> str:
    training = recipe.training
    ends = f"; it ends once {training.budget:,} are spent" if training.budget is not None else ""
    return (
        f"whole run: {training.iterations} iterations, {geometry.samples * training.iterations:,} "
        f"{recipe.policy.medium}s, {geometry.forward_equivalents * training.iterations:,} forward-equivalents, "
        f"{work(costs.flops * training.iterations)}, {duration(seconds)}{ends}."
    )


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _say(console: Console, sentence: str) -> None:
    """A sentence as it is: numbers in one colour, and one line however narrow the terminal."""
    console.print(sentence, highlight=False, soft_wrap=True)


def work(flops: int) -> str:
    """FLOPs in the largest unit that leaves a number above 1."""
    for unit, size in _WORK.items():
        if flops >= size:
            return f"{flops / size:,.4g} {unit}"
    return f"{flops / 1e6:,.4g} MFLOP"


def gibibytes(size: int) -> str:
    """Bytes for people."""
    for unit, least in _SIZES.items():
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, size, least in _TIMES:
        if seconds >= least:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds * 1000:,.3g} ms"

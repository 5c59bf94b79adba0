"""The whole, from Python: `stepcredit.train`, `resume`, `evaluate`, `sample`, `export`."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from torch import Tensor

from stepcredit.build import (
    build_evaluator,
    build_parts,
    build_policy,
    build_prompts,
    build_rewards,
    build_trackers,
    ground_of,
)
from stepcredit.costs import memory
from stepcredit.errors import RecipeError, RunError
from stepcredit.evaluation.grid import before_after
from stepcredit.evaluation.held_out import draw, shown
from stepcredit.evaluation.paired import Difference, summarise
from stepcredit.exporting.export import export as export
from stepcredit.files import screen
from stepcredit.files.media import suffix
from stepcredit.files.seal import sealed
from stepcredit.files.streams import unbroken
from stepcredit.files.text import resume_line, write_json
from stepcredit.policies.generator import Generator, device_of
from stepcredit.policies.guided import Guided
from stepcredit.protocols import Policy
from stepcredit.recipe.foreign import warning_of
from stepcredit.recipe.load import DEFAULT, changed_keys, load_recipe, to_yaml
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs import ground
from stepcredit.runs.environment import describe
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.ground import Ground
from stepcredit.runs.looks import Look
from stepcredit.runs.notes import notes
from stepcredit.runs.reader import FORMAT, RunReader
from stepcredit.settings.keys import RESUMABLE
from stepcredit.tracking.console import ConsoleTracker
from stepcredit.training import checkpoint
from stepcredit.training.checkpoint import Counters
from stepcredit.training.interrupt import Interrupt
from stepcredit.training.last_metre import attempt
from stepcredit.training.looking import Evaluator, look
from stepcredit.training.loop import Loop
from stepcredit.training.resume import Return
from stepcredit.training.step import Parts
from stepcredit.viewer import report
from stepcredit.viewer.live import LiveReport
from stepcredit.viewer.terminal import differences, unscored

_AT_THE_BEGINNING = Counters(0)


@dataclass(frozen=True)
class Run:
    """A run that ended: finished, or stopped by `interrupted`.

    Example: `Run(Path("runs/otca-0"), rows, interrupted=None)`, one row a reward.
    """

    folder: Path
    rows: list[Difference]
    interrupted: signal.Signals | None = None

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary per iteration; `polars.DataFrame(run.metrics())` makes a table of it."""
        return RunReader(self.folder).metrics()

    def report(self, out: Path | None = None) -> Path:
        """Write the report page; returns where it is."""
        return report.write(self.folder, out)


def train(recipe: str | Path | Recipe = DEFAULT, *, console: Console | None = None, **settings: object) -> Run:
    """Run a recipe. Settings are recipe keys, e.g. `seed=3`; nested ones as `**{"method.rule.floor": 0}`."""
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, settings)
    elif settings:
        raise RecipeError(f"got a finished Recipe and settings {sorted(settings)}; put them into the recipe")
    # The folder comes first: that its name is taken should be said before models are loaded.
    folder = RunFolder.create(recipe.folder)
    try:
        with memory.explained(recipe, device_of(recipe.policy)):
            parts, evaluator = build_parts(recipe)
        stands_on = ground_of(recipe, parts.prompts, evaluator)
        _begin(folder, recipe, evaluator)
        return _run(recipe, parts, evaluator, folder, console or Console(), stands_on)
    finally:
        folder.release()


def _begin(folder: RunFolder, recipe: Recipe, evaluator: Evaluator) -> None:
    """What makes a folder a run."""
    stood_on = {"format": FORMAT, **describe(), "rewards": evaluator.rewards.fingerprints()}
    folder.write_json("environment.json", stood_on)
    folder.write_recipe(to_yaml(recipe))  # last: from here on it is a run, and can be gone on with


def resume(run: str | Path, *, accept_changes: bool = False, console: Console | None = None, **settings: object) -> Run:
    """Go on with a run that stopped, from its newest whole checkpoint, as if nothing had happened.

    Settings may change what `RESUMABLE` names. Where something else is not as it was - the recipe, prompts, rewards,
    weights, versions, or the run's own logs - this is a RunError that names it; with `accept_changes` the run goes on,
    and what was accepted is written into it.
    """
    return go_on(Path(run), settings, console or Console(), accept_changes=accept_changes)


def go_on(
    run: Path, settings: Mapping[str, object] | Sequence[str], console: Console, *, accept_changes: bool = False
) -> Run:
    """The same with settings in one piece, or as flags of the command line."""
    folder = RunFolder.reopen(run)
    try:
        before = load_recipe(folder.path / "run.yaml")
        recipe = load_recipe(folder.path / "run.yaml", settings)
        refused = [key for key in changed_keys(before, recipe) if not key.startswith(RESUMABLE)]
        if refused:
            raise RunError(
                f"a run cannot go on with another {', '.join(refused)}; start a new run for that. "
                f"These may change: {', '.join(key.rstrip('.') for key in RESUMABLE)}"
            )
        with memory.explained(recipe, device_of(recipe.policy)):
            parts, evaluator = build_parts(recipe)
        stands_on = ground_of(recipe, parts.prompts, evaluator)
        returning = Return(recipe, parts, evaluator, folder, console)
        if checkpoint.listed(folder.checkpoints):
            start, base = returning.put_back(stands_on, accept_changes=accept_changes)
            folder.write_recipe(to_yaml(recipe))
        else:
            start, base = returning.begin_anew()
            _begin(folder, recipe, evaluator)
        for note in notes(RunReader(folder.path)):
            returning.say(note)
        went_on = f"going on with {folder.path} after {start.iteration} iterations"
        console.print(screen.plain(went_on), highlight=False, markup=False)
        return _run(recipe, parts, evaluator, folder, console, stands_on, start, base)
    finally:
        folder.release()


@unbroken()
def _run(
    recipe: Recipe,
    parts: Parts,
    evaluator: Evaluator,
    folder: RunFolder,
    console: Console,
    stands_on: Ground,
    start: Counters = _AT_THE_BEGINNING,
    base: Look | None = None,
) -> Run:
    """The loop with everybody who watches it."""
    began = time.perf_counter()
    _announce(recipe, parts, folder, console)
    show = ConsoleTracker(console, recipe.training.planned, every=10, done=start.iteration)
    services = build_trackers(recipe, folder.path, show.tell)
    live = [LiveReport(folder.path, show.tell)] if recipe.output.report else []
    trackers = [folder, show, *services, *live]
    try:
        # Entered after everything is built: until then Ctrl-C may end the process at once.
        with Interrupt(show.tell) as interrupt, memory.explained(recipe, parts.policy.device):
            rows = Loop(recipe, parts, evaluator, folder, trackers, show.advance, interrupt, stands_on).run(start, base)
    finally:
        for tracker in trackers:
            attempt(tracker.close, partial(_tell_end, show, f"the end of {type(tracker).__name__}"))
    if rows is None:
        _tell_stopped(recipe, folder, console)
        return Run(folder.path, [], interrupt.signal)
    attempt(partial(_show_gains, recipe, folder, rows, console), partial(_tell_end, show, "the table of gains"))
    places = {
        "before and after": folder.path / f"before_after{suffix(parts.policy.fps)}",
        "adapter": checkpoint.listed(folder.checkpoints)[-1],
    }
    places |= {"report": folder.path / "report.html"} if live else {}
    # A picture that could not be made was told of; here is what there is.
    written = "   ".join(f"{what}: {screen.plain(where)}" for what, where in places.items() if where.exists())
    console.print(f"{time.perf_counter() - began:.0f} s   {written}", highlight=False, soft_wrap=True, markup=False)
    return Run(folder.path, rows)


def _announce(recipe: Recipe, parts: Parts, folder: RunFolder, console: Console) -> None:
    """What is about to run, and whose code is in it."""
    count = sum(parameter.numel() for parameter in parts.policy.parameters())
    console.print(
        f"[bold]{screen.name(recipe.method_name)}[/] on {screen.literal(recipe.policy.weights)}, seed {recipe.seed}: "
        f"{count:,} trained parameters, objectives {', '.join(map(screen.name, parts.rewards.names))}; "
        f"writing {screen.literal(folder.path)}",
        highlight=False,
        soft_wrap=True,
    )
    warning = warning_of(recipe)
    if warning is not None:
        console.print(screen.plain(warning), style="yellow", highlight=False, soft_wrap=True, markup=False)


def _show_gains(recipe: Recipe, folder: RunFolder, rows: list[Difference], console: Console) -> None:
    """The table of gains, and what it cannot say."""
    console.print(differences(rows, set(recipe.objectives)))
    for sentence in [*unscored(rows), *map(str, RunReader(folder.path).silences())]:
        console.print(f"[yellow]{screen.literal(sentence)}[/]", highlight=False, soft_wrap=True)


def _tell_end(show: ConsoleTracker, what: str, sentence: str) -> None:
    show.tell(f"{what} {sentence}")


def _tell_stopped(recipe: Recipe, folder: RunFolder, console: Console) -> None:
    done = len(RunReader(folder.path).metrics())
    console.print(
        # With a budget nobody knows how many iterations it would have been.
        f"stopped after {done} of {recipe.training.planned or 'unknown'} iterations; go on with: "
        f"{screen.plain(resume_line(folder.path))}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def evaluate(
    run: str | Path, *, iteration: int | None = None, raw: bool = False, count: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """Score base and a checkpoint on held-out captions with the same noise; returns the JSON file and its content.

    `iteration` names the checkpoint, by default the newest whole one; `raw` takes the last weights instead of their
    moving average; `count` is the number of pictures, by default the recipe's. `changed` in the content names what is
    not as it was when the checkpoint was written: another reward's scores are not those of the run.
    """
    reader = RunReader(run)
    written = _recipe_of(reader)
    recipe = written
    if count is not None:
        recipe = written.model_copy(update={"evaluation": written.evaluation.model_copy(update={"count": count})})
    checkpoints = reader.path / "checkpoints"
    # Asked before minutes are spent on the base, and again after it: a run that goes on meanwhile keeps only the last.
    chosen = checkpoint.newest(checkpoints)[0] if iteration is None else checkpoint.numbered(checkpoints, iteration)
    device = device_of(recipe.policy)
    with memory.explained(recipe, device):
        evaluator = build_evaluator(recipe, build_rewards(recipe.rewards, device))
        policy = build_policy(recipe)
        # Before the weights are restored, for they go into the same network.
        base = look(policy, recipe, evaluator, iteration=0, weights="base")
        if iteration is None:
            chosen, weights = checkpoint.restore_newest(checkpoints, policy, raw=raw)
        else:
            chosen = checkpoint.numbered(checkpoints, iteration)
            weights = checkpoint.restore_weights(chosen, policy, raw=raw)
        tuned = look(policy, recipe, evaluator, iteration=int(chosen.name), weights=weights)
    summary = {**summarise(base, tuned, reader.trained), "changed": _changed(written, evaluator, chosen)}
    name = f"evaluations/{chosen.name}-{weights}-{len(base.prompts)}.json"
    write_json(reader.path / name, sealed(summary))
    return reader.path / name, summary


def _changed(recipe: Recipe, evaluator: Evaluator, chosen: Path) -> list[str]:
    """What is not as it was when a checkpoint was written: the scores are of today's prompts, rewards and weights."""
    before = checkpoint.standing(chosen)
    if before is None:  # of an older version, which does not say
        return []
    return ground.differences(before.ground, ground_of(recipe, build_prompts(recipe.prompts), evaluator))


def sample(
    run: str | Path,
    prompts: Sequence[str],
    *,
    count: int = 4,
    seed: int = 0,
    raw: bool = False,
    reward_guidance: float = 1.0,
    also: Mapping[str, float] | None = None,
    out: Path | None = None,
) -> Path:
    """Draw pictures with a run's newest checkpoint, beside its base from the same noise; returns the picture's path.

    `reward_guidance` says how far the fine-tune is followed (`policies.guided`): 1 as trained, 0 the base, more goes
    beyond. `also` adds other runs of the same base, each with a strength of its own.
    """
    reader = RunReader(run)
    recipe = _recipe_of(reader)
    policy = build_policy(recipe)
    pictures_of = partial(
        draw,
        prompts=prompts,
        members=count,
        steps=recipe.evaluation.steps or recipe.rollout.steps,
        shift=recipe.rollout.shift,
        seed=seed,
        micro_batch=recipe.rollout.micro_batch,
    )
    base = shown(pictures_of(policy))
    if reward_guidance == 1 and not also:
        checkpoint.restore_newest(reader.path / "checkpoints", policy, raw=raw)
        tuned = shown(pictures_of(policy))
    else:
        policy.surface.keep_reference()  # before any weights come in: full training has its base nowhere else
        strengths = {
            reader.path: reward_guidance,
            **{Path(folder): strength for folder, strength in (also or {}).items()},
        }
        tunes = [(_weights(folder, policy, recipe, raw=raw), strength) for folder, strength in strengths.items()]
        # Type checkers do not see what Guided hands on to its policy.
        tuned = shown(pictures_of(cast(Policy, Guided(policy, tunes))))
    path = out or reader.path / f"samples{suffix(policy.fps)}"
    captions = [prompt for prompt in prompts for _ in range(count)]
    before_after(path, captions, base, tuned, columns=min(count, 6), fps=policy.fps)
    return path


def _weights(run: Path, policy: Generator, recipe: Recipe, *, raw: bool) -> list[Tensor]:
    """The trained values of a run's newest checkpoint; the run must have the same base and the same surface."""
    composed = _recipe_of(RunReader(run))
    if composed.policy != recipe.policy:
        keys = [key for key in changed_keys(recipe, composed) if key.startswith("policy.")]
        raise RunError(f"{run} cannot be composed: it differs in {', '.join(keys)}; wanted the same base and surface")
    checkpoint.restore_newest(run / "checkpoints", policy, raw=raw)
    # Cloned: the next run's weights go into the same parameters.
    return [parameter.detach().clone() for parameter in policy.parameters()]


def _recipe_of(reader: RunReader) -> Recipe:
    """The recipe of a run, as it was written."""
    reader.recipe  # noqa: B018 - raises for one that was edited: numbers would be put down to a recipe that had no part
    return load_recipe(reader.path / "run.yaml")

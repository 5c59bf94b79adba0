"""The loop around the step: evaluate, train, keep, evaluate again."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from stepcredit.config.load import to_yaml
from stepcredit.errors import RewardError
from stepcredit.evaluation.grid import before_after
from stepcredit.evaluation.held_out import Difference, HeldOut, compare, evaluate
from stepcredit.protocols import PromptSource, Tracker
from stepcredit.records import RewardTable
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import Advance
from stepcredit.runs.environment import describe
from stepcredit.runs.folder import RunFolder
from stepcredit.training import checkpoint
from stepcredit.training.step import Trainer, step

GRID = 18  # captions in the grids of pictures
_PATIENCE = 3  # iterations in a row in which a reward may score nothing at all


@dataclass(frozen=True)
class Judges:
    """What evaluation asks: all rewards, trained on or held out, over held-out prompts."""

    prompts: PromptSource
    rewards: RewardSuite


def train(
    trainer: Trainer, judges: Judges, folder: RunFolder, trackers: Sequence[Tracker], advance: Advance
) -> list[Difference]:
    """Run the recipe to its end; returns the table of base against tuned."""
    recipe, output = trainer.recipe, trainer.recipe.output
    fingerprints = judges.rewards.fingerprints()
    folder.write_text("run.yaml", to_yaml(recipe))
    folder.write_json("environment.json", {**describe(), "rewards": fingerprints})

    base = look(trainer, judges)
    shown = grid_rows(base)
    silent = dict.fromkeys(trainer.rewards.names, 0)
    for iteration in range(recipe.training.iterations):
        done = step(trainer, iteration, advance)
        for tracker in trackers:
            tracker.log(done.report)
            tracker.problems(iteration, done.rewards.errors)
        if iteration % output.credit_every == 0:
            folder.credit(iteration, done.credit, done.rewards, done.prompts)
        finished = iteration + 1
        last = finished == recipe.training.iterations
        if last or finished % output.checkpoint_every == 0:
            checkpoint.save(folder.checkpoints, finished, trainer.policy, trainer.optimiser, trainer.average)
        if not last and finished % output.pictures_every == 0:
            now = look(trainer, judges, only=shown)
            for tracker in trackers:
                tracker.pictures(finished, "samples", list(now.images), now.prompts)
        watch(silent, done.rewards)

    tuned = look(trainer, judges)
    for tracker in trackers:
        tracker.pictures(
            recipe.training.iterations, "samples", list(tuned.images[shown]), [tuned.prompts[i] for i in shown]
        )
    rows = compare(base, tuned)
    folder.write_json("result.json", {"pictures": len(base.prompts), "rows": [asdict(row) for row in rows]})
    before_after(
        folder.path / "before_after.png",
        [base.prompts[index] for index in shown],
        base.images[shown],
        tuned.images[shown],
        marks=marks(base, tuned, shown),
    )
    return rows


def look(trainer: Trainer, judges: Judges, *, only: Sequence[int] | None = None) -> HeldOut:
    """Held-out pictures of the policy as it is now, with the moving average in place where there is one."""
    recipe = trainer.recipe
    with trainer.average.in_place() if trainer.average else nullcontext():
        return evaluate(
            trainer.policy,
            judges.prompts,
            judges.rewards,
            count=recipe.evaluation.count,
            steps=recipe.evaluation.steps or recipe.rollout.steps,
            shift=recipe.rollout.shift,
            micro_batch=recipe.rollout.micro_batch,
            only=only,
        )


def grid_rows(base: HeldOut) -> list[int]:
    """The first picture of the first few distinct captions."""
    first: dict[str, int] = {}
    for index, prompt in enumerate(base.prompts):
        first.setdefault(prompt, index)
    return list(first.values())[:GRID]


def marks(base: HeldOut, tuned: HeldOut, rows: Sequence[int]) -> list[tuple[bool, bool]] | None:
    """Right or wrong before and after, where the exact checker was asked."""
    if "composition" not in base.names:
        return None
    column = base.names.index("composition")
    return [(bool(base.scores[row, column] == 1), bool(tuned.scores[row, column] == 1)) for row in rows]


def watch(silent: dict[str, int], rewards: RewardTable) -> None:
    """Stop a run in which a reward has scored nothing for several iterations; checkpoints so far stay."""
    scored = rewards.scores.isfinite().flatten(0, 1).any(0)
    for name, some in zip(rewards.names, scored.tolist(), strict=True):
        silent[name] = 0 if some else silent[name] + 1
        if silent[name] >= _PATIENCE:
            own = [error for error in rewards.errors if name in error.partition(": ")[0].split("+")]
            reasons = "; ".join(own) or "it returned NaN only"
            raise RewardError(f"reward {name} could not score anything in {_PATIENCE} iterations in a row: {reasons}")

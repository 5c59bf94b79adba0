"""The loop around the step: look, train, keep, look again. It can be stopped and gone on with at any iteration."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote

import numpy as np

from stepcredit.errors import RewardError, RunError
from stepcredit.evaluation import held_out
from stepcredit.evaluation.grid import before_after
from stepcredit.evaluation.paired import Difference, summarise
from stepcredit.files import media
from stepcredit.parts.observers import Similarity
from stepcredit.protocols import Policy, Progress, PromptSource, Questions, Tracker
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Problem, RewardTable
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import silent as unheard
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look, Weights
from stepcredit.training import checkpoint
from stepcredit.training.checkpoint import Counters
from stepcredit.training.interrupt import Interrupt, Stopped
from stepcredit.training.last_metre import attempt
from stepcredit.training.last_whole import LastWhole
from stepcredit.training.step import Parts, Step, step

GRID = 18  # captions in before_after.png
_PATIENCE = 3  # iterations in a row in which a reward may score nothing at all


@dataclass(frozen=True)
class Evaluator:
    """What evaluation asks: all rewards, trained on or held out, over held-out prompts, and an exact checker.

    Example: `Evaluator(Listed(["a red cube"]), RewardSuite([clip_t, hps]))`.
    """

    prompts: PromptSource
    rewards: RewardSuite
    questions: Questions | None = None


@dataclass(frozen=True)
class Loop:
    """A run: its recipe and parts, how it is evaluated, where it is written, who is told."""

    recipe: Recipe
    parts: Parts
    evaluator: Evaluator
    folder: RunFolder
    trackers: Sequence[Tracker]
    progress: Progress
    interrupt: Interrupt

    def run(self, start: Counters, base: Look | None = None) -> list[Difference] | None:
        """Train from `start` to the recipe's end; returns base against tuned, or None if it was interrupted.

        `base` is the look before training, where the run has it already. However it ends, what was trained in whole
        iterations is saved before it does; an error that leaves has a note that says so.
        """
        last = self._last_whole(start)
        try:
            return self._run(start, base, last)
        except Stopped:
            self._save_whole(start, last)
            return None
        except (Exception, SystemExit) as error:  # foreign code may ask for the end of the process
            self._rescue(start, last, error)
            raise

    def _last_whole(self, start: Counters) -> LastWhole:
        return LastWhole(
            self.parts.policy,
            self.parts.optimiser,
            self.parts.anchors.average,
            iteration=start.iteration,
            silent=dict.fromkeys(self.parts.rewards.names, 0) | dict(start.silent),
        )

    def _run(self, start: Counters, base: Look | None, last: LastWhole) -> list[Difference]:
        """All of it, unless a signal ends it earlier."""
        evaluation = self.recipe.evaluation
        watched = held_out.watched(self.evaluator.prompts, count=evaluation.count, watch=evaluation.watch)
        if base is None:
            base = self.look(0, "base")
            self.folder.look(base, watched)
        finished = self._train(start, watched, last)
        return self._conclude(base, finished, watched)

    def _train(self, start: Counters, watched: Sequence[int], last: LastWhole) -> int:
        """All iterations; returns how many the run has then."""
        # A run that goes on has a budget for the whole of it, and has spent some.
        spent = self.folder.spent()
        self.interrupt.watch(self.parts.optimiser)
        finished = start.iteration
        over = self._enough(finished, spent)
        while not over:
            if self.interrupt.signal is not None:
                raise Stopped
            began = time.perf_counter()
            self.interrupt.begin()
            last.begin(finished)
            done = step(self.parts, finished, self._progress)
            last.finish()
            seconds = time.perf_counter() - began
            finished += 1
            spent += done.report.metrics["cost/forwards"]
            over = self._enough(finished, spent)
            try:
                means = self._look_if_due(finished, over, watched)
            except (Stopped, Exception):
                # A state that cannot be gone back to can only be saved beside its line.
                if not last.can_go_back:
                    self._report(done, seconds, {})
                    last.written()
                raise
            # Written down before the run may be stopped for its rewards: the reasons are in what is written.
            self._report(done, seconds, means)
            last.written()
            watch_rewards(last.silent, done.rewards)
            # After the iteration's line: a run whose checkpoint is ahead of its metrics could not go on without a gap.
            if over or self._is_checkpoint(finished):
                self._save(finished, last.silent, means)
        return finished

    def _conclude(self, base: Look, finished: int, watched: Sequence[int]) -> list[Difference]:
        """Look at all held-out captions, and write what has become of the base; what is trained is saved already."""
        tuned = self.look(finished)
        self.folder.look(tuned, watched)
        self._show(tuned.among(watched))
        summary = summarise(base, tuned, self.recipe.objectives)
        self.folder.write_json("result.json", summary)
        picture = f"before_after{media.suffix(base.fps)}"

        def draw() -> None:
            draw_before_after(self.folder, base, tuned, watched, self.evaluator.rewards.exact)

        attempt(draw, partial(self._warn, finished, picture))
        return [Difference(**row) for row in summary["rows"]]

    def _warn(self, finished: int, what: str, sentence: str) -> None:
        """Everybody hears of something that is missing and stops nothing, as they hear of scores that are."""
        for tracker in self.trackers:
            # The disk that had no room for a picture may have none for the sentence either.
            with suppress(RunError):
                tracker.problems(finished, [Problem(what, (), sentence)])

    def _rescue(self, start: Counters, last: LastWhole, error: BaseException) -> None:
        """Save what can be saved before an error leaves, and note on it what was."""
        try:
            saved = self._save_whole(start, last)
        except Exception as failure:  # the error that leaves is the one that ended the run
            # A full disk ends a run at a checkpoint, and says the same again.
            if str(failure) != str(error):
                error.add_note(f"what was trained since the last checkpoint could not be saved: {failure}")
            return
        if saved:
            error.add_note(
                f"saved after {saved} iterations; go on with: stepcredit train --resume {quote(str(self.folder.path))}"
            )

    def _save_whole(self, start: Counters, last: LastWhole) -> int:
        """Save the newest whole iteration unless it is; returns how many iterations the newest checkpoint has."""
        newest = last.newest()
        # One that is there already has the means of its look, too; before the first iteration there is nothing to save.
        if newest is not None and newest > start.iteration and not self._is_saved(newest):
            self._save(newest, last.silent, {})
        saved = checkpoint.listed(self.folder.checkpoints)
        return int(saved[-1].name) if saved else 0

    def look(self, iteration: int, weights: Weights | None = None, only: Sequence[int] | None = None) -> Look:
        """Held-out captions with the policy as it is now, its moving average in place where there is one."""
        anchors = self.parts.anchors
        named = weights or anchors.evaluated
        # A whole look stands before or after training, where nothing is lost by leaving it.
        at_once = only is None
        with anchors.in_place():
            return look(
                self.parts.policy,
                self.recipe,
                self.evaluator,
                iteration=iteration,
                weights=named,
                only=only,
                progress=lambda pairs: self.interrupt.check_look(at_once=at_once),
            )

    def _progress(self, pairs: int) -> None:
        # The one place inside an iteration that is passed again and again, in the rollout and in the update alike.
        self.interrupt.check()
        self.progress(pairs)

    def _enough(self, finished: int, spent: float) -> bool:
        """Whether training is over: all iterations done, or the budget of network forwards spent."""
        training = self.recipe.training
        return finished >= training.iterations or (training.budget is not None and spent >= training.budget)

    def _is_due(self, finished: int, last: bool) -> bool:
        """Whether to look now. The last iteration is looked at as a whole, later; the best needs a look of its own."""
        recipe = self.recipe
        if recipe.output.keep_best is not None and (last or self._is_checkpoint(finished)):
            return True
        return not last and finished % recipe.evaluation.every == 0

    def _is_checkpoint(self, finished: int) -> bool:
        return finished % self.recipe.output.checkpoint_every == 0

    def _look_if_due(self, finished: int, last: bool, watched: Sequence[int]) -> dict[str, float]:
        """The held-out means after this iteration; none where nobody looks."""
        if not self._is_due(finished, last):
            return {}
        now = self.look(finished, only=watched)
        self.folder.look(now, watched)
        self._show(now)
        return now.means()

    def _report(self, done: Step, seconds: float, means: dict[str, float]) -> None:
        """One iteration to everybody who wants to know."""
        looked = {f"held_out/{name}": value for name, value in means.items()}
        report = replace(done.report, metrics={**done.report.metrics, **looked, "time/seconds": seconds})
        credit: dict[str, np.ndarray] = {
            "credit/weights": done.credit.weights.float().numpy(),
            "credit/mixed": done.credit.mixed.float().numpy(),
            "credit/per_step": done.credit.per_step.float().numpy(),
        }
        for tracker in self.trackers:
            tracker.log(report)
            tracker.problems(report.iteration, done.rewards.problems)
            tracker.distributions(report.iteration, credit)
        if report.iteration % self.recipe.output.credit_every == 0:
            similarity = done.rollout.seen[Similarity.name].float().numpy()
            texts = [prompt.text for prompt in done.prompts]
            self.folder.credit(report.iteration, done.credit, similarity, done.rewards, texts)

    def _show(self, look: Look) -> None:
        for tracker in self.trackers:
            tracker.pictures(look.iteration, "samples", list(look.pictures.values()), look.prompts)

    def _is_saved(self, finished: int) -> bool:
        return (self.folder.checkpoints / f"{finished:06d}").is_dir()

    def _save(self, finished: int, silent: dict[str, int], means: dict[str, float]) -> None:
        output = self.recipe.output
        checkpoint.save(
            self.folder.checkpoints,
            self.parts.policy,
            self.parts.optimiser,
            self.parts.anchors.average,
            iteration=finished,
            silent=silent,
            held_out=means,
        )
        checkpoint.prune(self.folder.checkpoints, keep=output.keep, best=output.keep_best)


def look(
    policy: Policy,
    recipe: Recipe,
    evaluator: Evaluator,
    *,
    iteration: int,
    weights: Weights,
    only: Sequence[int] | None = None,
    progress: Progress = unheard,
) -> Look:
    """Held-out captions with a policy, as the recipe's evaluation asks."""
    return held_out.evaluate(
        policy,
        evaluator.prompts,
        evaluator.rewards,
        questions=evaluator.questions,
        iteration=iteration,
        weights=weights,
        count=recipe.evaluation.count,
        steps=recipe.evaluation.steps or recipe.rollout.steps,
        shift=recipe.rollout.shift,
        micro_batch=recipe.rollout.micro_batch,
        only=only,
        progress=progress,
    )


def draw_before_after(
    folder: RunFolder, base: Look, tuned: Look, rows: Collection[int], exact: Sequence[str] = ()
) -> None:
    """The first picture of the first few captions, before and after, framed right or wrong by the first exact score."""
    first: dict[str, int] = {}
    for row, prompt in zip(base.rows, base.prompts, strict=True):
        if row in rows:
            first.setdefault(prompt, row)
    captions = list(first)[:GRID]
    chosen = [first[caption] for caption in captions]
    marks = _marks(base, tuned, chosen, exact[0]) if exact else None
    before = np.stack([base.pictures[row] for row in chosen])
    after = np.stack([tuned.pictures[row] for row in chosen])
    path = folder.path / f"before_after{media.suffix(base.fps)}"
    before_after(path, captions, before, after, marks=marks, fps=base.fps)


def _marks(base: Look, tuned: Look, rows: Sequence[int], exact: str) -> list[tuple[bool, bool]]:
    """Whether each picture is right, before and after, by an exact score: 1 is right, 0 and NaN are not."""
    column = base.names.index(exact)
    index = {row: index for index, row in enumerate(base.rows)}
    marks: list[tuple[bool, bool]] = []
    for row in rows:
        before = bool(base.scores[index[row], column] == 1)
        after = bool(tuned.scores[index[row], column] == 1)
        marks.append((before, after))
    return marks


def watch_rewards(silent: dict[str, int], rewards: RewardTable) -> None:
    """Stop a run in which a reward has scored nothing for several iterations; checkpoints so far stay."""
    scored = rewards.scores.isfinite().flatten(0, 1).any(0)
    for name, has_score in zip(rewards.names, scored.tolist(), strict=True):
        silent[name] = 0 if has_score else silent[name] + 1
        if silent[name] >= _PATIENCE:
            own = [str(problem) for problem in rewards.problems if problem.concerns(name)]
            reasons = "; ".join(own) or "it returned NaN only"
            raise RewardError(f"reward {name} could not score anything in {_PATIENCE} iterations in a row: {reasons}")

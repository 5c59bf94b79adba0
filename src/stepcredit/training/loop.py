"""The loop around the step: look, train, keep, look again. It can be stopped and gone on with at any iteration."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stepcredit.evaluation import held_out
from stepcredit.evaluation.grid import before_after
from stepcredit.evaluation.paired import Difference, summarise
from stepcredit.files import media
from stepcredit.parts.observers import Similarity
from stepcredit.protocols import Policy, Progress, PromptSource, Questions, Tracker
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Problem
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look, Weights
from stepcredit.runs.reader import read_lines
from stepcredit.runs.silence import silences
from stepcredit.training import checkpoint
from stepcredit.training.checkpoint import Counters
from stepcredit.training.interrupt import Interrupt, Stopped
from stepcredit.training.step import Parts, Step, step
from stepcredit.training.watch import Teaching, watch_rewards

GRID = 18  # captions in before_after.png


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

        `base` is the look before training, where the run has it already.
        """
        evaluation = self.recipe.evaluation
        watched = held_out.watched(self.evaluator.prompts, count=evaluation.count, watch=evaluation.watch)
        if base is None:
            base = self.look(0, "base")
            self.folder.look(base, watched)
            self._tell(base)
        finished = self._train(start, base, watched)
        return None if finished is None else self._conclude(base, finished, watched)

    def _train(self, start: Counters, base: Look, watched: Sequence[int]) -> int | None:
        """All iterations; returns how many the run has then, or None if it was interrupted before the last."""
        # A run that goes on has a budget for the whole of it, and has spent some.
        spent = self.folder.spent()
        silent = dict.fromkeys(self.parts.rewards.names, 0) | dict(start.silent)
        teaching = Teaching(self.parts.rewards.names, self.parts.prompt_count)
        teaching.resume(self._metrics())
        self.interrupt.watch(self.parts.optimiser)
        finished = start.iteration
        over = self._enough(finished, spent)
        while not over and self.interrupt.signal is None:
            began = time.perf_counter()
            self.interrupt.begin()
            try:
                done = step(self.parts, finished, self._progress)
            except Stopped:
                break
            seconds = time.perf_counter() - began
            finished += 1
            spent += done.report.metrics["cost/forwards"]
            over = self._enough(finished, spent)
            now = self._look_if_due(finished, over, watched)
            # Written down before the run may be stopped for its rewards: the reasons are in what is written.
            self._report(done, seconds, now, teaching)
            means = now.comparable_means(base) if now else {}
            watch_rewards(silent, done.rewards)
            # After the iteration's line: a run whose checkpoint is ahead of its metrics could not go on without a gap.
            if over or self._is_checkpoint(finished):
                self._save(finished, silent, means)
        if over:
            return finished
        # Nothing to save if no iteration was finished, or if the last one was saved already, with its means.
        if finished > start.iteration and not (self.folder.checkpoints / f"{finished:06d}").is_dir():
            self._save(finished, silent, {})
        return None

    def _conclude(self, base: Look, finished: int, watched: Sequence[int]) -> list[Difference]:
        """Look at all held-out captions, and write what has become of the base."""
        tuned = self.look(finished)
        self.folder.look(tuned, watched)
        self._tell(tuned)
        self._show(tuned.among(watched))
        silent = silences(self._metrics(), self.parts.rewards.names, self.parts.prompt_count)
        summary: dict[str, Any] = {**summarise(base, tuned, self.recipe.objectives), "silent": list(map(str, silent))}
        self.folder.write_json("result.json", summary)
        draw_before_after(self.folder, base, tuned, watched, self.evaluator.rewards.exact)
        return [Difference.read(row) for row in summary["rows"]]

    def look(self, iteration: int, weights: Weights | None = None, only: Sequence[int] | None = None) -> Look:
        """Held-out captions with the policy as it is now, its moving average in place where there is one."""
        anchors = self.parts.anchors
        named = weights or anchors.evaluated
        with anchors.in_place():
            return look(self.parts.policy, self.recipe, self.evaluator, iteration=iteration, weights=named, only=only)

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

    def _look_if_due(self, finished: int, last: bool, watched: Sequence[int]) -> Look | None:
        """The held-out captions after this iteration; None where nobody looks."""
        if not self._is_due(finished, last):
            return None
        now = self.look(finished, only=watched)
        self.folder.look(now, watched)
        self._tell(now)
        self._show(now)
        return now

    def _metrics(self) -> list[dict[str, Any]]:
        """Of all iterations so far, as they are stored."""
        return read_lines(self.folder.path / "metrics.jsonl")

    def _report(self, done: Step, seconds: float, now: Look | None, teaching: Teaching) -> None:
        """One iteration, with its look if there was one, to everybody who wants to know."""
        looked = _held_out_metrics(now) if now else {}
        report = replace(done.report, metrics={**done.report.metrics, **looked, "time/seconds": seconds})
        credit: dict[str, np.ndarray] = {
            "credit/weights": done.credit.weights.float().numpy(),
            "credit/mixed": done.credit.mixed.float().numpy(),
            "credit/per_step": done.credit.per_step.float().numpy(),
        }
        problems = (*done.rewards.problems, *teaching.see(report.metrics))
        for tracker in self.trackers:
            tracker.log(report)
            tracker.problems(report.iteration, problems)
            tracker.distributions(report.iteration, credit)
        if report.iteration % self.recipe.output.credit_every == 0:
            similarity = done.rollout.seen[Similarity.name].float().numpy()
            texts = [prompt.text for prompt in done.prompts]
            self.folder.credit(report.iteration, done.credit, similarity, done.rewards, texts)

    def _tell(self, look: Look) -> None:
        """What could not be scored at a look, beside the iteration after which it was."""
        problems = [Problem.of_sentence(sentence, look.iteration) for sentence in look.errors]
        for tracker in self.trackers if problems else ():
            tracker.problems(look.iteration - 1, problems)

    def _show(self, look: Look) -> None:
        for tracker in self.trackers:
            tracker.pictures(look.iteration, "samples", list(look.pictures.values()), look.prompts)

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
    )


def _held_out_metrics(look: Look) -> dict[str, float]:
    """Means of a look, and beside them how many pictures they are not over, where there are any."""
    metrics: dict[str, float] = {}
    unscored = look.unscored()
    for name, mean in look.means().items():
        metrics[f"held_out/{name}"] = mean
        if unscored[name]:
            metrics[f"held_out/{name}/unscored"] = float(unscored[name])
    return metrics


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

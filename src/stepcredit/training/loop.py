"""The loop around the step: look, train, keep, look again. It can be stopped and gone on with at any iteration."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stepcredit.evaluation import held_out
from stepcredit.evaluation.paired import Difference, summarise
from stepcredit.files import media
from stepcredit.files.text import resume_line
from stepcredit.parts.observers import Similarity
from stepcredit.protocols import Progress, Tracker
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs import looks
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.ground import Ground
from stepcredit.runs.log import read_lines
from stepcredit.runs.looks import Look, Weights
from stepcredit.runs.silence import silences
from stepcredit.training import checkpoint
from stepcredit.training.checkpoint import Counters, Standing
from stepcredit.training.interrupt import Interrupt, Stopped
from stepcredit.training.last_metre import attempt
from stepcredit.training.last_whole import LastWhole
from stepcredit.training.looking import Evaluator, draw_before_after, look
from stepcredit.training.step import Parts, Step, step
from stepcredit.training.telling import Listeners, with_look
from stepcredit.training.watch import Teaching, watch_rewards


@dataclass(frozen=True)
class Loop:
    """A run: its recipe and parts, how it is evaluated, where it is written, who is told, and what it stands on."""

    recipe: Recipe
    parts: Parts
    evaluator: Evaluator
    folder: RunFolder
    trackers: Sequence[Tracker]
    progress: Progress
    interrupt: Interrupt
    ground: Ground

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
            self._listeners.unscored(base)
        finished = self._train(start, base, watched, last)
        return self._conclude(base, finished, watched)

    def _train(self, start: Counters, base: Look, watched: Sequence[int], last: LastWhole) -> int:
        """All iterations; returns how many the run has then."""
        # A run that goes on has a budget for the whole of it, and has spent some.
        spent = self.folder.spent()
        teaching = Teaching(self.parts.rewards.names, self.parts.prompt_count)
        teaching.resume(self._metrics())
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
                now = self._look_if_due(finished, over, watched)
            except (Stopped, Exception):
                # A state that cannot be gone back to can only be saved beside its line.
                if not last.can_go_back:
                    self._report(done, seconds, None, teaching)
                    last.written()
                raise
            # Written down before the run may be stopped for its rewards: the reasons are in what is written.
            self._report(done, seconds, now, teaching)
            last.written()
            watch_rewards(last.silent, done.rewards)
            # After the iteration's line: a run whose checkpoint is ahead of its metrics could not go on without a gap.
            if over or self._is_checkpoint(finished):
                self._save(finished, last.silent, now.comparable_means(base) if now else {})
        return finished

    def _conclude(self, base: Look, finished: int, watched: Sequence[int]) -> list[Difference]:
        """Look at all held-out captions, and write what has become of the base; what is trained is saved already."""
        tuned = self.look(finished)
        self.folder.look(tuned, watched)
        self._listeners.unscored(tuned)
        self._listeners.pictures(tuned.among(watched))
        silent = silences(self._metrics(), self.parts.rewards.names, self.parts.prompt_count)
        summary: dict[str, Any] = {**summarise(base, tuned, self.recipe.objectives), "silent": list(map(str, silent))}
        self.folder.write_json("result.json", summary)
        picture = f"before_after{media.suffix(base.fps)}"

        def draw() -> None:
            draw_before_after(self.folder, base, tuned, watched, self.evaluator.rewards.exact)

        attempt(draw, partial(self._listeners.missing, finished, picture))
        return [Difference.read(row) for row in summary["rows"]]

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
            error.add_note(f"saved after {saved} iterations; go on with: {resume_line(self.folder.path)}")

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

    def _look_if_due(self, finished: int, last: bool, watched: Sequence[int]) -> Look | None:
        """The held-out captions after this iteration; None where nobody looks."""
        if not self._is_due(finished, last):
            return None
        now = self.look(finished, only=watched)
        self.folder.look(now, watched)
        self._listeners.unscored(now)
        self._listeners.pictures(now)
        return now

    @property
    def _listeners(self) -> Listeners:
        return Listeners(self.trackers)

    def _metrics(self) -> list[dict[str, Any]]:
        """Of all iterations so far, as they are stored."""
        return read_lines(self.folder.path / "metrics.jsonl")

    def _report(self, done: Step, seconds: float, now: Look | None, teaching: Teaching) -> None:
        """One iteration, with its look if there was one, to everybody who wants to know."""
        report = with_look(done.report, now, seconds)
        problems = (*done.rewards.problems, *teaching.see(report.metrics))
        self._listeners.iteration(report, problems, done.credit)
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
            standing=Standing(self.ground, self.folder.extents(), looks.seal(self.folder.path / "samples" / "000000")),
        )
        checkpoint.prune(self.folder.checkpoints, keep=output.keep, best=output.keep_best)

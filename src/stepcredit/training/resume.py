"""Going on with a run: back to its newest whole checkpoint, after what it stands on was compared with today."""

from dataclasses import dataclass

from rich.console import Console

from stepcredit.errors import RunError
from stepcredit.evaluation import held_out
from stepcredit.files.screen import literal
from stepcredit.files.text import resume_line
from stepcredit.recipe.recipe import Recipe
from stepcredit.runs import ground, looks
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.ground import Ground
from stepcredit.runs.log import whole_lines
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import RunReader
from stepcredit.training import checkpoint
from stepcredit.training.checkpoint import Counters, Standing
from stepcredit.training.looking import Evaluator, look
from stepcredit.training.step import Parts


@dataclass(frozen=True)
class Return:
    """A run that stopped, with parts just built, which are as before training."""

    recipe: Recipe
    parts: Parts
    evaluator: Evaluator
    folder: RunFolder
    console: Console

    def put_back(self, now: Ground, *, accept_changes: bool) -> tuple[Counters, Look]:
        """Bring parts and folder back to the newest whole checkpoint; returns its counters and the look at the base.

        Raises RunError where something is not as it was, unless that is accepted; nothing was changed then.
        """
        path, passed = checkpoint.newest(self.folder.checkpoints)
        for sentence in passed:
            self.say(f"{sentence}; going on from {path.name} instead")
        numbers = checkpoint.counters(path)
        self._check_length(numbers)
        before = checkpoint.standing(path)
        moved = [] if before is None else ground.differences(before.ground, now)
        harmed = [] if before is None else self.folder.harmed(before.logs)
        if (moved or harmed) and not accept_changes:
            raise RunError(self._refusal([*moved, *harmed], numbers.iteration))
        self._tell(before, now)
        # Before the weights come in: later there is no base left to be drawn. Anew where something else scores or draws
        # from here on, since only then base and tuned are told apart by nothing but training.
        base = self._draw_base("what it stood on has changed") if moved else self._base(before)
        start = checkpoint.restore(path, self.parts.policy, self.parts.optimiser, self.parts.anchors.average)
        # Iterations after the checkpoint will be computed again: what was written of them would be there twice.
        self.folder.rewind(start.iteration, mend=accept_changes and (before is None or bool(harmed)))
        if moved or harmed:
            self.folder.accept(start.iteration, [*moved, *harmed])
        return start, base

    def begin_anew(self) -> tuple[Counters, None]:
        """A run that was stopped before its first checkpoint starts again, with what is there today, base included."""
        lines = whole_lines(self.folder.path / "metrics.jsonl")
        if lines:
            self.say(f"there is no checkpoint: the run begins anew, and {len(lines)} iterations are computed again")
        self.folder.rewind(-1, mend=True)
        return Counters(0), None

    def _check_length(self, numbers: Counters) -> None:
        if numbers.iteration > self.recipe.training.iterations:
            raise RunError(
                f"{self.folder.path} has {numbers.iteration} iterations, training.iterations asks for "
                f"{self.recipe.training.iterations}; give a higher number"
            )

    def _refusal(self, changed: list[str], iteration: int) -> str:
        listed = "".join(f"\n  {phrase}" for phrase in changed)
        return (
            f"{self.folder.path} cannot go on as if nothing had happened; since its checkpoint after {iteration} "
            f"iterations this has changed:{listed}\nPut it back as it was. Or accept it, which is written into the "
            f"run: {resume_line(self.folder.path)} --accept-changes"
        )

    def _tell(self, before: Standing | None, now: Ground) -> None:
        """What is no reason to refuse."""
        if before is None:
            self.say(
                "the checkpoint is of an older version: whether recipe, prompts, rewards, weights and versions are "
                "those of before could not be checked"
            )
            return
        remarks = ground.remarks(before.ground, now)
        if remarks:
            self.say(f"last digits may differ from those of an uninterrupted run: {'; '.join(remarks)}")

    def _base(self, before: Standing | None) -> Look:
        """The look at the base as it was written; drawn again where it is not there any more as it was."""
        place = self.folder.path / "samples" / "000000"
        if before is not None and looks.seal(place) != before.base:
            return self._draw_base(f"{place} is missing, or not what was written")
        try:
            return RunReader(self.folder.path).look(0)
        except RunError as error:
            return self._draw_base(str(error))

    def _draw_base(self, reason: str) -> Look:
        """The look at the base with the parts as they are before training."""
        self.say(f"the look at the base is drawn again, from the weights before training: {reason}")
        evaluation = self.recipe.evaluation
        base = look(self.parts.policy, self.recipe, self.evaluator, iteration=0, weights="base")
        watched = held_out.watched(self.evaluator.prompts, count=evaluation.count, watch=evaluation.watch)
        self.folder.look(base, watched)
        return base

    def say(self, sentence: str) -> None:
        """Tell whoever goes on with the run."""
        self.console.print(f"[yellow]{literal(sentence)}[/]", soft_wrap=True, highlight=False)

"""The run folder: plain files that anybody can read without this package.

run.yaml               the resolved recipe
environment.json       versions, commit, device, reward fingerprints
metrics.jsonl          one line per iteration
problems.jsonl         what could not be scored, and why: iteration, reward, rows of the batch, reason; of held-out
                       captions also the number of their look
changes.jsonl          what was accepted when the run went on with something changed
wandb.json             under which name the run is known there
credit/000007.safetensors
samples/000010/        held-out captions with fixed noise: scores and pictures, see looks.py
checkpoints/000100/    see training/checkpoint.py
evaluations/           what `stepcredit evaluate` found
result.json            base against tuned on held-out captions
before_after.png       report.html; of videos before_after.webp
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import save_file

from stepcredit.errors import RunError
from stepcredit.files.seal import sealed, sealed_text
from stepcredit.files.text import new_beside, resume_line, write_json, write_text
from stepcredit.records import Credit, Problem, RewardTable, StepReport
from stepcredit.runs import entries, log, looks
from stepcredit.runs.log import Extent, read_lines
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT, RunReader, credit_seal

_LOGS = ("metrics.jsonl", "problems.jsonl")


class RunFolder:
    """Writes a run. One process at a time: it holds a lock until it ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{path} is being written by another process; wait for it, or stop it, before you go on with this run"
            ) from None
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror})") from None

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new run; never a folder that holds another."""
        # Asked of `os`, as pathlib raises for a name that is too long; making the folder says it better.
        if os.path.exists(path) and not _is_free(path):
            resumes = f" To go on with it: {resume_line(path)}" if (path / "run.yaml").is_file() else ""
            raise RunError(
                f"{path} exists already and is not empty; nothing was changed. Choose another with "
                f"--output.folder FOLDER, or remove it.{resumes}"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{path} cannot be written ({error.strerror}); choose another with --output.folder"
            ) from None
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """A run that stopped, to go on with it; only of the format that is written today."""
        if not os.path.isfile(path / "run.yaml"):
            raise RunError(f"{path} is not a run: it has no run.yaml. Give the folder that `stepcredit train` printed")
        run = RunReader(path)
        if run.format != FORMAT:
            raise RunError(
                f"{path} was written by stepcredit {run.version}, and its recipe has the keys of then: go on with it "
                "in that version, or start a new run with the new keys; show, report and compare still read it"
            )
        entries.refuse_links(path)
        return cls(path)

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    def extents(self) -> dict[str, Extent]:
        """How far the logs go now."""
        return {name: Extent.of(self.path / name) for name in _LOGS}

    def harmed(self, extents: Mapping[str, Extent]) -> list[str]:
        """The logs that do not begin any more with what was written, a phrase each."""
        return [
            f"{name}: its first {extent.lines} lines are not those that were written ({self._why(name)})"
            for name, extent in extents.items()
            if not extent.holds(self.path / name)
        ]

    def _why(self, name: str) -> str:
        try:
            lines = RunReader(self.path).metrics() if name == "metrics.jsonl" else read_lines(self.path / name)
        except RunError as error:
            return str(error)
        return f"there are {len(lines)}"

    def rewind(self, iterations: int, *, mend: bool = False) -> None:
        """Forget what was written after so many finished iterations; it will be written again.

        With `mend`, for a run that goes on although its logs are damaged, they are left with what can be read.
        """
        self.__dict__.pop("_told", None)
        for name in _LOGS:
            text = log.rewrite(self.path / name, lambda line: line["iteration"] < iterations, mend=mend)
            self.write_text(name, text)
        of_changes = log.rewrite(self.path / "changes.jsonl", lambda line: line["iteration"] <= iterations, mend=mend)
        if of_changes or (self.path / "changes.jsonl").is_file():
            self.write_text("changes.jsonl", of_changes)
        self._forget("credit", lambda number: number >= iterations, ".safetensors")
        self._forget("samples", lambda number: number > iterations)
        self._forget("checkpoints", lambda number: number > iterations)  # damaged, or it would go on from them
        for path in (*entries.leftovers(self.path), *entries.leftovers(self.path / "evaluations")):
            entries.remove(path)
        for name in ("result.json", "before_after.png", "before_after.webp"):
            (self.path / name).unlink(missing_ok=True)

    def _forget(self, name: str, is_later: Callable[[int], bool], suffix: str = "") -> None:
        """Remove the numbered entries of a folder that come later, and what was not finished there."""
        folder = self.path / name
        later = [path for number, path in entries.numbered(folder, suffix).items() if is_later(number)]
        for path in (*later, *entries.leftovers(folder)):
            entries.remove(path)

    def accept(self, iteration: int, differences: Sequence[str]) -> None:
        """Write down what has changed under the run when it goes on after so many iterations."""
        self._append("changes.jsonl", [{"iteration": iteration, "differences": list(differences)}], lasting=True)

    def spent(self) -> float:
        """Network forwards of the iterations so far."""
        return float(sum(line["cost/forwards"] for line in read_lines(self.path / "metrics.jsonl")))

    def write_text(self, name: str, text: str) -> None:
        write_text(self.path / name, text, advice=self._advice)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Sealed: whoever reads it finds out whether it was changed."""
        write_json(self.path / name, sealed(value), advice=self._advice)

    def write_recipe(self, text: str) -> None:
        """run.yaml, sealed by a comment at its end."""
        self.write_text("run.yaml", sealed_text(text))

    @property
    def _advice(self) -> str:
        return f"the run ends here, its checkpoints are whole. Make room, then go on with: {resume_line(self.path)}"

    def look(self, snapshot: Look, pictured: Collection[int]) -> None:
        """Store a look at held-out captions, with the pictures of the rows in `pictured`."""
        path = self.path / "samples" / f"{snapshot.iteration:06d}"
        try:
            looks.write(path, snapshot, pictured)
        except OSError as error:
            raise self._full(path, error) from error

    def credit(
        self,
        iteration: int,
        credit: Credit,
        similarity: np.ndarray | None,
        rewards: RewardTable,
        prompts: Sequence[str],
    ) -> None:
        """Credit tensors in float32, with raw scores, names, prompts and, where known, similarities `[P, G, L]`."""
        arrays = {name: tensor.float().numpy() for name, tensor in credit.tensors().items()}
        arrays["rewards"] = rewards.scores.numpy()
        if similarity is not None:
            arrays["similarity"] = similarity
        # safetensors writes the memory as it lies: a transposed view would come back scrambled
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        notes = {"objectives": json.dumps(rewards.names), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        notes["sha256"] = credit_seal(iteration, arrays, notes)
        path = self.path / "credit" / f"{iteration:06d}.safetensors"
        writing = new_beside(path)
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(arrays, writing, notes)
            os.replace(writing, path)
        except Exception as error:  # safetensors has an exception of its own for a full disk
            raise self._full(path, error) from error

    # Tracker
    def log(self, report: StepReport) -> None:
        # JSON has no NaN, and many readers refuse the one that Python writes
        values = {name: value if math.isfinite(value) else None for name, value in report.metrics.items()}
        self._append("metrics.jsonl", [{"iteration": report.iteration, **values}], lasting=True)

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        so_far = self._told
        lines: list[dict[str, Any]] = []
        for problem in problems:
            # A run that goes on may look again where it has looked.
            if problem.look is None or (problem.look, str(problem)) not in so_far.of_looks:
                lines.append(so_far.line(iteration, problem))
        self._append("problems.jsonl", lines, lasting=bool(lines))  # a checkpoint says how far they go

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        pass  # a look has them already

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        pass  # the credit file has them already

    def close(self) -> None:
        pass

    @cached_property
    def _told(self) -> "_Told":
        # Once, and not for each problem: the log of a long run with a poor reward is long.
        return _Told.of(read_lines(self.path / "problems.jsonl"))

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]], *, lasting: bool = False) -> None:
        path = self.path / name
        try:
            log.append(path, lines, lasting=lasting)
        except OSError as error:
            raise self._full(path, error) from error

    def _full(self, path: Path, error: Exception) -> RunError:
        return RunError(f"{path} could not be written ({error}); {self._advice}")


@dataclass
class _Told:
    """What problems.jsonl holds: how many of each iteration, and the reasons of each look.

    Such as `_Told(Counter({7: 2}), {(20, "hps: returned NaN for 2 of 8 pictures")})`.
    """

    counts: Counter[int]
    of_looks: set[tuple[int, str]]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> "_Told":
        """Of the log as it stands."""
        of_looks = {(line["look"], line["reason"]) for line in lines if line.get("look") is not None}
        return cls(Counter(line["iteration"] for line in lines), of_looks)

    def line(self, iteration: int, problem: Problem) -> dict[str, Any]:
        """A problem as its line, which is counted in."""
        line = {
            "iteration": iteration,
            # Training and the look after it tell of one iteration: counted on, so that a lost line leaves a gap.
            "number": self.counts[iteration],
            "reward": problem.reward,
            "rows": problem.rows,
            "reason": str(problem),
        }
        self.counts[iteration] += 1
        if problem.look is None:
            return line
        self.of_looks.add((problem.look, str(problem)))
        return {**line, "look": problem.look}


def _is_free(path: Path) -> bool:
    """Whether a folder is empty but for what a start left that failed, or was killed, before it was a run."""
    if not path.is_dir():
        return False
    unfinished = {".lock", *(item.name for item in entries.leftovers(path))}
    begun = path / "environment.json"
    if begun.is_file() and not begun.is_symlink() and '"format"' in begun.read_text(encoding="utf-8", errors="replace"):
        unfinished.add(begun.name)
    return all(item.name in unfinished for item in path.iterdir())

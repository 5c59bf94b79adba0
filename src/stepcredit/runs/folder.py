"""The run folder: plain files that anybody can read without this package.

run.yaml               the resolved recipe
environment.json       versions, commit, device, reward fingerprints
metrics.jsonl          one line per iteration
problems.jsonl         what could not be scored, and why: iteration, reward, rows of the batch, reason; of held-out
                       captions also the number of their look
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
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import save_file

from stepcredit.errors import RunError
from stepcredit.files.text import write_json, write_text
from stepcredit.records import Credit, Problem, RewardTable, StepReport
from stepcredit.runs import looks
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT, RunReader, read_lines

_ADVICE = "the run ends here, its checkpoints are whole. Make room, then go on with: stepcredit train --resume"


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
        # a .lock alone is what is left of a start that failed before it wrote anything
        if path.exists() and (not path.is_dir() or any(item.name != ".lock" for item in path.iterdir())):
            resumes = f" To go on with it: stepcredit train --resume {path}" if (path / "run.yaml").is_file() else ""
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
        if not (path / "run.yaml").is_file():
            raise RunError(f"{path} is not a run: it has no run.yaml. Give the folder that `stepcredit train` printed")
        run = RunReader(path)
        if run.format != FORMAT:
            raise RunError(
                f"{path} was written by stepcredit {run.version}, and its recipe has the keys of then: go on with it "
                "in that version, or start a new run with the new keys; show, report and compare still read it"
            )
        return cls(path)

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    def rewind(self, iterations: int) -> None:
        """Forget what was written after so many finished iterations; it will be written again."""
        for name in ("metrics.jsonl", "problems.jsonl"):
            path = self.path / name
            earlier = [line for line in read_lines(path) if line["iteration"] < iterations]
            self.write_text(name, "".join(json.dumps(line) + "\n" for line in earlier))
        for path in (self.path / "credit").glob("*.safetensors*"):
            if path.suffix != ".safetensors" or int(path.stem) >= iterations:
                path.unlink()
        for path in (self.path / "samples").glob("[0-9.]*"):
            if path.name.startswith(".") or int(path.name) > iterations:
                shutil.rmtree(path)
        for path in self.checkpoints.glob("[0-9.]*"):  # newer ones are damaged, or it would go on from them
            if path.name.startswith(".") or int(path.name) > iterations:
                shutil.rmtree(path)
        for name in ("result.json", "before_after.png", "before_after.webp"):
            (self.path / name).unlink(missing_ok=True)

    def spent(self) -> float:
        """Network forwards of the iterations so far."""
        return float(sum(line["cost/forwards"] for line in read_lines(self.path / "metrics.jsonl")))

    def write_text(self, name: str, text: str) -> None:
        write_text(self.path / name, text, advice=_ADVICE)

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path / name, value, advice=_ADVICE)

    def look(self, snapshot: Look, pictured: Collection[int]) -> None:
        """Store a look at held-out captions, with the pictures of the rows in `pictured`."""
        path = self.path / "samples" / f"{snapshot.iteration:06d}"
        try:
            looks.write(path, snapshot, pictured)
        except OSError as error:
            raise _full(path, error) from error

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
        notes = {"objectives": json.dumps(rewards.names), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        path = self.path / "credit" / f"{iteration:06d}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            # safetensors writes the memory as it lies: a transposed view would come back scrambled
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, f"{path}.writing", notes)
            os.replace(f"{path}.writing", path)
        except Exception as error:  # safetensors has an exception of its own for a full disk
            raise _full(path, error) from error

    # Tracker
    def log(self, report: StepReport) -> None:
        # JSON has no NaN, and many readers refuse the one that Python writes
        values = {name: value if math.isfinite(value) else None for name, value in report.metrics.items()}
        self._append("metrics.jsonl", [{"iteration": report.iteration, **values}])

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        lines: list[dict[str, Any]] = []
        for problem in problems:
            line = {"iteration": iteration, "reward": problem.reward, "rows": problem.rows, "reason": str(problem)}
            lines.append(line if problem.look is None else {**line, "look": problem.look})
        self._append("problems.jsonl", [line for line in lines if "look" not in line or not self._is_told(line)])

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        pass  # a look has them already

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        pass  # the credit file has them already

    def close(self) -> None:
        pass

    def _is_told(self, line: Mapping[str, Any]) -> bool:
        """Whether a problem of a look is written already: a run that goes on may look again where it has looked."""
        earlier = read_lines(self.path / "problems.jsonl")
        return (line["look"], line["reason"]) in [(item.get("look"), item["reason"]) for item in earlier]

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        path = self.path / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise _full(path, error) from error


def _full(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} could not be written ({error}); {_ADVICE}")

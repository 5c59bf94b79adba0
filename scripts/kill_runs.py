"""Kills commands at random moments, repeats them, and compares what is there with a run that nobody killed.

python scripts/kill_runs.py --kills 100 --seed 0

Killed are training, a run that is just being gone on with, `evaluate`, `export` and `report`, two of three times with
`kill -9`, else with SIGTERM. After every kill the run must be readable and nothing in it be taken for whole that is
not; the command is given again and must succeed. What must be equal, bit for bit: metrics (all but the seconds),
credit, looks at held-out captions, pictures, every file of the last checkpoint, evaluations, the export, the report.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from safetensors import safe_open

from stepcredit.cli import main as command_line

FLAGS = {
    "threads": 1,
    "policy.surface.rank": 8,
    "rollout.prompts": 4,
    "rollout.group_size": 4,
    "rollout.steps": 4,
    "training.iterations": 24,
    "evaluation.count": 48,
    "evaluation.watch": 24,
    "evaluation.every": 6,
    "output.checkpoint_every": 3,
}
PER_RUN = 6  # kills of one run before it may finish
COMMANDS = ("stepcredit.api", "stepcredit.viewer.report", "stepcredit.viewer.terminal")
"""Modules of the commands, which import them when they run."""

FORK = multiprocessing.get_context("fork")

RUN = ("credit/*.safetensors", "samples/*/*", "checkpoints/000024/**/*", "result.json", "before_after.png")
LATER = ("evaluations/*", "export/**/*", "report.html")


class Command:
    """A command in a process of its own; what it says goes to a file."""

    def __init__(self, arguments: Sequence[str], place: Path) -> None:
        self.arguments = arguments
        self.spoken = place / "spoken.txt"
        self._process = FORK.Process(target=_speak_to, args=(self.spoken, arguments))
        self._process.start()

    def is_running(self) -> bool:
        return self._process.is_alive()

    def end_by(self, number: signal.Signals) -> bool:
        """Send a signal and wait; whether the command was still running."""
        if not self.is_running() or self._process.pid is None:
            return False
        os.kill(self._process.pid, number)
        self._process.join()
        # One that was through at that moment ends with 0, as if nobody had sent anything.
        return self._process.exitcode != 0

    def finish(self) -> str | None:
        """Wait for a command that nobody kills; what went wrong, if anything."""
        self._process.join()
        if self._process.exitcode == 0:
            return None
        lines = self.spoken.read_text(errors="replace").strip().splitlines() or [""]
        return f"{self.arguments[0]} ended with {self._process.exitcode}: {lines[-1][:300]}"


def _speak_to(file: Path, arguments: Sequence[str]) -> None:
    with file.open("wb") as spoken:
        os.dup2(spoken.fileno(), 1)
        os.dup2(spoken.fileno(), 2)
    command_line(list(arguments))


def new(folder: Path) -> list[str]:
    """The arguments of a run that starts from nothing."""
    flags = [part for key, value in FLAGS.items() for part in (f"--{key}", str(value))]
    return ["train", *flags, "--output.folder", str(folder)]


def go_on(folder: Path) -> list[str]:
    return ["train", "--resume", str(folder)]


@dataclass
class Score:
    """What became of the kills, e.g. `Score(Counter(evaluate=3), lost=[], differing=[])`."""

    kills: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def repeated(self, what: str, failure: str | None) -> None:
        if failure is not None:
            self.lost.append(f"{what}: {failure}")
            print(f"  LOST: {failure}", flush=True)

    def compared(self, what: str, different: Sequence[str]) -> None:
        if different:
            self.differing.append(f"{what}: {', '.join(different[:5])}")
            print(f"  DIFFERS in {', '.join(different[:5])}", flush=True)


def deadly(chooser: random.Random) -> signal.Signals:
    return chooser.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))


# Training, and going on with it


def in_training(command: Command, folder: Path, chooser: random.Random) -> None:
    """Wait until an iteration is written, and a while."""
    metrics = folder / "metrics.jsonl"
    before = size(metrics)
    while command.is_running() and size(metrics) == before:
        time.sleep(0.005)
    time.sleep(chooser.uniform(0, 1.5))


def in_checkpoint(command: Command, folder: Path, chooser: random.Random) -> None:
    """Wait until a checkpoint is half-written."""
    after = newest(folder) + chooser.choice((0, 3, 6))
    # Written in milliseconds: looked for more rarely, it would be missed.
    while command.is_running() and not (newest(folder) >= after and list((folder / "checkpoints").glob(".*"))):
        time.sleep(0.0005)
    time.sleep(chooser.uniform(0, 0.03))


def in_going_on(command: Command, folder: Path, chooser: random.Random) -> None:
    """Wait for a moment within the seconds in which models are loaded and a run is put back."""
    time.sleep(chooser.uniform(0, 2.5))


MOMENTS: Mapping[str, Callable[[Command, Path, random.Random], None]] = {
    "training": in_training,
    "going on": in_going_on,
    "checkpoint": in_checkpoint,
}


def kill_a_run(folder: Path, place: Path, chooser: random.Random, score: Score, most: int) -> None:
    """Start a run, kill it and go on with it a few times, and let it finish."""
    for moment in [*MOMENTS, *MOMENTS][: min(PER_RUN, most)]:
        is_there = (folder / "run.yaml").is_file()
        command = Command(go_on(folder) if is_there else new(folder), place)
        # A run that is not there yet has nothing to go on with.
        (MOMENTS[moment] if is_there else in_training)(command, folder, chooser)
        number = deadly(chooser)
        if not command.end_by(number):
            break
        score.kills[moment] += 1
        print(
            f"{score.kills.total():4d} {folder.name}, {moment}: {number.name} after {iterations(folder)} iterations",
            flush=True,
        )
        score.repeated(folder.name, Command(["show", str(folder)], place).finish())
    score.repeated(folder.name, Command(go_on(folder), place).finish())


# What is done with a finished run


def kill_on_finished(
    what: str, reference: Path, folder: Path, duration: float, place: Path, chooser: random.Random, score: Score
) -> None:
    """Kill one command on a finished run, look at what it left, and give it again."""
    command = Command([what, str(folder)], place)
    time.sleep(chooser.uniform(0, duration))
    number = deadly(chooser)
    if not command.end_by(number):
        return
    score.kills[what] += 1
    print(f"{score.kills.total():4d} {what}: {number.name}", flush=True)
    # Whatever has its own name must be whole; what is half-written has a hidden one.
    score.compared(f"{what}, as it was left", half(reference, folder))
    score.repeated(what, Command(["show", str(folder)], place).finish())
    score.repeated(what, Command([what, str(folder)], place).finish())
    score.compared(what, same(reference, folder, (*RUN, *LATER)))
    if chooser.random() < 0.5:  # the next command finds something there, or nothing
        for pattern in LATER:
            for path in sorted(folder.glob(pattern.split("/")[0])):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        score.repeated("again", do_all(folder, place)[0])


def do_all(folder: Path, place: Path) -> tuple[str | None, dict[str, float]]:
    """Every command on a finished run; what went wrong, and how long each takes."""
    durations: dict[str, float] = {}
    for what in ("evaluate", "export", "report"):
        began = time.perf_counter()
        failure = Command([what, str(folder)], place).finish()
        durations[what] = time.perf_counter() - began
        if failure is not None:
            return failure, durations
    return None, durations


# What is compared


def half(reference: Path, folder: Path) -> list[str]:
    """Files that are there under their own names and are not what they should be; what is missing is not yet there."""
    there = {path: value for pattern in (*RUN, *LATER) for path, value in contents(folder, pattern).items()}
    wanted = {path: value for pattern in (*RUN, *LATER) for path, value in contents(reference, pattern).items()}
    return [str(path) for path, value in there.items() if wanted.get(path) != value]


def same(one: Path, other: Path, patterns: Sequence[str] = RUN) -> list[str]:
    """What differs between two run folders."""
    different = [] if timeless_metrics(one) == timeless_metrics(other) else ["metrics.jsonl"]
    for pattern in patterns:
        first = contents(one, pattern)
        second = contents(other, pattern)
        different += [str(name) for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
        if not first:  # two folders without a file are equal, and nothing was compared
            different.append(f"no {pattern}")
    return different


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def newest(folder: Path) -> int:
    """Iterations of the last checkpoint that is whole."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")), default=0)


def iterations(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return sum(1 for _ in path.open("rb")) if path.exists() else 0


def timeless_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the seconds, which nobody can repeat."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in [
            name for name in line if name.startswith("time/") or name == "seal"
        ]:  # which is of the seconds, too
            del line[name]
    return lines


def contents(run: Path, pattern: str) -> dict[Path, object]:
    """What the files of a run hold, by their place in it."""
    return {
        path.relative_to(run): content(path) for path in run.glob(pattern) if path.is_file() and is_named(path, run)
    }


def is_named(path: Path, run: Path) -> bool:
    """Whether nobody is writing it any more: until then it, or its folder, has a hidden name."""
    return not any(part.startswith(".") for part in path.relative_to(run).parts)


def content(path: Path) -> object:
    """The bytes; of safetensors the tensors and notes, whose order in the file is free; of state.json no checksums."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    if path.name == "state.json":
        timed = ("files", "sha256", "standing")  # digests of files that hold seconds
        return {key: value for key, value in json.loads(path.read_text()).items() if key not in timed}
    return path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chooser = random.Random(options.seed)
    score = Score()
    # Once, here: a command then costs a fork and no start of the interpreter. Nothing is computed in this process.
    for module in COMMANDS:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        reference = place / "reference" / "run"
        score.repeated("the run that nobody kills", Command(new(reference), place).finish())
        failure, durations = do_all(reference, place)
        score.repeated("the run that nobody kills", failure)
        # Of the same name in another place: reports and cards say what a run is called.
        finished = place / "finished" / "run"
        shutil.copytree(reference, finished)
        number = 0
        for what in cycle(("a run", *durations, *durations)):
            if score.kills.total() >= options.kills or score.lost:
                break
            if what == "a run":
                number += 1
                folder = place / f"killed-{number}"
                kill_a_run(folder, place, chooser, score, options.kills - score.kills.total())
                score.compared(folder.name, same(reference, folder))
                shutil.rmtree(folder)
            else:
                kill_on_finished(what, reference, finished, durations[what], place, chooser, score)
    kinds = ", ".join(f"{count} in {what}" for what, count in score.kills.items())
    print(f"{score.kills.total()} kills ({kinds}): {len(score.lost)} lost, {len(score.differing)} wrong")
    sys.exit(bool(score.lost or score.differing))


if __name__ == "__main__":
    main()

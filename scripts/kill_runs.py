"""Kills scenes runs with `kill -9` at random moments, resumes them, and compares them with a run that nobody killed.

python scripts/kill_runs.py --kills 20 --seed 0

Every third kill waits for a checkpoint to be half-written. What must be equal: metrics (all but the seconds), credit,
looks at held-out captions, pictures, and every file of the last checkpoint, bit for bit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors import safe_open

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
PER_RUN = 4  # kills of one run before it may finish


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """`stepcredit train` in a process of its own, with nobody to catch a signal for it."""
    command = [sys.executable, "-m", "stepcredit", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that nobody kills; its failure is the end."""
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"a run that nobody killed ended with {process.returncode}:\n{errors.decode()}")


def new(folder: Path) -> list[str]:
    """The arguments of a run that starts from nothing."""
    flags = [part for key, value in FLAGS.items() for part in (f"--{key}", str(value))]
    return [*flags, "--output.folder", str(folder)]


def kill(process: subprocess.Popen[bytes], folder: Path, chooser: random.Random, *, inside_checkpoint: bool) -> str:
    """Wait for the run to be training (or to write a checkpoint), then kill it; says where."""
    metrics = folder / "metrics.jsonl"
    checkpoints = folder / "checkpoints"
    before = metrics.stat().st_size if metrics.exists() else 0
    if inside_checkpoint:
        # A checkpoint is written in milliseconds: looked for more rarely, it would be missed.
        while process.poll() is None and not list(checkpoints.glob(".*.writing")):
            time.sleep(0.0005)
        time.sleep(chooser.uniform(0, 0.05))
    else:
        while process.poll() is None and (metrics.stat().st_size if metrics.exists() else 0) == before:
            time.sleep(0.005)
        time.sleep(chooser.uniform(0, 3.0))
    if process.poll() is not None:
        return "had finished"
    # Asked before the kill: the folder that is being written has a name of its own until it is whole.
    half = bool(list(checkpoints.glob(".*.writing")))
    process.kill()
    process.communicate()
    done = sum(1 for _ in metrics.open("rb")) if metrics.exists() else 0
    return f"killed after {done} iterations" + (", inside a checkpoint" if half else "")


COMPARED = ("credit/*.safetensors", "samples/*/*", "checkpoints/000024/**/*", "result.json", "before_after.png")


def same(one: Path, other: Path) -> list[str]:
    """What differs between two run folders."""
    different = [] if timeless_metrics(one) == timeless_metrics(other) else ["metrics.jsonl"]
    for pattern in COMPARED:
        first = contents(one, pattern)
        second = contents(other, pattern)
        different += [str(name) for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
        if not first:  # two folders without a file are equal, and nothing was compared
            different.append(f"no {pattern}")
    return different


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
    return {path.relative_to(run): content(path) for path in run.glob(pattern) if path.is_file()}


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
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place) / "reference"
        finish(start(new(reference)))
        kills = inside = bad = 0
        number = 0
        while kills < options.kills:
            number += 1
            folder = Path(place) / f"killed-{number}"
            for _ in range(min(PER_RUN, options.kills - kills)):
                process = start(["--resume", str(folder)] if (folder / "run.yaml").is_file() else new(folder))
                what = kill(process, folder, chooser, inside_checkpoint=kills % 3 == 2)
                if what == "had finished":
                    break
                kills += 1
                inside += "inside" in what
                print(f"kill {kills:2d}, run {number}: {what}", flush=True)
            finish(start(["--resume", str(folder)]))
            different = same(reference, folder)
            bad += bool(different)
            verdict = f"DIFFERS in {', '.join(different[:5])}" if different else "equal"
            print(f"run {number} resumed: {verdict}", flush=True)
    print(f"{kills} kills, {inside} of them inside a checkpoint; {number} runs, {number - bad} equal")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

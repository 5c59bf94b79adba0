"""Trains a small scenes run for hours and watches its process: memory, open files and threads must not grow.

python scripts/soak.py --hours 2

The run looks, saves, stores credit and writes its report as often as it can. At the end it gets a SIGTERM and has to
save and say so. Growth is judged over the last half, where warm-up is over: a straight line through the memory, with a
95 % interval of its slope from the means of ten stretches (neighbouring samples are alike, stretches are not).
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from scipy import stats

FLAGS = {
    "threads": 1,
    "policy.surface.rank": 8,
    "rollout.prompts": 2,
    "rollout.group_size": 4,
    "rollout.steps": 4,
    "training.iterations": 100_000,
    "evaluation.count": 32,
    "evaluation.watch": 16,
    "evaluation.every": 10,
    "output.checkpoint_every": 5,
}
ALLOWED = 8.0  # MB an hour; a picture that is kept by mistake at every look would be ten times as much
STRETCHES = 10


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The run, with its words in a file beside it: a pipe that nobody reads would fill and stop it."""
    flags = [word for key, value in FLAGS.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "stepcredit", "train", *flags, "--output.folder", str(folder)]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def watch(process: subprocess.Popen[bytes], *, seconds: float, every: float, log: Path) -> list[dict[str, float]]:
    """Samples of the process until its time is over or it has ended; each is written down at once."""
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    observed = psutil.Process(process.pid)
    while (passed := time.monotonic() - began) < seconds and process.poll() is None:
        sample = {
            "hours": passed / 3600,
            "megabytes": observed.memory_info().rss / 1e6,
            "files": observed.num_fds(),
            "threads": observed.num_threads(),
        }
        samples.append(sample)
        with log.open("a") as file:
            file.write(json.dumps(sample) + "\n")
        time.sleep(every)
    return samples


def slope(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Growth an hour, and half of its 95 % interval."""
    middles = [part.mean() for part in np.array_split(hours, STRETCHES)]
    means = [part.mean() for part in np.array_split(values, STRETCHES)]
    (growth, _), covariance = np.polyfit(middles, means, 1, cov=True)
    return float(growth), float(np.sqrt(covariance[0, 0]) * stats.t.ppf(0.975, STRETCHES - 2))


def judge(samples: list[dict[str, float]]) -> list[str]:
    """Prints how the last half went; returns what grew."""
    half = samples[len(samples) // 2 :]
    hours = np.array([sample["hours"] for sample in half])
    growth, margin = slope(hours, np.array([sample["megabytes"] for sample in half]))
    print(f"memory {half[0]['megabytes']:,.0f} to {half[-1]['megabytes']:,.0f} MB, {growth:+.1f} ± {margin:.1f} MB/h")
    grown = ["memory"] if growth - margin > ALLOWED else []
    for name in ("files", "threads"):
        values = np.array([sample[name] for sample in half])
        early, late = (part.max() for part in np.array_split(values, 2))
        print(f"{name} {values.min():.0f} to {values.max():.0f}; at most {early:.0f}, then {late:.0f}")
        # What a look or a save opens for a moment is seen or not; more than that has stayed open.
        if late > early + 3:
            grown.append(name)
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        process = start(folder)
        samples = watch(process, seconds=options.hours * 3600, every=options.every, log=options.log)
        ended_early = process.poll() is not None
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=300)
        said = folder.with_suffix(".log").read_text().strip().splitlines()
        iterations = len((folder / "metrics.jsonl").read_text().splitlines())
    print(f"{iterations:,} iterations in {samples[-1]['hours']:.2f} h; exit code {code}; last words: {said[-1]}")
    grown = judge(samples)
    stopped_well = not ended_early and code == 128 + signal.SIGTERM
    if grown or not stopped_well:
        sys.exit(f"grew: {', '.join(grown) or 'nothing'}; stopped as it should: {stopped_well}")


if __name__ == "__main__":
    main()

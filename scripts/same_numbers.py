"""Proof that a refactor moved no number: short runs of every method under an older commit and under this checkout.

    python scripts/same_numbers.py 3af56c7                      every method on both embedded worlds
    python scripts/same_numbers.py 3af56c7 --only otca pcpo     some of them
    python scripts/same_numbers.py HEAD~1 --share-states        shared states computed once: equal but for rounding

Each case is trained for two iterations from the same seed, small: metrics but the seconds, credit, looks with their
pictures, and every tensor of the last checkpoint are compared bit by bit; the largest difference is shown where there
is one. What only the newer one writes is left out. The older commit is checked out beside this one and removed
afterwards. Exit code 1 if anything differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent.parent
WORLDS = {"scenes": "recipes/scenes/otca.yaml", "video": "recipes/scenes_video/otca.yaml"}
METHODS = (
    *("otca", "tcd", "moca", "pcpo", "coca", "dance_grpo", "flow_grpo", "flow_cps", "flow_dppo", "grpo_guard"),
    *("tempflow_grpo", "flash_grpo", "gdpo", "mgda", "ddpo", "dpok"),
)
SMALL = {
    "rollout.prompts": 2,
    "rollout.group_size": 4,
    "rollout.steps": 5,
    "training.iterations": 2,
    "training.updates": 2,
    "training.micro_batch": 5,  # several batches, so that sums over them are compared as well
    "training.ema": 0.9,
    "optimiser.learning_rate": 1e-3,
    "evaluation.count": 8,
    "evaluation.watch": 8,
    "evaluation.every": 1,
    "evaluation.steps": 3,
    "output.checkpoint_every": 1,
    "output.report": False,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "otca, ours": ("otca", {"compared": "predictions", "recentred": True, "objective_floor": 0.5, "floor": 0.2}),
    "otca, last step": ("otca", {"train_last": True, "noise_level": 0.7}),
    "otca, noisy end": ("otca", {"final_state": "x_N", "step_mix": True, "centred": True}),
    "dance, video": ("dance_grpo", {"mix_of": "losses", "best_of": 2, "timestep_fraction": 0.6}),
    "flow, fast": ("flow_grpo", {"window": {"size": 2, "end": 4}, "clip": 1e-5, "kl_weight": 0.1}),
    "pcpo, ddim": ("pcpo", {"kernel": "ddim", "noise_level": 0.5}),
}
"""Settings in one flat table, as they were before methods were composed."""

WORKER = """
import json, sys
from pathlib import Path
import rich.console
import stepcredit
quiet = rich.console.Console(quiet=True)
for case in json.loads(Path(sys.argv[1]).read_text()):
    stepcredit.train(case["recipe"], console=quiet, **case["settings"])
    print(case["name"], flush=True)
"""


def composed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings of a method with the keys of composed methods."""
    places = {
        "kernel": "sampler.type",
        **{key: f"sampler.{key}" for key in ("noise_level", "train_last", "final_state")},
        **{key: f"plan.{key}" for key in ("shared_noise", "window", "timestep_fraction", "best_of")},
        **{key: f"objective.{key}" for key in ("profile", "place", "preserve", "form", "kl_weight", "kl_form")},
        "head": "objective.loss.type",
        "clip": "objective.loss.clip",
    }
    return {places.get(key, f"rule.{key}"): value for key, value in settings.items()}


def cases(only: list[str], folder: Path, *, flat: bool, extra: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What one side trains."""
    chosen = {name: (name, {}) for name in METHODS} | VARIANTS
    chosen["flow_grpo"] = ("flow_grpo", {"kl_weight": 0.04})  # its default, which the video twin's recipe changes
    for world, recipe in WORLDS.items():
        for name, (method, settings) in chosen.items():
            if only and name not in only:
                continue
            # A model's recipe may give a method a noise level of its own; here every case says its own.
            settings = {"noise_level": 0.7, **settings}
            own = settings if flat else composed(settings)
            yield {
                "name": f"{world}: {name}",
                "recipe": recipe,
                "settings": {
                    "method.type": method,
                    **{f"method.{key}": value for key, value in own.items()},
                    **SMALL,
                    **extra,
                    "output.folder": str(folder / f"{world}-{name}".replace(", ", "-").replace(" ", "_")),
                },
            }


def train(source: Path, todo: list[dict[str, Any]], folder: Path) -> None:
    """Train all cases with the package in `source`, in one process."""
    folder.mkdir(parents=True)
    plan = folder / "cases.json"
    plan.write_text(json.dumps(todo))
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", WORKER, str(plan)], env=environment, cwd=folder, check=True)


def numbers(run: Path) -> dict[str, np.ndarray | bytes]:
    """Everything of a run folder that must not move, by name."""
    content: dict[str, np.ndarray | bytes] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for key, value in values.items():
            if key not in ("time/seconds", "seal"):  # a line's seal is of its seconds, too
                content[f"metrics/{values['iteration']}/{key}"] = np.array(np.nan if value is None else value)
    last = sorted((run / "checkpoints").iterdir())[-1]
    for path in [*run.glob("credit/*.safetensors"), *last.rglob("*.safetensors")]:
        for key, array in load_file(path).items():
            content[f"{path.relative_to(run)}/{key}"] = array
    for path in run.glob("samples/*/*"):
        if path.suffix == ".jsonl":
            scores = [json.loads(line)["scores"] for line in path.read_text().splitlines()]
            content[str(path.relative_to(run))] = json.dumps(scores).encode()
        elif path.suffix != ".json":
            content[str(path.relative_to(run))] = path.read_bytes()
    return content


def differences(before: Path, after: Path) -> dict[str, str]:
    """What of the older run differs in the newer one, and how far; a number that is new has nothing to differ from."""
    old = numbers(before)
    new = numbers(after)
    found = dict.fromkeys(old.keys() - new.keys(), "missing")
    for name in old.keys() & new.keys():
        left = old[name]
        right = new[name]
        if isinstance(left, bytes) or isinstance(right, bytes):
            if left != right:
                found[name] = "other bytes"
        elif left.shape != right.shape:
            found[name] = f"shape {left.shape} and {right.shape}"
        elif not np.array_equal(left, right, equal_nan=True):
            found[name] = f"{np.nanmax(np.abs(left.astype(float) - right.astype(float))):.1e}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older commit")
    parser.add_argument("--only", nargs="*", default=[], help="methods or variants; all by default")
    parser.add_argument("--share-states", action="store_true", help="let this checkout compute shared states once")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    parser.add_argument("--show", type=int, default=4, help="differences to print for each case")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="same_numbers_"))
    older = work / "older"
    subprocess.run(
        ["git", "worktree", "add", "--detach", "--quiet", str(older), arguments.commit], cwd=HERE, check=True
    )
    try:
        flat = (older / "src" / "stepcredit" / "config").is_dir()  # before methods were composed
        extra = {} if arguments.share_states else {"rollout.share_states": False}
        runs = arguments.keep or work / "runs"
        before = list(cases(arguments.only, runs / "before", flat=flat, extra={} if flat else extra))
        after = list(cases(arguments.only, runs / "after", flat=False, extra=extra))
        train(older, before, runs / "before")
        train(HERE, after, runs / "after")
        failed = 0
        for one, two in zip(before, after, strict=True):
            found = differences(Path(one["settings"]["output.folder"]), Path(two["settings"]["output.folder"]))
            failed += bool(found)
            compared = len(numbers(Path(one["settings"]["output.folder"])))
            print(f"{one['name']:<32}{'equal' if not found else 'DIFFERS':<10}{compared:>6} arrays, values and files")
            for name in sorted(found)[: arguments.show]:
                print(f"    {name}: {found[name]}")
        print(f"{len(before) - failed} of {len(before)} cases are equal to the last bit")
        sys.exit(1 if failed else 0)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(older)], cwd=HERE, check=False)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

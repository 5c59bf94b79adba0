"""`stepcredit bench paper`: OTCA's tables on the drawn world. Every cell is an ordinary run folder, so it resumes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from stepcredit.build import build_parts
from stepcredit.errors import CreditError, RecipeError, RunError, nearest
from stepcredit.files.text import write_json
from stepcredit.methods import names
from stepcredit.parts.observers import CleanSimilarity, Similarity
from stepcredit.parts.sampling import DanceSDE
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe, method_named
from stepcredit.records import Key, RewardBatch
from stepcredit.rollout.engine import decode
from stepcredit.runs.reader import RunReader, read_lines
from stepcredit.settings.keys import flatten
from stepcredit.studies.proxy import validate

_ENOUGH = 1_000_000  # iterations: the budget ends a run
RECIPE = "recipes/scenes/otca.yaml"
_NOISE = {
    "sampler": {"noise_level": 0.7}
}  # 6 steps instead of 16: what every method on the constant-noise sampler gets here

ARMS: dict[str, dict[str, Any]] = {
    "flow_grpo": {"type": "flow_grpo"},
    "dance_grpo": {"type": "dance_grpo", **_NOISE},
    "pcpo": {"type": "pcpo", **_NOISE},
    "tcd": {"type": "tcd", **_NOISE},
    "moca": {"type": "moca", **_NOISE},
    "otca": {"type": "otca", **_NOISE},
    "otca_balanced": {"type": "otca", "rule": {"recentred": True, "objective_floor": 0.5}, **_NOISE},
    "otca_ours": {
        "type": "otca",
        "rule": {"compared": "predictions", "recentred": True, "objective_floor": 0.5},
        **_NOISE,
    },
}
"""The rows of the tables: the paper's, PCPO, and two variants of OTCA: objectives repaired, and steps repaired too."""


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    arm: str
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    def command(self, flags: Sequence[str]) -> list[str]:
        """What trains it, or goes on with it."""
        start = [sys.executable, "-m", "stepcredit", "train"]
        if (self.folder / "run.yaml").is_file():
            return [*start, "--resume", str(self.folder)]
        settings = [f"--method.{key}={json.dumps(value)}" for key, value in flatten(arm(self.arm)).items()]
        own = ["--seed", str(self.seed), "--output.folder", str(self.folder), "--output.report", "false"]
        return [*start, RECIPE, *settings, *own, *flags]


def arm(name: str) -> dict[str, Any]:
    """Settings of a row: one of `ARMS`, or any method of the folder (or `package.module`) at its own settings."""
    if name in ARMS:
        return ARMS[name]
    if name not in names() and "." not in name:
        raise RecipeError(f'there is no row or method "{name}"; {nearest(name, [*ARMS, *names()])}')
    same = method_named(name).sampler == DanceSDE(noise_level=0.3)
    return {"type": name, **(_NOISE if same else {})}


def cells(folder: Path, arms: Sequence[str], seeds: int) -> list[Cell]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [Cell(name, seed, folder / f"{name}-{seed}") for seed in range(seeds) for name in arms]


def train_all(todo: Sequence[Cell], flags: Sequence[str], *, budget: int, workers: int, console: Console) -> None:
    """Train what is not finished, `workers` at a time, each in a process of its own; the first failure ends it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    threads = ["--threads", str(max(1, (os.cpu_count() or 1) // workers))]
    open_ = [cell for cell in todo if not cell.finished]
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(workers) as pool:
        whole = progress.add_task("[bold]all runs", total=len(todo), completed=len(todo) - len(open_))
        running: dict[Future[None], tuple[Cell, Any]] = {}
        alive: set[subprocess.Popen[bytes]] = set()
        waiting = list(open_)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    cell = waiting.pop(0)
                    bar = progress.add_task(f"{cell.arm} {cell.seed}", total=budget)
                    running[pool.submit(_train, cell, [*flags, *threads], alive)] = cell, bar
                done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for cell, bar in running.values():
                    progress.update(bar, completed=min(budget, _spent(cell.folder)))
                for future in done:
                    _, bar = running.pop(future)
                    future.result()
                    progress.remove_task(bar)
                    progress.advance(whole)
        except BaseException:
            for process in list(alive):
                process.terminate()  # it saves, so that the study goes on there
            raise


def _train(cell: Cell, flags: Sequence[str], alive: set[subprocess.Popen[bytes]]) -> None:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    log = cell.folder.with_name(f"{cell.folder.name}.log")  # a name of package.module has a dot of its own
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(cell.command(flags), stdout=file, stderr=file)
        alive.add(process)
        code = process.wait()
        alive.discard(process)
    if code != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RunError(f"{cell.folder} ended with code {code}: {''.join(last)} (all of it: {log})")


def _check_same_study(todo: Sequence[Cell], wanted: Recipe) -> None:
    """Runs of another budget do not belong into one table."""
    asked = {"training.budget": wanted.training.budget, "evaluation.count": wanted.evaluation.count}
    for cell in todo:
        own = flatten(RunReader(cell.folder).recipe) if (cell.folder / "run.yaml").is_file() else asked
        for key, value in asked.items():
            if own.get(key) != value:
                raise RunError(
                    f"{cell.folder} has {key} {own.get(key)}, and this study asks for {value}; "
                    f"give --{key.split('.')[1]} {own.get(key)}, or another --folder"
                )


def _spent(folder: Path) -> float:
    return float(sum(line["cost/forwards"] for line in read_lines(folder / "metrics.jsonl")))


def results(folder: Path, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """Every finished cell as plain data: gains by score and seed, costs, curves of the training rewards."""
    found: dict[str, Any] = {"arms": {}, "base": {}}
    for name in arms:
        runs = [RunReader(cell.folder) for cell in cells(folder, [name], seeds) if cell.finished]
        if not runs:
            continue
        rows = [{row["name"]: row for row in (run.result() or {})["rows"]} for run in runs]
        found["base"] |= {score: row["base"] for score, row in rows[0].items()}
        found["trained"] = runs[0].trained
        found["pictures"] = (runs[0].result() or {})["pictures"]
        found["arms"][name] = {
            "seeds": [run.recipe["seed"] for run in runs],
            "gains": {score: [row[score]["difference"] for row in rows] for score in rows[0]},
            "forwards": [_spent(run.path) for run in runs],
            "iterations": [len(run.metrics()) for run in runs],
            "curves": [_curve(run) for run in runs],
        }
    return found


def _curve(run: RunReader) -> dict[str, list[float]]:
    """Cost so far and the mean training rewards of every iteration."""
    lines = run.metrics()
    spent = np.cumsum([line["cost/forwards"] for line in lines]).tolist()
    return {"forwards": spent, **{name: [line[f"reward/{name}"] for line in lines] for name in run.trained}}


def study_proxy(folder: Path, flags: Sequence[str], *, prompts: int, group_size: int, steps: int) -> dict[str, Any]:
    """Table 5 on the base model: every latent and every clean prediction is decoded and scored.

    Kept in proxy.json; measured once.
    """
    path = folder / "proxy.json"
    size = {"prompts": prompts, "group_size": group_size, "steps": steps}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["size"] == size and kept.get("flags", list(flags)) == list(flags):
            return kept
    changed = [f"--rollout.{key}={value}" for key, value in size.items()]
    recipe = load_recipe(RECIPE, [*flags, *changed, "--method.sampler.noise_level", "0.3"])
    parts, _ = build_parts(recipe)
    key = Key(recipe.seed, iteration=0)
    drawn = parts.prompts.draw(prompts, key)
    rollout = replace(parts.roll_out, observers=[Similarity(), CleanSimilarity()])(drawn, key)
    latents = rollout.latents
    levels = rollout.sampler.levels[:-1].to(latents).view(-1, *(1,) * (latents.ndim - 3))
    clean = latents[:, :, :-1] - levels * rollout.velocities
    repeated = tuple(prompt for prompt in drawn for _ in range(group_size))
    groups = tuple(group for group in range(prompts) for _ in range(group_size))

    def scored(latents: Any) -> np.ndarray:
        columns = []
        for step in range(latents.shape[2]):
            images = decode(parts.policy, latents[:, :, step].flatten(0, 1), recipe.rollout.micro_batch)
            columns.append(parts.rewards.score(RewardBatch(images, repeated, groups, parts.policy.fps))[0])
        return np.stack(columns, axis=1)  # [B, steps, K]

    seen = {name: tensor.flatten(0, 1).double().numpy() for name, tensor in rollout.seen.items()}
    similarity = np.diff(seen["similarity"], axis=1)[:, :-1]
    cleaner = np.diff(seen["clean_similarity"], axis=1)
    noisy_rewards = scored(latents[:, :, :-1])
    clean_rewards = scored(clean)
    found: dict[str, Any] = {"size": size, "flags": list(flags), "trajectories": len(repeated), "rows": {}}
    for k, name in enumerate(parts.rewards.names):
        noisy_gain, clean_gain = (np.diff(scores[..., k], axis=1) for scores in (noisy_rewards, clean_rewards))
        try:
            found["rows"][name] = {
                "noisy latent": validate(similarity, noisy_gain).plain(),
                "clean prediction": validate(cleaner, clean_gain).plain(),
                "noisy similarity, clean reward": validate(similarity, clean_gain).plain(),
            }
        except CreditError:
            continue  # a reward that scored nothing, or everything alike, has no gains to compare
    write_json(path, found)
    return found


def study(
    folder: Path,
    flags: Sequence[str],
    *,
    rows: Sequence[str] | None,
    seeds: int,
    budget: int,
    count: int,
    workers: int,
    proxy_prompts: int,
    train: bool,
    console: Console,
) -> dict[str, Any]:
    """Train what is missing, then gather everything."""
    chosen = list(rows or ARMS)
    for name in chosen:
        arm(name)  # a misspelt one must not cost hours
    settings = [
        f"--training.iterations={_ENOUGH}",
        f"--training.budget={budget}",
        f"--evaluation.count={count}",
        f"--evaluation.every={_ENOUGH}",
        "--output.checkpoint_every=15",
        "--output.keep=1",
        "--output.credit_every=10",
        *flags,
    ]
    wanted = load_recipe(RECIPE, settings)
    todo = cells(folder, chosen, seeds)
    _check_same_study(todo, wanted)
    budget = wanted.training.budget or budget
    if train:
        train_all(todo, settings, budget=budget, workers=workers, console=console)
    found = results(folder, chosen, seeds)
    if not found["arms"]:
        raise RunError(f"{folder} holds no finished run of {', '.join(chosen)}; run the study without --report")
    found |= {"budget": budget, "flags": list(flags)}
    with console.status("similarity gain against reward gain"):
        found["proxy"] = study_proxy(folder, flags, prompts=proxy_prompts, group_size=8, steps=16)
    return found

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
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import Tensor

from stepcredit.build import build_parts
from stepcredit.errors import CreditError, RecipeError, RunError, nearest
from stepcredit.files.text import write_json
from stepcredit.methods import names
from stepcredit.parts.observers import CleanSimilarity, Similarity
from stepcredit.parts.sampling import DanceSDE
from stepcredit.recipe.flags import laid_over
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe, method_named
from stepcredit.records import Key, Prompt, RewardBatch
from stepcredit.rewards.usable import score_usable
from stepcredit.rollout.decoding import decode
from stepcredit.runs.log import read_lines
from stepcredit.runs.reader import RunReader
from stepcredit.settings.keys import flatten
from stepcredit.studies.proxy import validate
from stepcredit.training.step import Parts

_ENOUGH = 1_000_000  # iterations: the budget ends a run
RECIPE = "recipes/scenes/otca.yaml"
# 6 steps instead of 16: what every method on the constant-noise sampler gets here.
_NOISE = {"sampler": {"noise_level": 0.7}}

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
    """One run of the study, such as `Cell(arm="otca_balanced", seed=2, folder=Path("runs/paper/otca_balanced-2"))`."""

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
        return [*start, RECIPE, *laid_over([*settings, *own], flags)]


def arm(name: str) -> dict[str, Any]:
    """Settings of a row: one of `ARMS`, or any method of the folder (or `package.module`) at its own settings."""
    if name in ARMS:
        return ARMS[name]
    if name not in names() and "." not in name:
        raise RecipeError(f'there is no row or method "{name}"; {nearest(name, [*ARMS, *names()])}')
    # Noise that a paper chose for another kernel, or for this one on purpose, is its own.
    constant_noise = method_named(name).sampler == DanceSDE(noise_level=0.3)
    return {"type": name, **(_NOISE if constant_noise else {})}


def cells(folder: Path, arms: Sequence[str], seeds: int) -> list[Cell]:
    """Seed by seed, so that an interrupted study has whole seeds."""
    return [Cell(name, seed, folder / f"{name}-{seed}") for seed in range(seeds) for name in arms]


def train_all(todo: Sequence[Cell], flags: Sequence[str], *, budget: int, workers: int, console: Console) -> None:
    """Train what is not finished, `workers` at a time, each in a process of its own; the first failure ends it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    # Processes share the cores: more threads than cores make all of them slower.
    threads = ["--threads", str(max(1, (os.cpu_count() or 1) // workers))]
    unfinished = [cell for cell in todo if not cell.finished]
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(workers) as pool:
        whole = progress.add_task("[bold]all runs", total=len(todo), completed=len(todo) - len(unfinished))
        alive: set[subprocess.Popen[bytes]] = set()
        try:
            running: dict[Future[None], _Watched] = {}
            waiting = list(unfinished)
            while waiting or running:
                while waiting and len(running) < workers:
                    cell = waiting.pop(0)
                    bar = progress.add_task(f"{cell.arm} {cell.seed}", total=budget)
                    running[pool.submit(_train, cell, laid_over(flags, threads), alive)] = _Watched(cell, bar)
                _watch(running, progress, whole, budget=budget)
        except BaseException:
            # Leaving the pool waits for its threads, and they for their processes: those have to be asked to end.
            for process in list(alive):
                process.terminate()  # it saves, so that the study goes on there
            raise


@dataclass(frozen=True)
class _Watched:
    """A cell in training and its progress bar."""

    cell: Cell
    bar: TaskID


def _watch(running: dict[Future[None], _Watched], progress: Progress, whole: TaskID, *, budget: int) -> None:
    """Wait a second at most; show how far everybody is, and take out who has finished. A failure is raised."""
    done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
    for watched in running.values():
        progress.update(watched.bar, completed=min(budget, _spent(watched.cell.folder)))
    for future in done:
        watched = running.pop(future)
        future.result()
        progress.remove_task(watched.bar)
        progress.advance(whole)


def _train(cell: Cell, flags: Sequence[str], alive: set[subprocess.Popen[bytes]]) -> None:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    log = cell.folder.with_name(f"{cell.folder.name}.log")  # a name of package.module has a dot of its own
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(cell.command(flags), stdout=file, stderr=file)
        alive.add(process)
        code = process.wait()
        alive.discard(process)
    if code != 0:
        # The last line is the error; before it are hours of progress. Nothing at all, if it was killed.
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RunError(f"{cell.folder} ended with code {code}: {''.join(last)} (all of it: {log})")


def _check_same_study(todo: Sequence[Cell], wanted: Recipe) -> None:
    """Runs of another budget do not belong into one table."""
    of_study = {"training.budget": wanted.training.budget, "evaluation.count": wanted.evaluation.count}
    for cell in todo:
        if not (cell.folder / "run.yaml").is_file():
            continue
        of_run = flatten(RunReader(cell.folder).recipe)
        for key, value in of_study.items():
            if of_run.get(key) != value:
                raise RunError(
                    f"{cell.folder} has {key} {of_run.get(key)}, and this study asks for {value}; "
                    f"give --{key.split('.')[1]} {of_run.get(key)}, or another --folder"
                )


def _spent(folder: Path) -> float:
    return float(sum(line["cost/forwards"] for line in read_lines(folder / "metrics.jsonl")))


def results(folder: Path, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """Every finished cell as plain data: gains by score and seed, costs, curves of the training rewards."""
    study: dict[str, Any] = {"arms": {}, "base": {}}
    for name in arms:
        runs = [RunReader(cell.folder) for cell in cells(folder, [name], seeds) if cell.finished]
        if not runs:
            continue
        scores = [_scores(run) for run in runs]
        # The base model is the same in every run, and so are the held-out captions and their noise.
        study["base"] |= {score: row["base"] for score, row in scores[0].items()}
        study["trained"] = runs[0].trained
        study["pictures"] = (runs[0].result() or {})["pictures"]
        study["arms"][name] = {
            "seeds": [run.recipe["seed"] for run in runs],
            "gains": {score: _differences(scores, score) for score in scores[0]},
            "forwards": [_spent(run.path) for run in runs],
            "iterations": [len(run.metrics()) for run in runs],
            "curves": [_curve(run) for run in runs],
        }
    return study


def _scores(run: RunReader) -> dict[str, Any]:
    """The rows of a run's table of base against tuned, by the name of the score."""
    return {row["name"]: row for row in (run.result() or {})["rows"]}


def _differences(scores: Sequence[dict[str, Any]], score: str) -> list[float]:
    """What training gained in one score, a number for each seed."""
    # As floats: null stands for a score that no picture has, and becomes NaN.
    return np.array([of_seed[score]["difference"] for of_seed in scores], dtype=float).tolist()


def _curve(run: RunReader) -> dict[str, list[float]]:
    """Cost so far and the mean training rewards of every iteration."""
    lines = run.metrics()
    curve = {"forwards": np.cumsum([line["cost/forwards"] for line in lines]).tolist()}
    for name in run.trained:
        curve[name] = [line[f"reward/{name}"] for line in lines]
    return curve


def study_proxy(folder: Path, flags: Sequence[str], *, prompts: int, group_size: int, steps: int) -> dict[str, Any]:
    """Table 5 on the base model: every latent and every clean prediction is decoded and scored.

    Kept in proxy.json; measured once.
    """
    path = folder / "proxy.json"
    size = {"prompts": prompts, "group_size": group_size, "steps": steps}
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    # A file of an older version says nothing of its flags.
    if stored is not None and stored["size"] == size and stored.get("flags", list(flags)) == list(flags):
        return stored
    changed = [*(f"--rollout.{key}={value}" for key, value in size.items()), "--method.sampler.noise_level=0.3"]
    rows = _proxy_rows(load_recipe(RECIPE, laid_over(flags, changed)))
    study = {"size": size, "flags": list(flags), "trajectories": prompts * group_size, "rows": rows}
    write_json(path, study)
    return study


def _proxy_rows(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Similarity gain against reward gain on one rollout of the base model, reward by reward."""
    parts, _ = build_parts(recipe)
    key = Key(recipe.seed, iteration=0)
    prompts = parts.prompts.draw(parts.prompt_count, key)
    rollout = replace(parts.roll_out, observers=[Similarity(), CleanSimilarity()])(prompts, key)
    latents = rollout.latents
    levels = rollout.sampler.levels[:-1].to(latents).view(-1, *(1,) * (latents.ndim - 3))
    clean = latents[:, :, :-1] - levels * rollout.velocities
    seen = {name: tensor.flatten(0, 1).double().numpy() for name, tensor in rollout.seen.items()}
    # A gain is of a move between two states that were scored: the last latent is the last prediction once more.
    similarity = np.diff(seen["similarity"], axis=1)[:, :-1]
    clean_similarity = np.diff(seen["clean_similarity"], axis=1)
    noisy_rewards = np.diff(_scored(parts, latents[:, :, :-1], prompts), axis=1)
    clean_rewards = np.diff(_scored(parts, clean, prompts), axis=1)
    rows: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(parts.rewards.names):
        try:
            rows[name] = {
                "noisy latent": validate(similarity, noisy_rewards[..., k]).plain(),
                "clean prediction": validate(clean_similarity, clean_rewards[..., k]).plain(),
                "noisy similarity, clean reward": validate(similarity, clean_rewards[..., k]).plain(),
            }
        except CreditError:
            continue  # a reward that scored nothing, or everything alike, has no gains to compare
    return rows


def _scored(
    parts: Parts, states: Float[Tensor, "P G S *latent"], prompts: Sequence[Prompt]
) -> Float[np.ndarray, "B S K"]:
    """Scores of every state of every sample, as if it were the finished picture."""
    members = states.shape[1]
    repeated = tuple(prompt for prompt in prompts for _ in range(members))
    groups = tuple(group for group in range(len(prompts)) for _ in range(members))
    scores = []
    for step in range(states.shape[2]):
        decoded = decode(parts.policy, states[:, :, step].flatten(0, 1), parts.roll_out.micro_batch)
        batch = RewardBatch(decoded.media, repeated, groups, decoded.fps)
        scores.append(score_usable(parts.rewards, batch, decoded.unusable)[0])
    return np.stack(scores, axis=1)


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
    settings = laid_over(_settings(budget=budget, count=count), flags)
    wanted = load_recipe(RECIPE, settings)
    todo = cells(folder, chosen, seeds)
    _check_same_study(todo, wanted)
    budget = wanted.training.budget or budget  # a flag may have changed it
    if train:
        train_all(todo, settings, budget=budget, workers=workers, console=console)
    study = results(folder, chosen, seeds)
    if not study["arms"]:
        raise RunError(f"{folder} holds no finished run of {', '.join(chosen)}; run the study without --report")
    study |= {"budget": budget, "flags": list(flags)}
    with console.status("similarity gain against reward gain"):
        study["proxy"] = study_proxy(folder, flags, prompts=proxy_prompts, group_size=8, steps=16)
    return study


def _settings(*, budget: int, count: int) -> list[str]:
    """What every run of the study has in common: equal cost, and looks at held-out captions at the end only."""
    return [
        f"--training.iterations={_ENOUGH}",
        f"--training.budget={budget}",
        f"--evaluation.count={count}",
        f"--evaluation.every={_ENOUGH}",
        "--output.checkpoint_every=15",
        "--output.keep=1",
        "--output.credit_every=10",
    ]

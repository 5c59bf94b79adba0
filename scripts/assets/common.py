"""What the asset scripts share: pictures of captions as tensors, and a training loop that can be killed at any time.

Every batch is a pure function of (seed, step), so a run that was stopped and started again sees what an
uninterrupted one would have seen.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stepcredit.scenes.captions import Caption, HasKind
from stepcredit.scenes.moving import MovingCaption, film, paths
from stepcredit.scenes.moving import Path as MovingPath
from stepcredit.scenes.renderer import Placed, place, render

ASSETS = Path(__file__).parents[2] / "src" / "stepcredit" / "assets"
WORK = Path(__file__).parents[2] / "build" / "assets"
WARM_UP = 200  # steps until the learning rate is full


def scenes_of(captions: Sequence[Caption], seed: int) -> tuple[list[list[Placed]], torch.Tensor]:
    """One random true scene per caption and its picture, float in [0, 1], `[B, 3, 32, 32]`."""
    generator = np.random.default_rng(seed)
    scenes = [place(caption, generator) for caption in captions]
    pictures = np.stack([render(scene) for scene in scenes])
    return scenes, torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def films_of(captions: Sequence[MovingCaption], seed: int) -> tuple[list[list[MovingPath]], torch.Tensor]:
    """One random true moving scene per caption and its video, float in [0, 1], `[B, 3, F, 32, 32]`."""
    generator = np.random.default_rng(seed)
    scenes = [paths(caption, generator) for caption in captions]
    videos = np.stack([film(scene) for scene in scenes])
    return scenes, torch.from_numpy(videos).permute(0, 4, 1, 2, 3).float() / 255


class Weights:
    """The weights in training and their moving average, with what the optimisers remember; one file holds them all."""

    def __init__(
        self, path: Path, parameters: Sequence[torch.nn.Parameter], optimisers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.path = path
        self.parameters = parameters
        self.optimisers = optimisers
        self.averaged = [parameter.detach().clone() for parameter in parameters]

    def resume(self) -> int:
        """Take up what the file holds; returns how many steps that is."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for optimiser, moments in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(moments)
        for live, stored in zip(self.parameters, state["live"], strict=True):
            live.data.copy_(stored)
        for mean, stored in zip(self.averaged, state["mean"], strict=True):
            mean.copy_(stored)
        return state["step"]

    def save(self, step: int) -> None:
        """Write everything beside the file and then in its place: a kill in between leaves the old one whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        live = [parameter.detach() for parameter in self.parameters]
        moments = [optimiser.state_dict() for optimiser in self.optimisers]
        torch.save({"step": step, "optimisers": moments, "live": live, "mean": self.averaged}, f"{self.path}.new")
        os.replace(f"{self.path}.new", self.path)

    def follow(self, average: float, step: int) -> None:
        """Move the average towards the weights."""
        # At first a plain mean, so that the random weights of the beginning are soon outweighed.
        weight = max(1 - average, 1 / (step + 2))
        weights = [parameter.data for parameter in self.parameters]
        torch._foreach_lerp_(self.averaged, weights, weight)  # pyright: ignore[reportPrivateUsage]

    def exchange(self) -> None:
        """The modules hold the average, or again the weights in training."""
        for live, mean in zip(self.parameters, self.averaged, strict=True):
            live.data, mean.data = mean.data, live.data


def train(
    name: str,
    modules: Mapping[str, torch.nn.Module],
    loss_of: Callable[[int], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    matrices: Sequence[torch.nn.Parameter] = (),
    average: float | None = None,
    every: int = 500,
    report: Callable[[int], str] | None = None,
) -> None:
    """Minimise `loss_of(step)` with AdamW (linear warm-up, cosine to a tenth); resumes from `build/assets/NAME.pt`.

    `matrices` are trained with Muon at twice the learning rate instead: in half of the steps for the generator.
    With `average`, an exponential moving average of the weights is what `modules` hold at the end.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimisers = _optimisers(parameters, matrices, learning_rate, weight_decay)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]  # before a file overwrites them
    weights = Weights(WORK / f"{name}.pt", parameters, optimisers)
    start = weights.resume()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(name, total=steps, completed=start)
        running = 0.0
        for step in range(start, steps):
            decay = min(1.0, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            loss = _step(loss_of, step, parameters, optimisers, [rate * decay for rate in rates])
            if average:
                weights.follow(average, step)
            # For people only: about the mean of the last fifty steps.
            running = loss if step == start else 0.98 * running + 0.02 * loss
            progress.advance(bar)
            if (step + 1) % every == 0 or step + 1 == steps:
                weights.save(step + 1)
                text = _reported(weights, report, step + 1, average is not None)
                progress.console.print(f"{name} step {step + 1}: loss {running:.4f} {text}")
    if average:
        weights.exchange()


def _optimisers(
    parameters: Sequence[torch.nn.Parameter],
    matrices: Sequence[torch.nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    # By identity: `in` would compare tensors element by element.
    apart = {id(matrix) for matrix in matrices}
    plain = [parameter for parameter in parameters if id(parameter) not in apart]
    adamw = torch.optim.AdamW(plain, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(matrices, lr=2 * learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return [adamw, muon]


def _step(
    loss_of: Callable[[int], torch.Tensor],
    step: int,
    parameters: Sequence[torch.nn.Parameter],
    optimisers: Sequence[torch.optim.Optimizer],
    rates: Sequence[float],
) -> float:
    """One step of every optimiser on one batch; returns the loss before it."""
    for optimiser, rate in zip(optimisers, rates, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
    loss = loss_of(step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimiser in optimisers:
        optimiser.step()
    return loss.item()


def _reported(weights: Weights, report: Callable[[int], str] | None, step: int, averaged: bool) -> str:
    """What the report says of the average, where there is one: it is what will be kept."""
    if report is None:
        return ""
    if averaged:
        weights.exchange()
    text = report(step)
    if averaged:
        weights.exchange()
    return text


def shares(correct: Sequence[bool], captions: Sequence[HasKind], kinds: Sequence[str]) -> dict[str, float]:
    """Share of correct pictures or videos, overall and of each kind of caption that occurs."""
    of_kind: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for is_correct, caption in zip(correct, captions, strict=True):
        of_kind[caption.kind].append(is_correct)
    measured = {"all": float(np.mean(correct))}
    for kind, answers in of_kind.items():
        if answers:
            measured[kind] = float(np.mean(answers))
    return measured


def keep(pipe: Any, folder: Path, measured: Mapping[str, object]) -> None:
    """Save a generator in half precision (it is loaded in float32) with its size and what was measured of it."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    sizes = {name: _size(part) for name, part in modules.items()}
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    config = folder / "vae" / "config.json"  # diffusers notes where it loaded from; that is nobody's business
    settings = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "metrics.json").write_text(json.dumps({**measured, "parameters": sizes}, indent=2) + "\n")


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def arguments(description: str) -> argparse.Namespace:
    """The flags that every asset script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=None, help="training steps, instead of the script's own number")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed

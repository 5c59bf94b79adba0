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

from stepcredit.scenes.captions import Caption
from stepcredit.scenes.moving import MovingCaption, film, paths
from stepcredit.scenes.moving import Path as MovingPath
from stepcredit.scenes.renderer import Placed, place, render

ASSETS = Path(__file__).parents[2] / "src" / "stepcredit" / "assets"
WORK = Path(__file__).parents[2] / "build" / "assets"


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


def train(
    name: str,
    modules: dict[str, torch.nn.Module],
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
    apart = {id(matrix) for matrix in matrices}
    rest = [p for p in parameters if id(p) not in apart]
    adamw = torch.optim.AdamW(rest, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
    optimisers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        settings = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        optimisers.append(torch.optim.Muon(matrices, lr=2 * learning_rate, **settings))
    rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    averaged = [p.detach().clone() for p in parameters]
    path, start = WORK / f"{name}.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        start = state["step"]
        for optimiser, stored in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(stored)
        for live, mean, stored, stored_mean in zip(parameters, averaged, state["live"], state["mean"], strict=True):
            live.data.copy_(stored)
            mean.copy_(stored_mean)

    def save(step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        live = [p.detach() for p in parameters]
        moments = [optimiser.state_dict() for optimiser in optimisers]
        torch.save({"step": step, "optimisers": moments, "live": live, "mean": averaged}, f"{path}.new")
        os.replace(f"{path}.new", path)

    def swap() -> None:
        for live, mean in zip(parameters, averaged, strict=True):
            live.data, mean.data = mean.data, live.data

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(name, total=steps, completed=start)
        running = 0.0
        for step in range(start, steps):
            decay = min(1.0, (step + 1) / 200) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            for optimiser, rate in zip(optimisers, rates, strict=True):
                optimiser.param_groups[0]["lr"] = rate * decay
                optimiser.zero_grad(set_to_none=True)
            loss = loss_of(step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in optimisers:
                optimiser.step()
            if average:
                weight = max(1 - average, 1 / (step + 2))
                torch._foreach_lerp_(averaged, [p.data for p in parameters], weight)
            running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
            progress.advance(bar)
            if (step + 1) % every == 0 or step + 1 == steps:
                save(step + 1)
                if average:
                    swap()
                text = report(step + 1) if report else ""
                if average:
                    swap()
                progress.console.print(f"{name} step {step + 1}: loss {running:.4f} {text}")
    if average:
        swap()


def keep(pipe: Any, folder: Path, measured: Mapping[str, object]) -> None:
    """Save a generator in half precision (it is loaded in float32) with its size and what was measured of it."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in modules.items()}
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    config = folder / "vae" / "config.json"  # diffusers notes where it loaded from; that is nobody's business
    settings = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "metrics.json").write_text(json.dumps({**measured, "parameters": sizes}, indent=2) + "\n")


def arguments(description: str) -> argparse.Namespace:
    """The flags that every asset script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=None, help="training steps, instead of the script's own number")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    return parsed

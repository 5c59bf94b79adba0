"""What goes wrong with pictures and videos, drawn: looks, motion, and what an autoencoder does to both."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from stepcredit.scenes.moving import Path
from stepcredit.scenes.renderer import BACKGROUND, render


def corrupt(pictures: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Spoil each picture in one of five ways; also returns how badly, in [0.2, 1], `[B]`."""
    batch, _, height, width = pictures.shape
    strength = 0.2 + 0.8 * torch.rand(batch, generator=generator)
    amount = strength[:, None, None, None]
    ground = torch.tensor(BACKGROUND).view(3, 1, 1) / 255

    def smooth(channels: int, cells: int) -> torch.Tensor:
        field = torch.randn(batch, channels, cells, cells, generator=generator)
        return F.interpolate(field, (height, width), mode="bicubic")

    blurred = F.avg_pool2d(F.pad(pictures, (2,) * 4, mode="replicate"), 5, 1)
    noisy = pictures + 0.3 * amount * torch.randn(pictures.shape, generator=generator)
    faded = pictures + 0.75 * amount * (ground - pictures)
    straight = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), list(pictures.shape), align_corners=False)
    bent = straight + 0.16 * amount * smooth(2, 6).permute(0, 2, 3, 1)
    warped = F.grid_sample(pictures, bent, padding_mode="border", align_corners=False)
    stained = pictures + amount * 0.8 * (smooth(1, 10) > 1.3) * (smooth(3, 4) * 0.4)
    # At least .4 of the blur: at 32 pixels a weaker one is hardly seen.
    ways = torch.stack([torch.lerp(pictures, blurred, amount.clamp(min=0.4)), noisy, faded, warped, stained])
    chosen = torch.randint(len(ways), (batch,), generator=generator)
    return ways[chosen, torch.arange(batch)].clamp(0, 1), strength


def spoil(videos: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Spoil every frame of a video in the same way; noise is new in every frame for half of the noisy ones. Also
    returns how badly, `[B]`."""
    # One seed for all frames, so that each is spoiled alike.
    seed = int(torch.randint(2**40, (), generator=generator))
    frames = [corrupt(frame, torch.Generator().manual_seed(seed)) for frame in videos.unbind(2)]
    strength = frames[0][1]
    spoiled = torch.stack([frame for frame, _ in frames], 2)
    noisy = videos + 0.3 * strength[:, None, None, None, None] * torch.randn(videos.shape, generator=generator)
    chosen = torch.rand(len(videos), generator=generator) < 0.1
    return torch.where(chosen[:, None, None, None, None], noisy.clamp(0, 1), spoiled), strength


def shake(
    videos: torch.Tensor, scenes: Sequence[list[Path]], chooser: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spoil each video in time: things jitter, a stretch freezes and then jumps, frames go to and fro or are
    shuffled, or frames go dark. Where nothing moves it jitters or goes dark. Also returns how badly, in [0.2, 1],
    `[B]`."""
    shaken = videos.clone()
    strengths = 0.2 + 0.8 * chooser.random(len(videos))
    count = videos.shape[2]
    for index, (scene, strength) in enumerate(zip(scenes, strengths, strict=True)):
        moves = any(path.start != path.end for path in scene)
        way = chooser.choice(["jitter", "dark", "freeze", "waver", "shuffle"] if moves else ["jitter", "dark"])
        if way == "jitter":
            shaken[index] = _jittered(scene, 0.5 + 2 * strength, count, chooser)
        elif way == "dark":
            dark = chooser.choice(count, 1 + round(2 * strength), replace=False)
            ground = torch.tensor(BACKGROUND).view(3, 1, 1, 1) / 255
            shaken[index][:, dark] = torch.lerp(videos[index][:, dark], ground, float(0.5 + 0.5 * strength))
        else:
            shaken[index] = videos[index][:, _reordered(way, strength, count, chooser)]
    return shaken, torch.tensor(strengths, dtype=torch.float32)


def _reordered(way: str, strength: float, count: int, chooser: np.random.Generator) -> np.ndarray:
    """Which frame is shown at each time, `[count]`: one freezes, they go to and fro, or they are shuffled."""
    times = np.arange(count)
    if way == "freeze":
        length = round(2 + 4 * strength)
        first = chooser.integers(0, count - length)
        return np.where((times > first) & (times < first + length), first, times)
    if way == "waver":
        swing = (0.8 + 2.6 * strength) * np.sin(2 * np.pi * (times / chooser.uniform(3, 5) + chooser.random()))
        return (times + swing).round().clip(0, count - 1).astype(int)
    order = times
    while (order == times).all():  # little noise may leave everything in its place, and then nothing is spoiled
        order = np.argsort(times + chooser.normal(0, 0.5 + 2 * strength, count))
    return order


def soften(videos: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What an autoencoder does to good and bad videos alike: half of them get a little blur and a little noise."""
    amount = (torch.rand(len(videos), generator=generator) - 0.5).clamp(min=0)[:, None, None, None, None]
    blurred = F.avg_pool3d(F.pad(videos, (1, 1, 1, 1, 0, 0), mode="replicate"), (1, 3, 3), 1)
    noise = torch.randn(videos.shape, generator=generator)
    return (torch.lerp(videos, blurred, 1.2 * amount) + 0.04 * amount * noise).clamp(0, 1)


def _jittered(scene: list[Path], spread: float, count: int, chooser: np.random.Generator) -> torch.Tensor:
    """Every frame somewhere near where it should be, the things each for itself or all together."""
    offsets = chooser.normal(0, spread, (count, len(scene), 2))
    if chooser.random() < 0.5:
        offsets[:] = offsets[:, :1]  # all together, as if the camera shook
    frames = []
    for time in range(count):
        moved = []
        for path, (dx, dy) in zip(scene, offsets[time], strict=True):
            placed = path.at(time / (count - 1))
            moved.append(replace(placed, x=placed.x + dx, y=placed.y + dy))
        frames.append(render(moved))
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 255

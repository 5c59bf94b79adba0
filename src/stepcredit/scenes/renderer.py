"""Draws a caption exactly: flat shapes with anti-aliased edges on a dark ground, 32 x 32 pixels by default.

A scene is a list of placed objects; `place` finds one for a caption, `render` turns it into pixels. The same seed
gives the same picture.
"""

from dataclasses import dataclass

import numpy as np

from stepcredit.scenes.captions import COLOURS, Caption, Thing

SIZE = 32
BACKGROUND = (30, 32, 42)
_RADII = {1: (6.5, 9.5), 2: (4.6, 6.2), 3: (3.8, 4.8)}  # pixels of a 32-pixel picture, by number of objects
_GAP = 3.5  # least distance between the bounding circles of two objects (the corners of squares stick out)


@dataclass(frozen=True)
class Placed:
    """A thing at (`x`, `y`) with half-width `radius`, in pixels; y grows downwards."""

    thing: Thing
    x: float
    y: float
    radius: float


def place(caption: Caption, generator: np.random.Generator) -> list[Placed]:
    """A random arrangement that makes the caption true: nothing overlaps, nothing is cut off."""
    low, high = _RADII[len(caption.objects)]
    while True:
        placed = [
            Placed(
                thing,
                generator.uniform(radius + 1, SIZE - radius - 1),
                generator.uniform(radius + 1, SIZE - radius - 1),
                radius,
            )
            for thing, radius in zip(caption.objects, generator.uniform(low, high, len(caption.objects)), strict=True)
        ]
        if _apart(placed) and (caption.relation is None or relation_holds(caption.relation, *placed, sideways=3.5)):
            return placed


def relation_holds(relation: str, first: Placed, second: Placed, *, sideways: float = float("inf")) -> bool:
    """Whether `first` is left of / right of / above / below `second`: the main offset is at least 3 pixels and the
    larger of the two; `sideways` bounds the other one (pixels)."""
    dx, dy = second.x - first.x, second.y - first.y
    along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along >= 3 and along > abs(across) and abs(across) <= sideways


def _apart(placed: list[Placed]) -> bool:
    pairs = ((a, b) for index, a in enumerate(placed) for b in placed[:index])
    return all(np.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + _GAP for a, b in pairs)


def coverage(shape: str, x: float, y: float, half_width: float, half_height: float, size: int = SIZE) -> np.ndarray:
    """The share of each pixel `[size, size]` that a shape with these half extents covers, from its signed distance."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    u, v = columns - x, rows - y
    if shape == "circle":
        distance = (np.hypot(u / half_width, v / half_height) - 1) * min(half_width, half_height)
    elif shape == "square":
        distance = np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)
    else:  # a triangle that stands on its base
        slope = np.hypot(half_width, 2 * half_height)
        sides = (2 * half_height * np.abs(u) - half_width * (v + half_height)) / slope
        distance = np.maximum(sides, v - half_height)
    return np.clip(0.5 - distance, 0, 1)


def half_extents(shape: str, radius: float) -> tuple[float, float]:
    """Half width and half height of a shape of this radius: squares are drawn smaller, so that areas are alike."""
    return {"circle": (radius, radius), "square": (0.88 * radius,) * 2, "triangle": (radius, 0.92 * radius)}[shape]


def render(scene: list[Placed]) -> np.ndarray:
    """The picture of a scene: uint8 `[32, 32, 3]`."""
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = BACKGROUND
    for placed in scene:
        alpha = coverage(placed.thing.shape, placed.x, placed.y, *half_extents(placed.thing.shape, placed.radius))
        picture += alpha[..., None] * (np.array(COLOURS[placed.thing.colour]) - picture)
    return picture.round().astype(np.uint8)


def draw(caption: Caption, generator: np.random.Generator) -> np.ndarray:
    """A random true picture of a caption: uint8 `[32, 32, 3]`."""
    return render(place(caption, generator))

"""Draws a caption exactly: flat shapes with anti-aliased edges on a dark ground, 32 x 32 pixels by default.

A scene is a list of placed objects; `place` finds one for a caption, `render` turns it into pixels. The same seed
gives the same picture.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from stepcredit.scenes.captions import COLOURS, Caption, Thing

SIZE = 32
BACKGROUND = (30, 32, 42)
_RADII = {1: (6.5, 9.5), 2: (4.6, 6.2), 3: (3.8, 4.8)}  # pixels of a 32-pixel picture, by number of objects
_GAP = 3.5  # least distance between the bounding circles of two objects (the corners of squares stick out)


@dataclass(frozen=True)
class Placed:
    """A thing at (`x`, `y`) with half-width `radius`, in pixels; y grows downwards.

    `Placed(Thing("red", "circle"), x=8.5, y=16.0, radius=5.5)` stands in the left half of a 32-pixel picture.
    """

    thing: Thing
    x: float
    y: float
    radius: float


def place(caption: Caption, generator: np.random.Generator) -> list[Placed]:
    """A random arrangement that makes the caption true: nothing overlaps, nothing is cut off."""
    low, high = _RADII[len(caption.objects)]
    while True:  # drawn again until it fits, so that every arrangement that fits is equally likely
        scene = []
        for thing, radius in zip(caption.objects, generator.uniform(low, high, len(caption.objects)), strict=True):
            x = generator.uniform(radius + 1, SIZE - radius - 1)
            y = generator.uniform(radius + 1, SIZE - radius - 1)
            scene.append(Placed(thing, x, y, radius))
        if _apart(scene) and (caption.relation is None or relation_holds(caption.relation, *scene, sideways=3.5)):
            return scene


def relation_holds(relation: str, first: Placed, second: Placed, *, sideways: float = float("inf")) -> bool:
    """Whether `first` is left of / right of / above / below `second`: the main offset is at least 3 pixels and the
    larger of the two; `sideways` bounds the other one (pixels)."""
    dx = second.x - first.x
    dy = second.y - first.y
    along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along >= 3 and along > abs(across) and abs(across) <= sideways


def _apart(scene: list[Placed]) -> bool:
    """Whether the bounding circles keep their distance, each pair of them."""
    pairs = combinations(scene, 2)
    return all(np.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + _GAP for a, b in pairs)


def coverage(shape: str, x: float, y: float, half_width: float, half_height: float, size: int = SIZE) -> np.ndarray:
    """The share of each pixel `[size, size]` that a shape with these half extents covers, from its signed distance."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5  # the middles of the pixels
    u = columns - x
    v = rows - y
    if shape == "circle":
        distance = (np.hypot(u / half_width, v / half_height) - 1) * min(half_width, half_height)
    elif shape == "square":
        distance = np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)
    else:  # a triangle that stands on its base
        slope = np.hypot(half_width, 2 * half_height)
        sides = (2 * half_height * np.abs(u) - half_width * (v + half_height)) / slope
        distance = np.maximum(sides, v - half_height)
    # An edge that passes through the middle of a pixel covers half of it, one half a pixel away all or nothing.
    return np.clip(0.5 - distance, 0, 1)


def half_extents(shape: str, radius: float) -> tuple[float, float]:
    """Half width and half height of a shape of this radius: squares are drawn smaller, so that areas are alike."""
    extents = {
        "circle": (radius, radius),
        "square": (0.88 * radius, 0.88 * radius),
        "triangle": (radius, 0.92 * radius),
    }
    return extents[shape]


def render(scene: list[Placed]) -> np.ndarray:
    """The picture of a scene: uint8 `[32, 32, 3]`."""
    picture = np.empty((SIZE, SIZE, 3))
    picture[:] = BACKGROUND
    for placed in scene:
        # Painted over what is there, in order; things never overlap, so the order does not show.
        alpha = coverage(placed.thing.shape, placed.x, placed.y, *half_extents(placed.thing.shape, placed.radius))
        picture += alpha[..., None] * (np.array(COLOURS[placed.thing.colour]) - picture)
    return picture.round().astype(np.uint8)


def draw(caption: Caption, generator: np.random.Generator) -> np.ndarray:
    """A random true picture of a caption: uint8 `[32, 32, 3]`."""
    return render(place(caption, generator))

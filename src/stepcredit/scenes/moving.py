"""The drawn world in motion: captions such as "a red circle moving right", and the videos that they are true of.

    one moving     a red circle moving right                               (also: left, up, down)
    one still      a red circle standing still
    two things     a red circle moving right and a blue square standing still

The things, and the three that never occur in training, are those of `captions`. Of the captions made from the other
fifteen, one fifth of each kind is held out. The two things of a pair keep to lanes of their own, so that they never
meet: both move along the same axis, or not at all.
"""

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, get_args

import numpy as np

from stepcredit.scenes.captions import COLOURS, NEW_COMBINATIONS, SHAPES, Split, Thing
from stepcredit.scenes.renderer import SIZE, Placed, render

MovingKind = Literal["one moving", "one still", "two things"]
MOVING_KINDS: tuple[MovingKind, ...] = get_args(MovingKind)
FRAMES = 9
FPS = 8.0
DIRECTIONS: dict[str, tuple[int, int]] = {
    "moving right": (1, 0),
    "moving left": (-1, 0),
    "moving up": (0, -1),
    "moving down": (0, 1),
    "standing still": (0, 0),
}

_HELD_OUT_SHARE = 0.2
_SPLIT_SEED = 20260420
_RADII = {1: (5.0, 6.6), 2: (4.6, 5.3)}  # pixels, by number of things
_TRAVEL = (9.0, 15.0)  # pixels from the first to the last frame
_LANES = (8.2, SIZE - 8.2)  # middle of the lanes of a pair
_MARGIN = 1.5  # pixels that stay free at the border


@dataclass(frozen=True)
class Moving:
    """One thing and what it does, such as "a red circle moving right"."""

    thing: Thing
    motion: str

    def __str__(self) -> str:
        return f"a {self.thing} {self.motion}"


@dataclass(frozen=True)
class MovingCaption:
    """What a video has to show."""

    kind: MovingKind
    parts: tuple[Moving, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


@dataclass(frozen=True)
class Path:
    """A thing with half-width `radius` that goes from `start` to `end` at constant speed; pixels, y grows downwards."""

    thing: Thing
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]

    def at(self, share: float) -> Placed:
        """Where it is after this share of the time."""
        x, y = (a + share * (b - a) for a, b in zip(self.start, self.end, strict=True))
        return Placed(self.thing, x, y, self.radius)


@cache
def every_caption() -> tuple[MovingCaption, ...]:
    """All 5,292 captions of the grammar, in a fixed order."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    moving = [name for name, direction in DIRECTIONS.items() if any(direction)]
    couples = [(a, b) for a, b in product(DIRECTIONS, repeat=2) if _axes(a) <= _axes(b) or _axes(b) <= _axes(a)]
    return (
        *(MovingCaption("one moving", (Moving(thing, motion),)) for thing in things for motion in moving),
        *(MovingCaption("one still", (Moving(thing, "standing still"),)) for thing in things),
        *(
            MovingCaption("two things", (Moving(first, a), Moving(second, b)))
            for first, second in product(things, repeat=2)
            if first != second
            for a, b in couples
        ),
    )


@cache
def split(name: Split) -> tuple[MovingCaption, ...]:
    """The captions of one split; the three splits together are `every_caption()`, without overlap."""
    new = {caption for caption in every_caption() if NEW_COMBINATIONS.intersection(p.thing for p in caption.parts)}
    if name == "new_combinations":
        return tuple(caption for caption in every_caption() if caption in new)
    chooser = random.Random(_SPLIT_SEED)
    held_out: set[MovingCaption] = set()
    for kind in MOVING_KINDS:
        of_kind = [caption for caption in every_caption() if caption.kind == kind and caption not in new]
        held_out.update(chooser.sample(of_kind, round(_HELD_OUT_SHARE * len(of_kind))))
    return tuple(c for c in every_caption() if c not in new and (c in held_out) == (name == "held_out"))


@cache
def _by_text() -> dict[str, MovingCaption]:
    return {str(caption): caption for caption in every_caption()}


def parse(text: str) -> MovingCaption | None:
    """The caption that a sentence says, or None when the grammar cannot say it."""
    return _by_text().get(" ".join(text.lower().split()).rstrip("."))


def paths(caption: MovingCaption, generator: np.random.Generator) -> list[Path]:
    """Random paths that make the caption true: nothing overlaps, nothing leaves the picture."""
    radius = generator.uniform(*_RADII[len(caption.parts)])
    across = next((i for part in caption.parts for i, move in enumerate(DIRECTIONS[part.motion]) if move), 0)
    lanes = generator.permutation(_LANES) if len(caption.parts) > 1 else [None]
    return [_path(part, radius, across, lane, generator) for part, lane in zip(caption.parts, lanes, strict=True)]


def film(scene: list[Path], frames: int = FRAMES) -> np.ndarray:
    """The video of a scene: uint8 `[frames, 32, 32, 3]`."""
    return np.stack([render([path.at(frame / (frames - 1)) for path in scene]) for frame in range(frames)])


def draw(caption: MovingCaption, generator: np.random.Generator) -> np.ndarray:
    """A random true video of a caption: uint8 `[F, 32, 32, 3]`."""
    return film(paths(caption, generator))


def _axes(motion: str) -> set[int]:
    return {axis for axis, move in enumerate(DIRECTIONS[motion]) if move}


def _path(part: Moving, radius: float, along: int, lane: float | None, generator: np.random.Generator) -> Path:
    """`along` is the axis of motion; `lane` fixes the middle across it."""
    step = DIRECTIONS[part.motion][along]
    low, high = radius + _MARGIN, SIZE - radius - _MARGIN
    travel = min(generator.uniform(*_TRAVEL), high - low) * step
    start = [0.0, 0.0]
    start[along] = generator.uniform(max(low, low - travel), min(high, high - travel))
    if lane is None:
        start[1 - along] = generator.uniform(low, high)
    else:
        room = min(lane, SIZE - lane) - low
        start[1 - along] = lane + generator.uniform(-room, room)
    end = list(start)
    end[along] += travel
    return Path(part.thing, radius, (start[0], start[1]), (end[0], end[1]))

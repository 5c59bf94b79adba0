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

_HELD_OUT_SHARE = 0.2  # of the captions of each kind
_SPLIT_SEED = 20260420  # fixes which captions are held out; changing it changes the world
_RADII = {1: (5.0, 6.6), 2: (4.6, 5.3)}  # pixels, by number of things
_TRAVEL = (9.0, 15.0)  # pixels from the first to the last frame
_LANES = (8.2, SIZE - 8.2)  # middle of the lanes of a pair
_MARGIN = 1.5  # pixels that stay free at the border


@dataclass(frozen=True)
class Moving:
    """One thing and what it does: `Moving(Thing("red", "circle"), "moving right")`."""

    thing: Thing
    motion: str

    def __str__(self) -> str:
        return f"a {self.thing} {self.motion}"


@dataclass(frozen=True)
class MovingCaption:
    """What a video has to show, its parts in the order of the sentence.

    "a red circle moving right" is `MovingCaption("one moving", (Moving(Thing("red", "circle"), "moving right"),))`.
    """

    kind: MovingKind
    parts: tuple[Moving, ...]

    @property
    def things(self) -> tuple[Thing, ...]:
        """The thing of each part."""
        return tuple(part.thing for part in self.parts)

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))


@dataclass(frozen=True)
class Path:
    """A thing with half-width `radius` that goes from `start` to `end` at constant speed; pixels, y grows downwards.

    To the right through the middle: `Path(Thing("red", "circle"), radius=6.0, start=(8.0, 16.0), end=(20.0, 16.0))`.
    """

    thing: Thing
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]

    def at(self, share: float) -> Placed:
        """Where it is after this share of the time."""
        x = self.start[0] + share * (self.end[0] - self.start[0])
        y = self.start[1] + share * (self.end[1] - self.start[1])
        return Placed(self.thing, x, y, self.radius)


@cache
def every_caption() -> tuple[MovingCaption, ...]:
    """All 5,292 captions of the grammar, in a fixed order."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    moving = [name for name, direction in DIRECTIONS.items() if any(direction)]
    # Along the same axis, or one of them still, which has no axis: then lanes keep them from meeting.
    motions = [(a, b) for a, b in product(DIRECTIONS, repeat=2) if _axes(a) <= _axes(b) or _axes(b) <= _axes(a)]
    return (
        *(MovingCaption("one moving", (Moving(thing, motion),)) for thing in things for motion in moving),
        *(MovingCaption("one still", (Moving(thing, "standing still"),)) for thing in things),
        *(
            MovingCaption("two things", (Moving(first, a), Moving(second, b)))
            for first, second in product(things, repeat=2)
            if first != second
            for a, b in motions
        ),
    )


@cache
def split(name: Split) -> tuple[MovingCaption, ...]:
    """The captions of one split; the three splits together are `every_caption()`, without overlap."""
    known = [caption for caption in every_caption() if not NEW_COMBINATIONS.intersection(caption.things)]
    if name == "new_combinations":
        return tuple(caption for caption in every_caption() if NEW_COMBINATIONS.intersection(caption.things))
    chooser = random.Random(_SPLIT_SEED)
    held_out: set[MovingCaption] = set()
    # By kind and in this order: the draws follow one another, so another order would hold out other captions.
    for kind in MOVING_KINDS:
        of_kind = [caption for caption in known if caption.kind == kind]
        held_out.update(chooser.sample(of_kind, round(_HELD_OUT_SHARE * len(of_kind))))
    return tuple(caption for caption in known if (caption in held_out) == (name == "held_out"))


@cache
def _by_text() -> dict[str, MovingCaption]:
    return {str(caption): caption for caption in every_caption()}


def parse(text: str) -> MovingCaption | None:
    """The caption that a sentence says, or None when the grammar cannot say it."""
    return _by_text().get(" ".join(text.lower().split()).rstrip("."))


def paths(caption: MovingCaption, generator: np.random.Generator) -> list[Path]:
    """Random paths that make the caption true: nothing overlaps, nothing leaves the picture."""
    radius = generator.uniform(*_RADII[len(caption.parts)])
    along = _axis(caption)
    lanes = generator.permutation(_LANES) if len(caption.parts) > 1 else [None]
    return [_path(part, radius, along, lane, generator) for part, lane in zip(caption.parts, lanes, strict=True)]


def film(scene: list[Path], frames: int = FRAMES) -> np.ndarray:
    """The video of a scene: uint8 `[frames, 32, 32, 3]`."""
    pictures = []
    for frame in range(frames):
        share = frame / (frames - 1)  # the last frame shows the end itself
        pictures.append(render([path.at(share) for path in scene]))
    return np.stack(pictures)


def draw(caption: MovingCaption, generator: np.random.Generator) -> np.ndarray:
    """A random true video of a caption: uint8 `[F, 32, 32, 3]`."""
    return film(paths(caption, generator))


def _axes(motion: str) -> set[int]:
    """The axes that a motion goes along: one of 0 (x) and 1 (y), or none."""
    return {axis for axis, move in enumerate(DIRECTIONS[motion]) if move}


def _axis(caption: MovingCaption) -> int:
    """The axis that something moves along; x where nothing does, so that still pairs lie in lanes too."""
    for part in caption.parts:
        for axis in _axes(part.motion):
            return axis
    return 0


def _path(part: Moving, radius: float, along: int, lane: float | None, generator: np.random.Generator) -> Path:
    """`along` is the axis of motion; `lane` fixes the middle across it."""
    step = DIRECTIONS[part.motion][along]
    low = radius + _MARGIN
    high = SIZE - radius - _MARGIN
    # Drawn although a still thing has step 0: every part takes as many numbers, whatever it does.
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

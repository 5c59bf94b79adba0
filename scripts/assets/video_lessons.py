"""What the embedded video judge learns from: videos drawn and spoiled, and captions that are true or wrong of them.

A lesson is independent in its three answers: how a video is spoiled frame by frame (`spoil`), how in time (`shake`),
and in what its caption is wrong (`twist`).
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from random import Random

import numpy as np
import torch

from common import films_of
from flaws import shake, soften, spoil
from stepcredit.scenes.captions import COLOURS, SHAPES, Thing
from stepcredit.scenes.moving import DIRECTIONS, FRAMES, Moving, MovingCaption, Path, every_caption

PATCH = 4  # pixels a side
MERGE = 2  # patches a side that become one token
STRETCH = 2  # frames that become one token
GRID = (-(-FRAMES // STRETCH), 32 // PATCH, 32 // PATCH)
PLACES = GRID[0] * GRID[1] * GRID[2] // MERGE**2
CELL = PATCH * MERGE
SIZES = [len(COLOURS) + 1, len(SHAPES) + 1, len(DIRECTIONS) + 1]  # what a cell can hold, or nothing
LABELS = torch.tensor([[-0.4, -0.4, 0.6], [0.37, 0.37, 0.42]])  # mean and spread of the labels of `Lesson`

Parts = tuple[Moving, ...]
Flaw = Callable[[Parts, Random], Parts]


def _recoloured(parts: Parts, chooser: Random) -> Parts:
    colour = chooser.choice(list(COLOURS))
    return _with(parts, chooser, lambda part: Moving(Thing(colour, part.thing.shape), part.motion))


def _reshaped(parts: Parts, chooser: Random) -> Parts:
    shape = chooser.choice(SHAPES)
    return _with(parts, chooser, lambda part: Moving(Thing(part.thing.colour, shape), part.motion))


def _redirected(parts: Parts, chooser: Random) -> Parts:
    motion = chooser.choice(list(DIRECTIONS))
    return _with(parts, chooser, lambda part: Moving(part.thing, motion))


def _exchanged(parts: Parts, chooser: Random) -> Parts:
    """The two things trade their motions, or their colours."""
    if len(parts) < 2:
        return _redirected(parts, chooser)
    first, second = parts
    if chooser.random() < 0.5:
        return Moving(first.thing, second.motion), Moving(second.thing, first.motion)
    return (
        Moving(Thing(second.thing.colour, first.thing.shape), first.motion),
        Moving(Thing(first.thing.colour, second.thing.shape), second.motion),
    )


def _miscounted(parts: Parts, chooser: Random) -> Parts:
    """One thing too few, or one too many."""
    if len(parts) > 1:
        return (chooser.choice(parts),)
    thing = Thing(chooser.choice(list(COLOURS)), chooser.choice(SHAPES))
    return *parts, Moving(thing, chooser.choice(list(DIRECTIONS)))


def _other(parts: Parts, chooser: Random) -> Parts:
    return chooser.choice(every_caption()).parts


def _with(parts: Parts, chooser: Random, change: Callable[[Moving], Moving]) -> Parts:
    chosen = chooser.randrange(len(parts))
    return (*parts[:chosen], change(parts[chosen]), *parts[chosen + 1 :])


FLAWS: dict[str, Flaw] = {"colour": _recoloured, "shape": _reshaped, "direction": _redirected, "exchange": _exchanged}
ODDS = (0.4, 0.13, 0.13, 0.2, 0.06, 0.04, 0.04)  # true, one of FLAWS, miscounted, another caption
LATE_ODDS = (0.36, 0.08, 0.2, 0.12, 0.18, 0.03, 0.03)
KNOWN = {caption.parts: caption for caption in every_caption()}


def twist(caption: MovingCaption, flaw: Flaw, chooser: Random) -> MovingCaption:
    """Another caption of the grammar, wrong in this way."""
    # A flaw may change nothing, or leave the grammar; after so many tries it never does what it should.
    for _ in range(50):
        twisted = KNOWN.get(flaw(caption.parts, chooser))
        if twisted and claims(caption, twisted)[0] < 1:
            return twisted
    return twist(caption, _redirected, chooser)


def claims(shown: MovingCaption, claimed: MovingCaption) -> tuple[float, list[bool]]:
    """How true a caption is of a video of `shown`, in [0, 1], and which of its words are wrong: colour, shape and
    motion of each part. A wrong colour or shape costs half, a wrong motion all; so does a thing that is not there, and
    one that is not mentioned costs half."""
    unmentioned = max(0, len(shown.parts) - len(claimed.parts))
    slots = [*shown.parts, *[None] * (len(claimed.parts) - len(shown.parts))]
    least = np.inf
    flaws: list[bool] = []
    # The kindest reading: whichever of the shown things each part may mean, the cheapest way counts.
    for order in permutations(slots, len(claimed.parts)):
        differences: list[bool] = []
        for part, true in zip(claimed.parts, order, strict=True):
            differences.extend(_differences(part, true))
        cost = float(np.dot(differences, [0.5, 0.5, 1.0] * len(claimed.parts))) + 0.5 * unmentioned
        if cost < least:
            least = cost
            flaws = differences
    return max(0.0, 1 - least), flaws


def _differences(claimed: Moving, true: Moving | None) -> tuple[bool, bool, bool]:
    """Whether colour, shape and motion are wrong; of a thing that is not there, all are."""
    if true is None:
        return True, True, True
    return (
        claimed.thing.colour != true.thing.colour,
        claimed.thing.shape != true.thing.shape,
        claimed.motion != true.motion,
    )


class Pool:
    """Scenes drawn once; what stands in each cell of each stretch of frames is said for the eyes."""

    def __init__(self, captions: list[MovingCaption], seed: int) -> None:
        self.captions = captions
        self.scenes: list[list[Path]] = []
        films = []
        for start in range(0, len(captions), 500):
            scenes, videos = films_of(captions[start : start + 500], seed + start)
            self.scenes.extend(scenes)
            films.append((videos * 255).round().to(torch.uint8))  # a quarter of the memory, and exact
        self.films = torch.cat(films)
        self.cells = torch.from_numpy(np.stack(list(map(_cells, captions, self.scenes))))

    def videos(self, chosen: np.ndarray) -> torch.Tensor:
        return self.films[chosen].float() / 255


def _cells(caption: MovingCaption, scene: list[Path]) -> np.ndarray:
    """Colour, shape and motion of what covers the middle of each cell, `[T, 4, 4, 3]`; one past the last = nothing."""
    facts = np.empty((GRID[0], 32 // CELL, 32 // CELL, 3), dtype=np.int64)
    facts[:] = len(COLOURS), len(SHAPES), len(DIRECTIONS)
    middle = np.arange(32 // CELL) * CELL + CELL / 2
    for time in range(GRID[0]):
        for part, path in zip(caption.parts, scene, strict=True):
            # In the middle of the stretch; the last one is short and would lie beyond the end.
            placed = path.at(min(1.0, (STRETCH * time + 0.5) / (FRAMES - 1)))
            near = np.hypot(middle[None] - placed.x, middle[:, None] - placed.y) <= placed.radius + 1
            numbers = (list(COLOURS).index(part.thing.colour), SHAPES.index(part.thing.shape))
            facts[time][near] = *numbers, list(DIRECTIONS).index(part.motion)
    return facts


class Lesson:
    """The videos of one step, spoiled, and two captions for each, with what is to be said of them."""

    def __init__(self, pool: Pool, chosen: np.ndarray, seed: int, odds: Sequence[float] = ODDS) -> None:
        generator = torch.Generator().manual_seed(seed)
        chooser = Random(seed)
        clean = pool.videos(chosen)
        scenes = [pool.scenes[index] for index in chosen]
        shaken, unsteady = shake(clean, scenes, np.random.default_rng(seed))
        self.steady = torch.rand(len(chosen), generator=generator) < 1 / 3
        moving = torch.where(self.steady[:, None, None, None, None], clean, shaken)
        spoiled, dirty = spoil(moving, generator)
        pure = torch.rand(len(chosen), generator=generator) < 1 / 3
        seen = torch.where(pure[:, None, None, None, None], moving, spoiled)
        self.videos = soften(seen, generator)
        self.cells = pool.cells[chosen]
        true = 2 * [pool.captions[index] for index in chosen]
        self.captions = [_captioned(caption, odds, chooser) for caption in true]
        flaws: list[bool] = []
        truths = []
        for caption, claimed in zip(true, self.captions, strict=True):
            truth, differences = claims(caption, claimed)
            truths.append([truth])
            flaws.extend(differences)
        self.flaws = torch.tensor(flaws).float()
        quality = torch.stack([dirty * ~pure, unsteady * ~self.steady], 1).neg().repeat(2, 1)
        self.labels = torch.cat([quality, torch.tensor(truths)], 1)


# Drawn anew in every step, so the judge never hears twice that a caption is wrong of a video.
def _captioned(caption: MovingCaption, odds: Sequence[float], chooser: Random) -> MovingCaption:
    """A caption that is true, its parts in any order, or wrong in a way with these odds."""
    if chooser.random() < 0.5:
        caption = KNOWN[caption.parts[::-1]]
    flaw = chooser.choices([None, *FLAWS.values(), _miscounted, _other], weights=odds)[0]
    return caption if flaw is None else twist(caption, flaw, chooser)

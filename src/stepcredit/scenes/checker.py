"""The exact composition checker: reads a picture back and answers four questions about its caption.

The questions are those of GenEval (arXiv 2310.11513): are the right objects there, in the right colours, in the right
number, in the right places? No network is involved: blobs that stand out from the ground are cut out, coloured by
the nearest palette colour and named by the ideal shape that fits their outline best. What fits nothing is "unknown",
and an unknown object makes the answers false; so neither noise nor smears can pass.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from stepcredit.scenes.captions import COLOURS, SHAPES, Caption, Thing
from stepcredit.scenes.renderer import BACKGROUND, Placed, coverage, relation_holds

_PALETTE = np.array(list(COLOURS.values()), dtype=float)
_NAMES = list(COLOURS)
_STANDS_OUT = 60.0  # RGB distance from the ground at which a pixel belongs to an object (half covered: >= 70)
_PURE = 70.0  # RGB distance within which a pixel has a palette colour
_SPECK = 6  # blobs below this many pixels are dirt; more dirt than this in all counts as one more object
_WHOLE = 0.85  # a blob wider or higher than this share of the picture is ground of another colour, not an object
_FIT = 0.80  # least overlap (intersection over union) with an ideal shape


@dataclass(frozen=True)
class Answers:
    """The four answers, each for the whole picture; `correct` is all of them.

    A red circle where a blue one was wanted: `Answers(object=True, colour=False, count=True, position=True)`.
    """

    object: bool
    colour: bool
    count: bool
    position: bool

    @property
    def correct(self) -> bool:
        return self.object and self.colour and self.count and self.position


def find_objects(picture: np.ndarray, *, fit: float = _FIT) -> list[Placed]:
    """The objects of a picture, uint8 `[H, W, 3]`; `radius` is half the mean side of the bounding box.

    `fit` is the least overlap with an ideal shape; what fits none is unknown.
    """
    pixels = picture.astype(float)
    blobs = np.empty(pixels.shape[:2], dtype=np.int32)
    ndimage.label(np.linalg.norm(pixels - BACKGROUND, axis=-1) > _STANDS_OUT, output=blobs)
    objects = []
    dirt = 0
    for index, box in enumerate(ndimage.find_objects(blobs), start=1):
        mask = blobs[box] == index  # the box of a blob may hold pixels of its neighbours
        if mask.sum() < _SPECK:
            dirt += int(mask.sum())
            continue
        rows, columns = box
        height = rows.stop - rows.start
        width = columns.stop - columns.start
        whole = height > _WHOLE * picture.shape[0] or width > _WHOLE * picture.shape[1]
        thing = Thing(_colour(pixels[box][mask]), "unknown" if whole else _shape(mask, fit))
        x = (columns.start + columns.stop) / 2
        y = (rows.start + rows.stop) / 2
        objects.append(Placed(thing, x, y, radius=(width + height) / 4))
    if dirt > _SPECK:
        objects.append(Placed(Thing("unknown", "unknown"), 0.0, 0.0, 0.0))
    return objects


def check(picture: np.ndarray, caption: Caption) -> Answers:
    """Answer the four questions for one picture, uint8 `[H, W, 3]`."""
    objects = find_objects(picture)
    things = [placed.thing for placed in objects]
    wanted = caption.objects
    same_shapes = sorted(thing.shape for thing in things) == sorted(thing.shape for thing in wanted)
    same_colours = sorted(thing.colour for thing in things) == sorted(thing.colour for thing in wanted)
    same_things = sorted(map(str, things)) == sorted(map(str, wanted))
    return Answers(
        object=same_shapes,
        # With the right shapes, each must wear its own colour; with wrong ones, no shape says whose a colour is.
        colour=same_things if same_shapes else same_colours,
        count=len(things) == len(wanted),
        position=caption.relation is None or (same_things and _in_relation(objects, caption)),
    )


def questions(picture: np.ndarray, caption: Caption) -> dict[str, bool]:
    """The answers by name, only to what the caption asks: number for a count, place for a position."""
    answers = check(picture, caption)
    by_name = {"object": answers.object, "colour": answers.colour}
    if caption.kind == "count":
        by_name["count"] = answers.count
    if caption.kind == "position":
        by_name["position"] = answers.position
    return by_name


def _in_relation(objects: list[Placed], caption: Caption) -> bool:
    """Whether the two objects, which are known to be the caption's, stand as it says."""
    assert caption.relation is not None
    by_thing = {placed.thing: placed for placed in objects}
    first, second = (by_thing[thing] for thing in caption.things)
    return relation_holds(caption.relation, first, second)


def _colour(pixels: np.ndarray) -> str:
    """The palette colour of a blob's pixels `[pixels, 3]`, or "unknown"."""
    distances = np.linalg.norm(pixels[:, None] - _PALETTE, axis=-1)  # [pixels, colours]
    pure = distances.min(axis=1) < _PURE
    # Edges are anti-aliased, so many pixels of a small thing are mixed with the ground; half of them must be pure.
    if pure.mean() < 0.5:
        return "unknown"
    votes = np.bincount(distances[pure].argmin(axis=1), minlength=len(_NAMES))
    return _NAMES[int(votes.argmax())] if votes.max() >= 0.8 * votes.sum() else "unknown"


def _shape(mask: np.ndarray, fit: float) -> str:
    """The shape of a blob `[height, width]` that fills its box, or "unknown"."""
    height, width = mask.shape
    # All three shapes are about as wide as high; two that touch are not.
    if not 0.7 <= width / height <= 1.43:
        return "unknown"
    size = max(height, width)
    overlaps = []
    for shape in SHAPES:
        ideal = coverage(shape, width / 2, height / 2, width / 2, height / 2, size)[:height, :width] > 0.4
        overlaps.append((mask & ideal).sum() / (mask | ideal).sum())
    return SHAPES[int(np.argmax(overlaps))] if max(overlaps) >= fit else "unknown"

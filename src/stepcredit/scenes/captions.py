"""The captions of the drawn world: one grammar, every sentence it can say, and three splits that never mix.

    single      a red circle
    count       two red circles, three red circles
    pair        a red circle and a blue square
    position    a red circle left of a blue square        (also: right of, above, below)

Six colours and three shapes make 18 *things*. Three things never occur in training ("new combinations": their
colour and their shape are known, together they are not). Of the captions made from the other fifteen, one fifth
of each kind is held out.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, TypeVar, get_args, runtime_checkable

Kind = Literal["single", "count", "pair", "position"]
Split = Literal["training", "held_out", "new_combinations"]
KINDS: tuple[Kind, ...] = get_args(Kind)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (226, 52, 48),
    "green": (52, 178, 78),
    "blue": (52, 98, 230),
    "yellow": (246, 206, 52),
    "purple": (162, 62, 200),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {"two": 2, "three": 3}

_HELD_OUT_SHARE = 0.2  # of the captions of each kind
_SPLIT_SEED = 20260419  # fixes which captions are held out; changing it changes the world


@dataclass(frozen=True)
class Thing:
    """One colour and one shape: `Thing("red", "circle")` is the "red circle" of a caption."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@runtime_checkable
class HasKind(Protocol):
    """Any caption of a drawn world: what `balanced` and the prompt sources need to know of it."""

    @property
    def kind(self) -> str: ...


Kinded = TypeVar("Kinded", bound=HasKind)

# One of each shape, and each of their colours and shapes occurs in training with other partners.
NEW_COMBINATIONS = frozenset({Thing("blue", "triangle"), Thing("yellow", "circle"), Thing("purple", "square")})


@dataclass(frozen=True)
class Caption:
    """What a picture has to show: `things` in the order of the sentence; `count` copies when there is one thing.

    "a red circle left of a blue square" and "two red circles" are

        Caption("position", (Thing("red", "circle"), Thing("blue", "square")), relation="left of")
        Caption("count", (Thing("red", "circle"),), count=2)
    """

    kind: Kind
    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None

    @property
    def objects(self) -> tuple[Thing, ...]:
        """Every object of the picture, copies included."""
        return self.things * self.count

    def __str__(self) -> str:
        first = self.things[0]
        if self.kind == "single":
            return f"a {first}"
        if self.kind == "count":
            number = next(word for word, value in NUMBERS.items() if value == self.count)
            return f"{number} {first}s"
        joint = "and" if self.kind == "pair" else self.relation
        return f"a {first} {joint} a {self.things[1]}"


@cache
def every_caption() -> tuple[Caption, ...]:
    """All 1,584 captions of the grammar, in a fixed order."""
    things = [Thing(colour, shape) for colour in COLOURS for shape in SHAPES]
    couples = [(first, second) for first in things for second in things if first != second]
    return (
        *(Caption("single", (thing,)) for thing in things),
        *(Caption("count", (thing,), count=count) for thing in things for count in NUMBERS.values()),
        *(Caption("pair", couple) for couple in couples),
        *(Caption("position", couple, relation=relation) for couple in couples for relation in RELATIONS),
    )


@cache
def split(name: Split) -> tuple[Caption, ...]:
    """The captions of one split; the three splits together are `every_caption()`, without overlap."""
    known = [caption for caption in every_caption() if not NEW_COMBINATIONS.intersection(caption.things)]
    if name == "new_combinations":
        return tuple(caption for caption in every_caption() if NEW_COMBINATIONS.intersection(caption.things))
    chooser = random.Random(_SPLIT_SEED)
    held_out: set[Caption] = set()
    # By kind and in this order: the draws follow one another, so another order would hold out other captions.
    for kind in KINDS:
        of_kind = [caption for caption in known if caption.kind == kind]
        held_out.update(chooser.sample(of_kind, round(_HELD_OUT_SHARE * len(of_kind))))
    return tuple(caption for caption in known if (caption in held_out) == (name == "held_out"))


@cache
def _by_text() -> dict[str, Caption]:
    return {str(caption): caption for caption in every_caption()}


def parse(text: str) -> Caption | None:
    """The caption that a sentence says, or None when the grammar cannot say it."""
    # The grammar is small enough to be looked up; capitals, spaces and a full stop are the only liberties.
    return _by_text().get(" ".join(text.lower().split()).rstrip("."))


def balanced(captions: Sequence[Kinded], count: int, seed: int) -> list[Kinded]:
    """Draw `count` captions with every kind equally often (the grammar has 68 position captions for each single)."""
    chooser = random.Random(seed)
    of_kind: dict[str, list[Kinded]] = {}
    for caption in captions:
        of_kind.setdefault(caption.kind, []).append(caption)
    kinds = list(of_kind)
    return [chooser.choice(of_kind[kinds[index % len(kinds)]]) for index in range(count)]

"""What is to be drawn: a text, and what its source knows about it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prompt:
    """One text, from its source to the rewards; for example `Prompt("two red circles", 17, {"kind": "count"})`.

    `id` is its place in the source's list. `facts` are whatever a reward or an evaluation may ask beyond the words: the
    kind of a drawn caption, the word that a picture has to spell, a GenEval specification.
    """

    text: str
    id: int
    # Facts may hold lists and mappings, which have no hash: equality compares them, the hash goes by text and place.
    facts: Mapping[str, object] = field(default_factory=dict, hash=False)

    @classmethod
    def listed(
        cls, texts: Iterable[str], *, facts: Callable[[str], Mapping[str, object]] = lambda text: {}
    ) -> "tuple[Prompt, ...]":
        """A prompt for each text, numbered in their order; `facts` says what is known of a text."""
        return tuple(cls(text, place, facts(text)) for place, text in enumerate(texts))

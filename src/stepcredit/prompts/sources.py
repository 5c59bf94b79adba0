"""Prompt sources. What an iteration draws is a pure function of (seed, iteration): no state, no workers."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stepcredit.errors import PromptError
from stepcredit.files.reading import read_text
from stepcredit.records import Key, Prompt

_MOST_BYTES = 2**28
"""Millions of prompts; all of them are held in memory."""


class Listed:
    """A fixed list of texts, walked through in a new random order every epoch; `facts` says what is known of a text."""

    def __init__(self, texts: Sequence[str], *, facts: Callable[[str], Mapping[str, object]] = lambda text: {}) -> None:
        if not texts:
            raise PromptError("got no prompts; give at least one")
        self.prompts = Prompt.listed(texts, facts=facts)

    def draw(self, count: int, key: Key) -> list[Prompt]:
        # Iterations follow one another along one endless walk, so an iteration may end one epoch and begin the next.
        steps = range(key.iteration * count, (key.iteration + 1) * count)
        places = [divmod(step, len(self.prompts)) for step in steps]
        orders = {epoch: self._order(Key(key.seed, epoch)) for epoch, _ in places}
        return [self.prompts[orders[epoch][place]] for epoch, place in places]

    def _order(self, epoch: Key) -> list[int]:
        order = list(range(len(self.prompts)))
        epoch.words().shuffle(order)
        return order


def read_file(path: Path) -> list[str]:
    """One prompt a line, ended by LF, CRLF or CR; empty lines are skipped."""
    if not os.path.exists(path):  # not Path.exists, which fails on a name that is too long
        raise PromptError(f"there is no prompt file {path}; check `prompts.path`")
    text = read_text(path, most_bytes=_MOST_BYTES, error=PromptError, advice="take a part of it")
    # Not splitlines: captions from the web hold U+2028 and the like, where no line of the file ends.
    lines = [line.strip() for line in text.split("\n")]
    prompts = [line for line in lines if line]
    if not prompts:
        raise PromptError(f"{path} holds no prompts, wanted one a line")
    return prompts

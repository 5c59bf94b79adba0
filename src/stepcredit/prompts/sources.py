"""Prompt sources. What an iteration draws is a pure function of (seed, iteration): no state, no workers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stepcredit.errors import PromptError
from stepcredit.records import Key, Prompt


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
    """One prompt a line; empty lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: Windows editors put a mark in front of the first prompt
    except FileNotFoundError:
        raise PromptError(f"there is no prompt file {path}; check `prompts.path`") from None
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise PromptError(f"{path} holds no prompts, wanted one a line")
    return prompts

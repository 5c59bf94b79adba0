"""Prompt sources. What an iteration draws is a pure function of (seed, iteration): no state, no workers."""

import random
from collections.abc import Sequence
from pathlib import Path

from stepcredit.errors import PromptError
from stepcredit.scenes import captions, moving
from stepcredit.scenes.captions import HasKind, balanced
from stepcredit.settings.prompts import FilePrompts, ListedPrompts, MovingScenesPrompts, PromptChoice


class Listed:
    """A fixed list, walked through in a new random order every epoch."""

    def __init__(self, prompts: Sequence[str]) -> None:
        if not prompts:
            raise PromptError("got no prompts; give at least one")
        self.prompts = tuple(prompts)

    def draw(self, count: int, *, seed: int, iteration: int) -> list[str]:
        places = [divmod(index, len(self.prompts)) for index in range(iteration * count, (iteration + 1) * count)]
        orders = {epoch: self._order(seed, epoch) for epoch, _ in places}
        return [self.prompts[orders[epoch][at]] for epoch, at in places]

    def _order(self, seed: int, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        return order


class Scenes:
    """Captions of a drawn world, every kind equally often."""

    def __init__(self, captions: Sequence[HasKind]) -> None:
        self._captions = captions
        self.prompts = tuple(str(caption) for caption in captions)

    def draw(self, count: int, *, seed: int, iteration: int) -> list[str]:
        mixed = random.Random(f"{seed}-{iteration}").getrandbits(32)
        return [str(caption) for caption in balanced(self._captions, count, mixed)]


def read_file(path: Path) -> list[str]:
    """One prompt a line; empty lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def from_settings(settings: PromptChoice) -> Listed | Scenes:
    """The source that a recipe names."""
    if isinstance(settings, FilePrompts):
        return Listed(read_file(settings.path))
    if isinstance(settings, ListedPrompts):
        return Listed(settings.prompts)
    if isinstance(settings, MovingScenesPrompts):
        return Scenes(moving.split(settings.split))
    return Scenes(captions.split(settings.split))

"""Captions of a drawn world as a source of prompts: what recipes call `scenes` and `moving_scenes`."""

from collections.abc import Sequence

from stepcredit.records import Key, Prompt
from stepcredit.scenes.captions import HasKind, balanced


class Scenes:
    """Captions of a drawn world, every kind equally often; each prompt knows its kind.

    For example `Scenes(captions.split("training")).draw(4, Key(0, iteration=0))`.
    """

    def __init__(self, captions: Sequence[HasKind]) -> None:
        kinds = {str(caption): caption.kind for caption in captions}
        self.prompts = Prompt.listed(kinds, facts=lambda text: {"kind": kinds[text]})
        self._captions = captions
        self._by_text = {prompt.text: prompt for prompt in self.prompts}

    def draw(self, count: int, key: Key) -> list[Prompt]:
        seed = key.words().getrandbits(32)
        return [self._by_text[str(caption)] for caption in balanced(self._captions, count, seed)]

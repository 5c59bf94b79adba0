"""Prompts to embeddings: each distinct prompt once, kept in main memory, the encoders off the device in between."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from cachetools import LRUCache
from torch import Tensor

from stepcredit.errors import during

Encode = Callable[[list[str]], Mapping[str, Tensor]]
Row = dict[str, Tensor]
"""The embeddings of one prompt by name, such as `{"encoder_hidden_states": [length, channels]}`."""


class TextCache:
    """Embeddings by prompt, at most `size` of them between calls; the least recently used goes first.

    `encode` maps at most `batch` prompts to named tensors `[B, ...]`; `ready` is entered while it runs. Rows of
    different length (axis 1 of what `encode` returns in two calls) are padded with zeros to the longest.
    """

    def __init__(
        self, encode: Encode, size: int, ready: Callable[[], AbstractContextManager[object]], *, batch: int = 16
    ) -> None:
        self._encode = encode
        self._ready = ready
        self._batch = batch
        self._rows: LRUCache[str, Row] = LRUCache(size)
        self.encoded = 0
        """Prompts that went through the encoders so far."""

    def __len__(self) -> int:
        return len(self._rows)

    @during("text")
    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Named tensors, one row a prompt, in main memory."""
        distinct = list(dict.fromkeys(prompts))
        # the rows of this call are held apart from the cache, which may be smaller than the call
        rows = {prompt: self._rows[prompt] for prompt in distinct if prompt in self._rows}
        rows |= self._encoded([prompt for prompt in distinct if prompt not in rows])
        if self._rows.maxsize > 0:  # a cache of size 0 refuses every item
            for prompt in distinct:
                self._rows[prompt] = rows[prompt]
        tensors = {}
        for name in rows[distinct[0]]:
            tensors[name] = stack_padded([rows[prompt][name] for prompt in prompts])
        return tensors

    def _encoded(self, prompts: list[str]) -> dict[str, Row]:
        """The rows of prompts that are not known yet."""
        rows: dict[str, Row] = {}
        if not prompts:
            return rows
        with self._ready():
            for first in range(0, len(prompts), self._batch):
                batch = prompts[first : first + self._batch]
                tensors = self._encode(batch)
                for index, prompt in enumerate(batch):
                    # copies: a view would keep the whole batch alive for as long as one of its rows is cached
                    rows[prompt] = {name: tensor[index].to("cpu", copy=True) for name, tensor in tensors.items()}
        self.encoded += len(prompts)
        return rows


def stack_padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows `[length, ...]` stacked to `[B, longest, ...]`, short ones filled with zeros at the end."""
    if rows[0].ndim == 0 or len({row.shape[0] for row in rows}) == 1:
        return torch.stack(list(rows))
    longest = max(row.shape[0] for row in rows)
    padded = []
    for row in rows:
        padding = row.new_zeros(longest - len(row), *row.shape[1:])
        padded.append(torch.cat([row, padding]))
    return torch.stack(padded)

"""Prompts to embeddings: each distinct prompt once, kept in main memory, the encoders off the device in between."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from stepcredit.errors import during

Encode = Callable[[list[str]], Mapping[str, Tensor]]


class TextCache:
    """Embeddings by prompt, at most `size` of them between calls; the least recently used goes first.

    `encode` maps at most `batch` prompts to named tensors `[B, ...]`; `ready` is entered while it runs. Rows of
    different length (axis 1 of what `encode` returns in two calls) are padded with zeros to the longest.
    """

    def __init__(
        self, encode: Encode, size: int, ready: Callable[[], AbstractContextManager[object]], *, batch: int = 16
    ) -> None:
        self._encode, self._size, self._ready, self._batch = encode, size, ready, batch
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self.encoded = 0
        """Prompts that went through the encoders so far."""

    def __len__(self) -> int:
        return len(self._kept)

    @during("text")
    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Named tensors, one row a prompt, in main memory."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]
        if missing:
            with self._ready():
                for first in range(0, len(missing), self._batch):
                    some = missing[first : first + self._batch]
                    tensors = self._encode(some)
                    for row, prompt in enumerate(some):
                        self._kept[prompt] = {
                            name: tensor[row].to("cpu", copy=True) for name, tensor in tensors.items()
                        }
            self.encoded += len(missing)
        rows = [self._kept[prompt] for prompt in prompts]
        for prompt in dict.fromkeys(prompts):
            self._kept.move_to_end(prompt)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return {name: stack_padded([row[name] for row in rows]) for name in rows[0]}


def stack_padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows `[length, ...]` stacked to `[B, longest, ...]`, short ones filled with zeros at the end."""
    if rows[0].ndim == 0 or len({row.shape[0] for row in rows}) == 1:
        return torch.stack(list(rows))
    longest = max(row.shape[0] for row in rows)
    return torch.stack([torch.cat([row, row.new_zeros(longest - len(row), *row.shape[1:])]) for row in rows])

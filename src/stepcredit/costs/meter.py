"""Work and memory of PyTorch operations, counted on the meta device: tensors there have shapes and no memory.

The work is what `torch.utils.flop_counter` says of each operation. Its own `FlopCounterMode` is not used, though it
counts the same FLOPs: it takes 1.4 times as long, and its module hooks keep alive what gradient checkpointing frees,
which would make the peak ten times too high.
"""

import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

META = torch.device("meta")
ATTENTION: Any = torch.ops.aten


class Meter(TorchDispatchMode):
    """Counts, while it is entered, the work of operations, and the bytes of the tensors that they make and that live.

    A forward of FLUX.1-dev at 512 x 512: `flops` 21_732_112_465_920, `peak` 162_447_374 bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [*tensors_of(args), *tensors_of(kwargs.values())]
        storages = {operand.untyped_storage()._cdata for operand in operands}  # pyright: ignore[reportPrivateUsage]
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tensors_of((result,)):
            if tensor.device == META:  # levels and time steps are computed on the CPU, and are small
                self._see(tensor.untyped_storage(), storages)
        return result

    def _see(self, storage: Any, operands: set[int]) -> None:
        """A storage that no operand had is new; it is known until it is freed."""
        # A view has its operand's storage, which the meter need not know: weights were there before it.
        address = storage._cdata
        if address in operands or address in self._storages:
            return
        size = storage.nbytes()
        self._storages.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        # What lives until Python ends need not be forgotten one by one.
        weakref.finalize(storage, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size


def tensors_of(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's operands or results, also those in lists; PyTorch nests them no deeper."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_of(value)


@contextmanager
def metered() -> Generator[Meter]:
    """Inside, work and peak of what runs on the meta device are counted."""
    with fused_attention(), Meter() as meter:
        yield meter


@contextmanager
def fused_attention() -> Generator[None]:
    """Inside, attention is as GPUs do it: the whole matrix of weights is never there."""
    # On the meta device PyTorch would multiply it out and keep it for the backward.
    # The function is replaced, since modes of PyTorch do not reach what checkpointing computes again.
    unfused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _fused
    try:
        yield
    finally:
        F.scaled_dot_product_attention = unfused


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention` by the kernel that CUDA would choose: flash, or the one that takes a mask."""
    del dropout_p  # the generator is in evaluation mode
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key = key.repeat_interleave(repeats, dim=1)
        value = value.repeat_interleave(repeats, dim=1)
    if attn_mask is None:
        return ATTENTION._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
    bias = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    # True: the log-sum-exp is computed as well, without which there is no backward.
    return ATTENTION._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, is_causal, scale=scale
    )[0]

"""What a process shares with code of somebody else, as one table: read before it runs, put back afterwards.

Environment variables, the import path and the warning filters stay as foreign code leaves them: its own later calls may
lean on them, and no number of ours does. Whether small numbers are flushed to zero cannot be read.
"""

import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Surrounding:
    """One of the things shared, as in `Surrounding("torch's default dtype", get_default_dtype, set_default_dtype)`."""

    name: str
    # Any: each has values of its own kind, which `read` makes, `==` compares and `write` takes.
    read: Callable[[], Any]
    write: Callable[[Any], object]


State = Mapping[str, Any]
"""The value of each by its name; None where it cannot be read, and so not be put back."""


def read() -> State:
    """All of them as they are now, in this thread."""
    return {item.name: item.read() for item in (*_ANNOUNCED, *_RANDOM)}


def put_back(state: State) -> tuple[str, ...]:
    """Make everything as it was when `state` was read, perhaps in another thread; returns the names of what was not.

    The random generators are put back without a word: to draw is no fault.
    """
    readable = [item for item in _ANNOUNCED if state[item.name] is not None]
    changed = [item for item in readable if item.read() != state[item.name]]
    for item in (*changed, *_RANDOM):
        item.write(state[item.name])
    return tuple(item.name for item in changed)


def seed_generators(seed: int) -> None:
    """Start the global generators that foreign code may draw from.

    seed   32 bits
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _use_default_device(device: torch.device) -> None:
    # None where it is nobody's choice: with "cpu" torch would look at every call.
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _cuda_device() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _matmul_precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to read it here once it was set in the newer way
        return None


def _convolutions() -> tuple[bool, bool, bool, bool | None]:
    cudnn = torch.backends.cudnn
    try:
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    except RuntimeError:  # as above
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, None


def _use_convolutions(flags: tuple[bool, bool, bool, bool | None]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags[:3]
    if flags[3] is not None:
        cudnn.allow_tf32 = flags[3]


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _attention() -> tuple[bool, ...]:
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )


def _use_attention(enabled: tuple[bool, ...]) -> None:
    cuda = torch.backends.cuda
    switches = (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp, cuda.enable_cudnn_sdp)
    for switch, on in zip(switches, enabled, strict=True):
        switch(on)


def _autocast() -> dict[str, tuple[bool, torch.dtype]]:
    devices = ("cpu", "cuda")
    return {device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices}


def _use_autocast(settings: Mapping[str, tuple[bool, torch.dtype]]) -> None:
    for device, (enabled, dtype) in settings.items():
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _output() -> tuple[object, object]:
    return sys.stdout, sys.stderr


def _use_output(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _signal_handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _use_signal_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    # Python lets the main thread alone set them, so in any other nobody can have changed them.
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _cuda_generators() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


_ANNOUNCED = (
    Surrounding("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Surrounding("torch's default device", torch.get_default_device, _use_default_device),
    Surrounding("torch's current CUDA device", _cuda_device, torch.cuda.set_device),
    Surrounding("whether torch keeps gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    Surrounding("torch's autocast", _autocast, _use_autocast),
    Surrounding("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Surrounding(
        "torch's deterministic algorithms",
        _deterministic,
        lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1]),
    ),
    Surrounding("torch's precision of products", _matmul_precision, torch.set_float32_matmul_precision),
    Surrounding("torch's settings of cuDNN", _convolutions, _use_convolutions),
    Surrounding("torch's choice of attention", _attention, _use_attention),
    Surrounding("NumPy's handling of floating-point errors", np.geterr, lambda settings: np.seterr(**settings)),
    Surrounding(
        "whether Python collects garbage", gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()
    ),
    Surrounding("the working directory", _working_directory, os.chdir),
    Surrounding("where output is printed", _output, _use_output),
    Surrounding("who hears Ctrl-C and SIGTERM", _signal_handlers, _use_signal_handlers),
)
_RANDOM = (
    Surrounding("Python's generator", random.getstate, random.setstate),
    Surrounding("NumPy's generator", np.random.get_state, np.random.set_state),
    Surrounding("torch's generator", torch.get_rng_state, torch.set_rng_state),
    Surrounding("the generators of CUDA", _cuda_generators, torch.cuda.set_rng_state_all),
)

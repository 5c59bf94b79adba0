"""What a scorer returned, as numbers: every honest form of them is taken, and whatever is none is NaN with a reason."""

import inspect
from collections.abc import Iterable, Mapping, Set, Sized
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from stepcredit.errors import RewardError

_WANTED = "wanted one number each"
_MASKED = "masked by the reward"
_KINDS = {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "durations"}
"""Kinds of NumPy arrays that it would make floats of, though they are no scores."""


def numbers_of(answer: object, count: int) -> tuple[Float[np.ndarray, " B"], dict[int, str]]:
    """An answer as `count` float64 numbers, NaN where one is missing, and the reason of each that is not a number.

    NaN and infinity that the answer holds itself are returned as they are, without a reason.

    Arguments:
        answer:  array, tensor of any float type or device, list, tuple or iterator of numbers
        count:   pictures or videos that were to be scored

    Raises:
        RewardError: it is not a row of that many numbers; the message says what it is, as in `returned None`.
    """
    if isinstance(answer, np.ma.MaskedArray):
        values, reasons = _plain(np.ma.getdata(answer), count)
        hidden = np.ma.getmaskarray(answer)  # there may be anything under a mask
        masked = dict.fromkeys(np.flatnonzero(hidden).tolist(), _MASKED)
        return np.where(hidden, np.nan, values), reasons | masked
    if isinstance(answer, Tensor):
        return _plain(_array(answer), count)
    if hasattr(answer, "__array__"):
        return _plain(np.asarray(answer), count)
    return _each(_listed(answer, count), count)


def _plain(array: np.ndarray, count: int) -> tuple[np.ndarray, dict[int, str]]:
    """The same for an array."""
    if array.dtype.kind in _KINDS:
        raise RewardError(f"returned {_KINDS[array.dtype.kind]} for {count} pictures; {_WANTED}")
    if array.shape != (count,):
        hint = "; flatten it: scores.reshape(-1)" if array.size == count and array.ndim > 1 else ""
        raise RewardError(f"returned shape {array.shape} for {count} pictures{hint}")
    if array.dtype.kind == "O":
        return _each(list(array), count)
    # A copy, since NaN is written into it and the scorer may keep its array.
    with np.errstate(over="ignore"):  # of wider floats; it becomes infinity, which is told of
        return array.astype(np.float64), {}


def _each(items: list[Any], count: int) -> tuple[np.ndarray, dict[int, str]]:
    """The same for items of any type, of which some may be no numbers."""
    if len(items) != count:
        raise RewardError(f"returned shape ({len(items)},) for {count} pictures")
    values = np.full(count, np.nan)
    reasons: dict[int, str] = {}
    for row, item in enumerate(items):
        try:
            values[row] = _number(item)
        except OverflowError:
            reasons[row] = "returned a number too large for float64"
        except (TypeError, ValueError):
            reasons[row] = _MASKED if item is np.ma.masked else f"returned {_called(item)}; {_WANTED}"
    return values, reasons


def _number(item: Any) -> float:
    """One number; TypeError, ValueError or OverflowError where it is none."""
    if isinstance(item, Tensor):
        item = _array(item)
    # Text such as "0.5" could be read, and would be a guess; NumPy turns dates and complex numbers into floats.
    if isinstance(item, str | bytes | bytearray | complex) or item is np.ma.masked:
        raise TypeError
    if isinstance(item, np.ndarray | np.generic) and (item.ndim or item.dtype.kind in _KINDS):
        raise TypeError
    return float(item)


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as NumPy holds it, whatever its type, device and graph."""
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16; in float64 every smaller float is what it was.
    return tensor.double().numpy() if tensor.is_floating_point() else tensor.resolve_conj().resolve_neg().numpy()


def _listed(answer: Any, count: int) -> list[Any]:
    """The items of a list, or of an iterator, which may have no end."""
    if inspect.iscoroutine(answer):
        answer.close()  # Python would warn that nobody waited for it
        raise RewardError("is an async function; a reward has to return its numbers itself")
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping):
        raise RewardError("returned scores and a dictionary beside them; return the scores alone")
    if isinstance(answer, Mapping):
        raise RewardError(f"returned a dictionary with {', '.join(map(str, answer)) or 'nothing'}; {_WANTED}")
    if isinstance(answer, Set):
        raise RewardError(f"returned a set, which has no order; {_WANTED}")
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise RewardError(f"returned {_called(answer)} for {count} pictures; {_WANTED}")
    items = list(answer if isinstance(answer, Sized) else islice(answer, count + 1))
    if len(items) > count and not isinstance(answer, Sized):
        raise RewardError(f"returned more than {count} numbers for {count} pictures")
    return items


def _called(answer: Any) -> str:
    """What an answer that is no number is called."""
    if answer is None:
        return "None"
    if isinstance(answer, str):
        return "text"
    if isinstance(answer, Tensor | np.ndarray):
        return f"shape {tuple(answer.shape)}" if answer.ndim else str(answer.dtype)
    return type(answer).__name__

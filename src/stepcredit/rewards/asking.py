"""Asks one reward behind its fence, and makes columns of finite numbers and reasons of whatever it answers."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.errors import RewardError
from stepcredit.foreign.fence import Fence, shortened
from stepcredit.protocols import Reward
from stepcredit.records import Problem, Prompt, RewardBatch
from stepcredit.rewards.numbers import numbers_of

_MOST_PROBLEMS = 1000  # that one answer may tell of; more would fill the run folder

Columns = dict[str, np.ndarray]
"""The numbers of each output; NaN where there is none."""


class Fenced:
    """A reward behind a fence: it is handed copies, and neither errors nor what it changes get out."""

    def __init__(self, reward: Reward) -> None:
        self.outputs = tuple(reward.outputs)
        self.exact = bool(getattr(reward, "exact", False))
        self._reward = reward
        self._label = "+".join(self.outputs)
        self._fence = Fence(getattr(reward, "time_limit", None))

    def ask(self, batch: RewardBatch, *, seed: int, waiting: Callable[[], None]) -> tuple[Columns, list[Problem]]:
        """Its columns; whatever is wrong with them is NaN and a problem."""
        # Inside the fence the answer is read, too: an iterator of theirs runs their code.
        outcome = self._fence.call(lambda: self._answer(_copied(batch)), seed=seed, waiting=waiting)
        if outcome.value is None:
            columns = {name: np.full(len(batch.media), np.nan) for name in self.outputs}
            problems = [Problem(self._label, (), outcome.reason or "answered nothing")]
        else:
            columns, problems = self._checked(*outcome.value)
        changes = [Problem(self._label, (), f"changed {name}; it was put back") for name in outcome.changed]
        return columns, problems + changes

    def fingerprint(self) -> dict[str, str]:
        """What the reward says of itself; one that fails at it has said so."""
        outcome = Fence().call(lambda: {str(key): str(value) for key, value in self._reward.fingerprint().items()})
        return outcome.value if outcome.value is not None else {"unknown": f"fingerprint() {outcome.reason}"}

    def _answer(self, batch: RewardBatch) -> tuple[Columns, list[Problem]]:
        """What the reward answers, as plain arrays of the right shape and problems of known outputs and rows."""
        output = self._reward.score(batch)
        count = len(batch.media)
        columns: Columns = {}
        problems = [self._problem(error, count) for error in _listed(output.errors)]
        for name in self.outputs:
            columns[name], reasons = self._numbers(name, output.scores, count)
            problems += reasons
        return columns, problems

    def _numbers(
        self, name: str, scores: Mapping[str, object], count: int
    ) -> tuple[Float[np.ndarray, " B"], list[Problem]]:
        """One output."""
        if name not in scores:
            returned = f"{len(scores)} others: {shortened(', '.join(map(str, scores)))}" if scores else "none at all"
            return np.full(count, np.nan), [Problem(name, (), f"returned no scores of this name, but {returned}")]
        try:
            values, reasons = numbers_of(scores[name], count)
        except RewardError as error:
            return np.full(count, np.nan), [Problem(name, (), shortened(error))]
        return values, list(Problem.by_reason(name, reasons))

    def _problem(self, error: Any, count: int) -> Problem:
        """What the reward says about missing scores, in the form that it should have."""
        if not isinstance(error, Problem):
            return Problem(self._label, (), shortened(error))
        # Names that are not its own would be read as another reward's, and rows that are not there by nobody.
        names = [name for name in self.outputs if name in str(error.reward).split("+")]
        rows = tuple(int(row) for row in _listed(error.rows) if _is_row(row, count))
        return Problem("+".join(names) or self._label, rows, shortened(error.reason))

    def _checked(self, columns: Columns, problems: list[Problem]) -> tuple[Columns, list[Problem]]:
        """Finite numbers and NaN, with a problem for every NaN that the reward's own do not explain."""
        finite: Columns = {}
        for name, values in columns.items():
            # Problems of one output say nothing of the next: each is told what is wrong with itself.
            finite[name], own_problems = _finite(name, values, problems)
            problems = problems + own_problems
        return finite, problems


def _finite(
    name: str, values: Float[np.ndarray, " B"], problems: Sequence[Problem]
) -> tuple[Float[np.ndarray, " B"], list[Problem]]:
    """One column without infinities, and why numbers are missing in it where no problem says so."""
    count = len(values)
    infinite = np.isinf(values)
    unexplained = np.isnan(values) & ~_explained(name, count, problems)
    reasons = {"infinity": infinite, "NaN": unexplained}
    return np.where(infinite, np.nan, values), [
        Problem(name, tuple(np.flatnonzero(rows).tolist()), f"returned {what} for {rows.sum()} of {count} pictures")
        for what, rows in reasons.items()
        if rows.any()
    ]


def _explained(name: str, count: int, problems: Sequence[Problem]) -> Bool[np.ndarray, " B"]:
    """The rows for which a problem of this output was told already."""
    explained = np.zeros(count, dtype=bool)
    for problem in problems:
        if problem.concerns(name):
            # No rows stand for all, or for a scorer that did not say which.
            explained |= np.isin(np.arange(count), problem.rows) if problem.rows else True
    return explained


def _is_row(row: Any, count: int) -> bool:
    """Whether this is the number of a row; Python counts True as 1."""
    return isinstance(row, int | np.integer) and not isinstance(row, bool) and 0 <= int(row) < count


def _listed(several: Any) -> list[Any]:
    """What should be a tuple of things, of which somebody else may have made one thing or nothing."""
    if several is None:
        return []
    if isinstance(several, str | Problem) or not isinstance(several, Iterable):
        return [several]
    return list(islice(several, _MOST_PROBLEMS))


def _copied(batch: RewardBatch) -> RewardBatch:
    """A batch that a reward may write into: many normalise in place, and the stored pictures are to stay."""
    memory: dict[int, Prompt] = {}
    for prompt in batch.prompts:
        if id(prompt) not in memory:  # siblings share their prompt
            memory[id(prompt)] = replace(prompt, facts=_own(prompt.facts))
    return replace(batch, media=batch.media.copy(), prompts=tuple(memory[id(prompt)] for prompt in batch.prompts))


def _own(value: Any) -> Any:
    """A copy of facts, all the way down; what is neither a container nor an array is shared."""
    # Not `deepcopy`, which stops at mapping proxies and locks.
    match value:
        case Mapping():
            return {key: _own(item) for key, item in value.items()}
        case list():
            return [_own(item) for item in value]
        case tuple():
            return tuple(_own(item) for item in value)
        case set():
            return set(value)
        case np.ndarray():
            return value.copy()
        case Tensor():
            return value.clone()
        case _:
            return value


def seed_of(batch: RewardBatch) -> int:
    """Seed of the rewards that draw, from what is scored alone: the same pictures get the same scores, also after a
    resume."""
    words = "\0".join(batch.texts).encode("utf-8", "surrogatepass")
    return zlib.crc32(np.ascontiguousarray(batch.media).data, zlib.crc32(words))

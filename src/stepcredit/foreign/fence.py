"""A fence around calls of foreign code: what it raises, leaks or never finishes becomes a reason."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from stepcredit.foreign import surroundings

_SLICE = 0.1  # seconds; Python runs signal handlers between two waits of the main thread
_LONGEST = 500  # characters of a message of somebody else

Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What came of a call: a value, or why there is none; for example `Outcome(None, "called sys.exit(0)")`.

    `changed` names what the call changed of its surroundings, which is as before again.
    """

    value: Value | None
    reason: str | None = None
    changed: tuple[str, ...] = ()


class Fence:
    """Calls one scorer, loader or the like of somebody else; one call at a time.

    With a time limit (seconds) calls run in a thread of their own, while the caller waits in short slices: a hang is
    given up, and signals are heard. A timer signal would leave code in C alone, and a process could not share models.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self._time_limit = time_limit
        self._given_up: threading.Event | None = None  # set once the call that was given up is over after all

    def call(
        self, function: Callable[[], Value], *, seed: int | None = None, waiting: Callable[[], None] = lambda: None
    ) -> Outcome[Value]:
        """The function's value, or the reason why there is none.

        seed      32 bits that start the global generators of Python, NumPy and torch for this call alone; None goes on
                  from where they are
        waiting   called several times a second while there is a time limit; what it raises gives the call up
        """
        if self._given_up is not None and not self._given_up.is_set():
            # A second thread beside it could use the same model at the same time.
            return Outcome(None, "is still busy with an earlier call, which was given up")
        call = _Call(function, seed)
        if self._time_limit is None:
            return call.run()
        return self._wait(call, self._time_limit, waiting)

    def _wait(self, call: "_Call[Value]", time_limit: float, waiting: Callable[[], None]) -> Outcome[Value]:
        deadline = time.monotonic() + time_limit
        # A daemon: one that hangs must not keep the process from ending.
        threading.Thread(target=call.run_elsewhere, name="stepcredit-foreign", daemon=True).start()
        try:
            # Not `join`: Python before 3.13 takes a thread for ended when a signal interrupts that.
            while not call.over.wait(min(_SLICE, max(deadline - time.monotonic(), 0))):
                waiting()
                if time.monotonic() >= deadline:
                    break
        except BaseException:
            self._give_up(call)
            raise
        if call.outcome is None:
            changed = self._give_up(call)
            return Outcome(None, f"took longer than its time limit of {time_limit:g} s and was given up", changed)
        return call.outcome

    def _give_up(self, call: "_Call[Value]") -> tuple[str, ...]:
        self._given_up = call.over
        return call.leave()


class _Call(Generic[Value]):
    """One call, with the surroundings of whoever made it."""

    def __init__(self, function: Callable[[], Value], seed: int | None) -> None:
        self.outcome: Outcome[Value] | None = None
        self.over = threading.Event()
        self._function = function
        self._seed = seed
        self._before = surroundings.read()
        self._left = False
        self._lock = threading.Lock()

    def run(self) -> Outcome[Value]:
        """Here and now; only Ctrl-C gets through, which belongs to the user."""
        try:
            attempt = self._attempt()
        finally:
            changed = surroundings.put_back(self._before)
        return replace(attempt, changed=changed)

    def run_elsewhere(self) -> None:
        """In a thread of its own, into `outcome`."""
        try:
            # Gradient mode, default device and their like belong to a thread, and a new one begins with torch's own.
            surroundings.put_back(self._before)
            attempt = self._attempt()
            with self._lock:
                # Nobody waits any more: to put things back now would change them under somebody's hands.
                if not self._left:
                    self.outcome = replace(attempt, changed=surroundings.put_back(self._before))
        finally:
            self.over.set()

    def leave(self) -> tuple[str, ...]:
        """Wait no longer; what the call has changed so far is put back."""
        with self._lock:
            self._left = True
            return surroundings.put_back(self._before)

    def _attempt(self) -> Outcome[Value]:
        if self._seed is not None:
            surroundings.seed_generators(self._seed)
        try:
            return Outcome(self._function())
        except BaseException as error:  # sys.exit, cancelled tasks: foreign code must not end the run
            # Python raises the user's Ctrl-C in the main thread alone; in any other it is the code's own.
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            return Outcome(None, describe(error))


def describe(error: BaseException) -> str:
    """An exception in one line, `raised ValueError: no ink`, however it behaves when it is printed."""
    if isinstance(error, SystemExit):
        return f"called sys.exit({shortened(error.code)})"
    message = shortened(error)
    return f"raised {type(error).__name__}{': ' if message else ''}{message}"


def shortened(value: object) -> str:
    """Words of somebody else in one line of limited length."""
    try:
        # Cut first: a message may hold a whole batch.
        words = " ".join(str(value)[: 4 * _LONGEST].split())
    except Exception:  # a class of theirs
        return f"a {type(value).__name__} that cannot be printed"
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."

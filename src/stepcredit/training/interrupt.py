"""Ctrl-C and SIGTERM end a run in order: the first finishes the iteration, the second drops it if nothing is lost."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import torch


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised inside an iteration that is dropped: no weight has changed since it began."""


class Interrupt:
    """Listens for SIGINT and SIGTERM while it is entered. `signal` is the first that came, or None.

    A second one drops the iteration that is being computed. Once an optimiser step of it was taken it is finished
    first, because a run cannot be resumed exactly from half an iteration; that is the shorter part of it.
    """

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self.signal: signal.Signals | None = None
        self._tell = tell
        self._announced = False
        self._insisted = False
        self._changed = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupt":
        # Python lets the main thread alone set handlers; in any other a run goes on as if nobody could stop it.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def watch(self, optimiser: torch.optim.Optimizer) -> None:
        """Notice when weights change."""
        optimiser.register_step_post_hook(lambda *_: setattr(self, "_changed", True))

    def begin(self) -> None:
        """An iteration begins: so far nothing is lost by dropping it."""
        self._changed = False

    def check(self) -> None:
        """Called often inside an iteration."""
        if self.signal is not None and not self._announced:
            self._announced = True  # not in the handler: it may interrupt the console in the middle of a line
            self._tell(f"{self.signal.name}: finishing this iteration, then saving; once more to save at once")
        if self._insisted and not self._changed:
            raise Stopped

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Only notes: a handler may run between any two instructions, in the middle of an optimiser step, too.
        if self.signal is None:
            self.signal = signal.Signals(number)
        else:
            self._insisted = True

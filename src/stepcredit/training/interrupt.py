"""Signals end a run in order: the first finishes the iteration, the second drops it if nothing is lost.

SIGINT is Ctrl-C; SIGTERM and SIGUSR1 are what clusters send before they take a machine away; SIGHUP is what a terminal
that is closed sends.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import torch

_ALWAYS = ("SIGINT", "SIGTERM")
_UNLESS_DECIDED = ("SIGHUP", "SIGUSR1")
"""Not where somebody has decided about them: `nohup` ignores SIGHUP so that a run outlives its terminal."""


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised inside an iteration or a look that is dropped: nothing that was saved or can be saved is lost by it."""


class Interrupt:
    """Listens for signals while it is entered. `signal` is the first that came, or None.

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
            for number in _to_be_heard():
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]

    def watch(self, optimiser: torch.optim.Optimizer) -> None:
        """Notice when weights change."""
        optimiser.register_step_post_hook(lambda *_: setattr(self, "_changed", True))

    def begin(self) -> None:
        """An iteration begins: so far nothing is lost by dropping it."""
        self._changed = False

    def check(self) -> None:
        """Called often inside an iteration."""
        self._announce("finishing this iteration, then saving; once more to save at once")
        if self._insisted and not self._changed:
            raise Stopped

    def check_look(self, *, at_once: bool) -> None:
        """Called often inside a look; one that no iteration waits for, before or after training, is left `at_once`."""
        if at_once and self.signal is not None:
            self._announce("stopping; this look at the held-out captions is begun again when the run goes on")
            raise Stopped
        self._announce("finishing this look, then saving; once more to save at once")
        if self._insisted:
            raise Stopped

    def _announce(self, what: str) -> None:
        """Say once what comes of the first signal."""
        if self.signal is not None and not self._announced:
            self._announced = True  # not in the handler: it may interrupt the console in the middle of a line
            self._tell(f"{self.signal.name}: {what}")

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # Only notes: a handler may run between any two instructions, in the middle of an optimiser step, too.
        if self.signal is None:
            self.signal = signal.Signals(number)
        else:
            self._insisted = True


def _to_be_heard() -> list[signal.Signals]:
    """The signals that end a run; those of `_UNLESS_DECIDED` where they would end the process otherwise."""
    # Windows has neither of these.
    undecided = [signal.Signals[name] for name in _UNLESS_DECIDED if name in signal.Signals.__members__]
    return [
        *(signal.Signals[name] for name in _ALWAYS),
        *(number for number in undecided if signal.getsignal(number) is signal.SIG_DFL),
    ]

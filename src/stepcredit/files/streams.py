"""Standard output and error that may go away while work goes on: a closed pipe or terminal, a full disk."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

_OF_THE_PROCESS = (1, 2)  # file descriptors of standard output and error


@contextmanager
def unbroken() -> Generator[None]:
    """Inside, printing never raises because a stream is gone; what is lost that way is said once on the other one."""
    with redirect_stderr(_guarded(sys.stderr, lambda reason: None)):
        with redirect_stdout(_guarded(sys.stdout, _say_that_output_is_gone)):
            try:
                yield
            finally:
                # While it may fail: what waits in a buffer would be written when the process ends, and fail there.
                print(end="", flush=True)  # noqa: T201
        print(end="", flush=True, file=sys.stderr)  # noqa: T201


class Unbroken:
    """A stream that takes everything: once the one behind it has failed, what is written goes nowhere."""

    def __init__(self, stream: Any, tell: Callable[[OSError | ValueError], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._is_gone = False

    def write(self, text: str) -> int:
        """As of any stream; the number of characters that it was given."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        # Whoever writes asks what the stream is: a terminal, its encoding, its number.
        return getattr(self._stream, name)

    def _attempt(self, act: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            act()
        except UnicodeError:
            raise  # a text that does not fit is no stream that is gone
        except (OSError, ValueError) as error:  # ValueError: it was closed by this process
            self._is_gone = True
            self._forget_what_waits()
            self._tell(error)

    def _forget_what_waits(self) -> None:
        """What could not be written is still in the buffer, and would fail again when the process ends."""
        with suppress(OSError, ValueError):
            number = self._stream.fileno()
            if number in _OF_THE_PROCESS:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


def _guarded(stream: Any, tell: Callable[[OSError | ValueError], None]) -> Any:
    # Any: notebooks and tests put all kinds of things in its place.
    # There is no stream in a process without a console, and a run inside a command is guarded already.
    return stream if stream is None or isinstance(stream, Unbroken) else Unbroken(stream, tell)


def _say_that_output_is_gone(reason: OSError | ValueError) -> None:
    print(  # noqa: T201 - the one place left to say it
        f"standard output is gone ({reason}); the work goes on, and shows nothing more there", file=sys.stderr
    )

"""A tracker that fails never stops a run: it is told no more, and the reason is shown once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stepcredit.protocols import Tracker
from stepcredit.records import Problem, StepReport


class Guarded:
    """A tracker made by `build`, or nothing from the moment on that it, or its making, raised."""

    def __init__(self, name: str, build: Callable[[], Tracker], tell: Callable[[str], None]) -> None:
        self._name = name
        self._tell = tell
        self._tracker: Tracker | None = self._attempt(build)

    def log(self, report: StepReport) -> None:
        self._pass_on("log", report)

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        self._pass_on("problems", iteration, problems)

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        self._pass_on("pictures", finished, name, images, captions)

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        self._pass_on("distributions", iteration, values)

    def close(self) -> None:
        self._pass_on("close")

    def _pass_on(self, verb: str, *arguments: Any) -> None:
        if self._tracker is not None:
            self._attempt(lambda: getattr(self._tracker, verb)(*arguments))

    def _attempt(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # foreign services fail in foreign ways
            self._tracker = None
            self._tell(
                f"tracker {self._name} failed ({type(error).__name__}: {error}); it is told no more, the run goes on"
            )
            return None

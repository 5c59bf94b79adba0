"""Keeps the report current while a run goes on: written again after every look at held-out captions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepcredit.viewer.report import write


class LiveReport:
    """A tracker. A report that cannot be written is told of once and never stops the run."""

    def __init__(self, run: Path, tell: Callable[[str], None]) -> None:
        self._run = run
        self._tell = tell

    def log(self, report: Any) -> None:
        pass

    def problems(self, iteration: int, problems: Sequence[Any]) -> None:
        pass

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        self.write()

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        pass

    def close(self) -> None:
        self.write()

    def write(self) -> None:
        try:
            write(self._run)
        except Exception as error:  # the page is for looking; training is not lost over it
            self._tell(f"the report could not be written: {type(error).__name__}: {error}")
            self._tell = lambda text: None

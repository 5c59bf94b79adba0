"""The terminal: one bar with rate and time left, one line every few iterations, tables at the end."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stepcredit.files import screen
from stepcredit.records import Problem, StepReport
from stepcredit.tracking.clock import finished_after


class ConsoleTracker:
    """Shows progress; a line of rewards after the first, every `every`-th and the last iteration.

    `iterations` is how many there should be, None where nobody knows; `done` is how many a resumed run has already.
    """

    def __init__(self, console: Console, iterations: int | None, *, every: int, done: int = 0) -> None:
        self._every = every
        self._iterations = iterations
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._bar = self._progress.add_task("training", total=iterations, completed=done, rate="")
        self._pairs = 0
        self._reasons = set[str]()
        self._progress.start()

    def advance(self, pairs: int) -> None:
        """Counts (sample, step) pairs for the rate."""
        self._pairs += pairs
        elapsed = self._progress.tasks[self._bar].elapsed or 0
        if elapsed > 1:  # before that the rate is mostly the warm-up of the first call
            self._progress.update(self._bar, rate=f"{self._pairs / elapsed:,.0f} network calls/s")

    def log(self, report: StepReport) -> None:
        self._progress.advance(self._bar)
        finished = finished_after(report.iteration)
        if finished == 1 or finished % self._every == 0 or finished == self._iterations:
            rewards = [
                f"{screen.name(name.removeprefix('reward/'))} {value:.4f}"
                for name, value in report.metrics.items()
                if name.startswith("reward/") and name.count("/") == 1  # reward/NAME/spread and others go to files
            ]
            self._progress.console.print(f"{finished:>5}  {'   '.join(rewards)}", highlight=False)

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        """Each distinct reason once."""
        for reason in dict.fromkeys(map(_sentence, problems)):
            if reason not in self._reasons:
                self._reasons.add(reason)
                line = f"[yellow]{finished_after(iteration):>5}  {screen.literal(reason)}[/]"
                self._progress.console.print(line, highlight=False)

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        pass

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        pass

    def tell(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(f"[yellow]{screen.literal(text)}[/]", highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def _sentence(problem: Problem) -> str:
    return str(problem) if problem.look is None else f"held-out captions: {problem}"

"""What a run says of itself while it goes on, and to whom."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from stepcredit.errors import RunError
from stepcredit.protocols import Tracker
from stepcredit.records import Credit, Problem, StepReport
from stepcredit.runs.looks import Look


@dataclass(frozen=True)
class Listeners:
    """Everybody who wants to know how a run goes, the run folder among them.

    Example: `Listeners([folder, console]).pictures(look)`.
    """

    trackers: Sequence[Tracker]

    def iteration(self, report: StepReport, problems: Sequence[Problem], credit: Credit) -> None:
        """Numbers of a finished iteration, what could not be scored in it, and how its credit is distributed."""
        distributions: dict[str, np.ndarray] = {
            "credit/weights": credit.weights.float().numpy(),
            "credit/mixed": credit.mixed.float().numpy(),
            "credit/per_step": credit.per_step.float().numpy(),
        }
        for tracker in self.trackers:
            tracker.log(report)
            tracker.problems(report.iteration, problems)
            tracker.distributions(report.iteration, distributions)

    def unscored(self, look: Look) -> None:
        """What could not be scored at a look, beside the iteration after which it was."""
        problems = [Problem.of_sentence(sentence, look.iteration) for sentence in look.errors]
        for tracker in self.trackers if problems else ():
            tracker.problems(look.iteration - 1, problems)

    def pictures(self, look: Look) -> None:
        """The pictures of a look."""
        for tracker in self.trackers:
            tracker.pictures(look.iteration, "samples", list(look.pictures.values()), look.prompts)

    def missing(self, finished: int, what: str, sentence: str) -> None:
        """Something could not be made that stops nothing."""
        for tracker in self.trackers:
            # The disk that had no room for a picture may have none for the sentence either.
            with suppress(RunError):
                tracker.problems(finished, [Problem(what, (), sentence)])


def with_look(report: StepReport, now: Look | None, seconds: float) -> StepReport:
    """The numbers of an iteration with those of the look after it, if there was one."""
    looked: dict[str, float] = {}
    if now is not None:
        unscored = now.unscored()
        looked |= {f"held_out/{name}": mean for name, mean in now.means().items()}
        looked |= {f"held_out/{name}/unscored": float(count) for name, count in unscored.items() if count}
    return replace(report, metrics={**report.metrics, **looked, "time/seconds": seconds})

"""One iteration in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepReport:
    """One iteration in numbers: flat, named `group/what`, ready for a table."""

    iteration: int
    metrics: Mapping[str, float] = field(default_factory=dict)

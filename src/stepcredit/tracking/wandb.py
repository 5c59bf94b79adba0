"""Weights & Biases, and trackio, which speaks the same words."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from stepcredit.files.media import still
from stepcredit.records import Problem, StepReport

PICTURES = 24  # of a look


class WandBTracker:
    """Reports to a `module` with wandb's functions. What belongs to one iteration is sent as one step.

    A module without `Histogram` gets mean and standard deviation instead.
    """

    def __init__(
        self, module: ModuleType, *, project: str, name: str, config: Mapping[str, Any], **settings: Any
    ) -> None:
        self._module = module
        self._run = module.init(project=project, name=name, config=dict(config), **settings)
        self._waiting: dict[str, Any] = {}
        self._iteration = 0

    def log(self, report: StepReport) -> None:
        self._add(report.iteration, {name: value for name, value in report.metrics.items() if np.isfinite(value)})

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        if problems:
            self._add(iteration, {"problems": len(problems)})

    def pictures(self, iteration: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        shown = [self._module.Image(still(i), caption=c) for i, c in zip(images[:PICTURES], captions, strict=False)]
        if self._module.__name__ == "trackio":  # takes no lists
            self._add(iteration - 1, {f"{name}/{index:02d}": image for index, image in enumerate(shown)})
        else:
            self._add(iteration - 1, {name: shown})

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            known = array[np.isfinite(array)].ravel()
            if not known.size:
                continue
            if hasattr(self._module, "Histogram"):
                self._add(iteration, {name: self._module.Histogram(known)})
            else:
                self._add(iteration, {f"{name}/mean": float(known.mean()), f"{name}/sd": float(known.std())})

    def close(self) -> None:
        self._send()
        self._module.finish()

    def _add(self, iteration: int, values: Mapping[str, Any]) -> None:
        if iteration > self._iteration:
            self._send()
            self._iteration = iteration
        self._waiting |= values

    def _send(self) -> None:
        if self._waiting:
            self._module.log(self._waiting, step=self._iteration)
            self._waiting = {}

"""Weights & Biases, and trackio, which speaks the same words."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stepcredit.files.media import still
from stepcredit.files.text import write_json
from stepcredit.records import Problem, StepReport
from stepcredit.tracking.clock import finished_after

PICTURES = 24  # of a snapshot: each is an upload


def known_as(path: Path) -> str:
    """The id under which the service knows a run; drawn once, and kept in this file of the run folder."""
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and isinstance(stored.get("id"), str):
            return stored["id"]
    name = secrets.token_hex(4)  # eight letters and digits, as the service's own are
    write_json(path, {"id": name})
    return name


class WandBTracker:
    """Reports to a `module` with wandb's functions. What belongs to one step is sent in one piece.

    A module without `Histogram` gets mean and standard deviation instead.
    """

    def __init__(
        self, module: ModuleType, *, project: str, name: str, config: Mapping[str, Any], **settings: Any
    ) -> None:
        self._module = module
        self._run = module.init(project=project, name=name, config=dict(config), **settings)
        # Values wait until the first of a later step comes: wandb drops whatever is sent for an earlier one.
        self._waiting: dict[str, Any] = {}
        self._step = 0

    def log(self, report: StepReport) -> None:
        # what could not be scored is a gap in the curve, not a NaN that every service draws in its own way
        finite = {name: value for name, value in report.metrics.items() if np.isfinite(value)}
        self._add(finished_after(report.iteration), finite)

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        if problems:
            self._add(finished_after(iteration), {"problems": len(problems)})

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        shown_with = zip(images[:PICTURES], captions, strict=False)  # captions are of all images
        pictures = [self._module.Image(still(image), caption=caption) for image, caption in shown_with]
        if self._module.__name__ == "trackio":  # takes no lists
            self._add(finished, {f"{name}/{index:02d}": picture for index, picture in enumerate(pictures)})
        else:
            self._add(finished, {name: pictures})

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            known = array[np.isfinite(array)].ravel()
            if known.size:
                self._add(finished_after(iteration), self._distribution(name, known))

    def close(self) -> None:
        self._send()
        self._module.finish()

    def _distribution(self, name: str, known: np.ndarray) -> dict[str, Any]:
        if hasattr(self._module, "Histogram"):
            return {name: self._module.Histogram(known)}
        return {f"{name}/mean": float(known.mean()), f"{name}/sd": float(known.std())}

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        if step > self._step:
            self._send()
            self._step = step
        self._waiting |= values

    def _send(self) -> None:
        if self._waiting:
            self._module.log(self._waiting, step=self._step)
            self._waiting = {}

"""TensorBoard event files: scalars, pictures (of videos a few frames), histograms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stepcredit.files.media import still
from stepcredit.records import Problem, StepReport
from stepcredit.tracking.clock import finished_after

PICTURES = 24  # of a snapshot: more of them are too small to see on one sheet


class TensorBoardTracker:
    """Writes event files; look at them with `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # needs the package tensorboard

        self._writer = SummaryWriter(str(folder))

    def log(self, report: StepReport) -> None:
        for name, value in report.metrics.items():
            self._writer.add_scalar(name, value, finished_after(report.iteration))

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        if problems:
            self._writer.add_text("problems", "\n\n".join(dict.fromkeys(map(str, problems))), finished_after(iteration))

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        sheet = np.stack([still(image) for image in images[:PICTURES]])
        self._writer.add_images(name, sheet, finished, dataformats="NHWC")

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            known = array[np.isfinite(array)]
            if known.size:  # TensorBoard raises on a histogram of nothing
                self._writer.add_histogram(name, known, finished_after(iteration))

    def close(self) -> None:
        self._writer.close()

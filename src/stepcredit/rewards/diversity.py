"""How different the pictures of one prompt are: falls when a generator collapses onto one picture."""

import numpy as np
from scipy.spatial.distance import cdist

from stepcredit.records import RewardBatch, RewardOutput


class Diversity:
    """Mean root-mean-square pixel distance to the siblings, in [0, 1]; NaN for a picture without siblings."""

    def __init__(self, *, name: str = "diversity") -> None:
        self.outputs = (name,)

    def score(self, batch: RewardBatch) -> RewardOutput:
        pixels = batch.media.reshape(len(batch.media), -1) / 255.0
        groups = np.array(batch.groups)
        scores = np.full(len(pixels), np.nan)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            if len(rows) > 1:
                distances = cdist(pixels[rows], pixels[rows]) / np.sqrt(pixels.shape[1])
                scores[rows] = distances.sum(1) / (len(rows) - 1)  # the distance to itself is 0 and does not count
        return RewardOutput({self.outputs[0]: scores})

    def fingerprint(self) -> dict[str, str]:
        return {"distance": "pixel RMS"}

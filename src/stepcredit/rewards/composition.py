"""The exact composition score of scenes: 1 if objects, colours, number and places are those of the caption, else 0."""

import numpy as np

from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.scenes.captions import parse
from stepcredit.scenes.checker import check


class Composition:
    """Scores captions of the scenes grammar; NaN, with the reason, for every other text."""

    def __init__(self, *, name: str = "composition") -> None:
        self.outputs = (name,)

    def score(self, batch: RewardBatch) -> RewardOutput:
        captions = [parse(prompt) for prompt in batch.prompts]
        scores = [
            np.nan if caption is None else float(check(image, caption).correct)
            for image, caption in zip(batch.images, captions, strict=True)
        ]
        foreign = sorted({p for p, caption in zip(batch.prompts, captions, strict=True) if caption is None})
        errors = tuple(f'"{prompt}" is not a caption of the scenes world' for prompt in foreign)
        return RewardOutput({self.outputs[0]: np.array(scores)}, errors)

    def fingerprint(self) -> dict[str, str]:
        return {"checker": "scenes, version 1"}

"""The exact score of moving scenes: 1 if things, colours and motions are those of the caption, and steady; else 0."""

import numpy as np

from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.scenes.moving import parse
from stepcredit.scenes.moving_checker import check_motion


class Motion:
    """Scores captions of the moving-scenes grammar; NaN, with the reason, for every other text."""

    def __init__(self, *, name: str = "motion") -> None:
        self.outputs = (name,)

    def score(self, batch: RewardBatch) -> RewardOutput:
        captions = [parse(prompt) for prompt in batch.prompts]
        scores = [
            np.nan if caption is None else float(check_motion(video, caption).correct)
            for video, caption in zip(batch.videos, captions, strict=True)
        ]
        foreign = sorted({p for p, caption in zip(batch.prompts, captions, strict=True) if caption is None})
        errors = tuple(f'"{prompt}" is not a caption of the moving scenes' for prompt in foreign)
        return RewardOutput({self.outputs[0]: np.array(scores)}, errors)

    def fingerprint(self) -> dict[str, str]:
        return {"checker": "moving scenes, version 1"}

"""The exact scores of the drawn worlds: 1 if a picture or video is what its caption says, else 0. No network."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stepcredit.records import RewardBatch, RewardOutput
from stepcredit.scenes import captions, moving
from stepcredit.scenes.checker import check
from stepcredit.scenes.moving_checker import check_motion


class Exact:
    """Scores captions of one world; NaN, with the reason, for every other text."""

    def __init__(
        self,
        name: str,
        world: str,
        media: Callable[[RewardBatch], np.ndarray],
        parse: Callable[[str], Any],
        is_right: Callable[[np.ndarray, Any], bool],
    ) -> None:
        self.outputs = (name,)
        self._world, self._media, self._parse, self._is_right = world, media, parse, is_right

    def score(self, batch: RewardBatch) -> RewardOutput:
        said = [(prompt, self._parse(prompt)) for prompt in batch.prompts]
        scores = [
            np.nan if caption is None else float(self._is_right(medium, caption))
            for medium, (_, caption) in zip(self._media(batch), said, strict=True)
        ]
        foreign = sorted({prompt for prompt, caption in said if caption is None})
        errors = tuple(f'"{prompt}" is not a caption of the {self._world}' for prompt in foreign)
        return RewardOutput({self.outputs[0]: np.array(scores)}, errors)

    def fingerprint(self) -> dict[str, str]:
        return {"checker": f"{self._world}, version 1"}


def composition(name: str = "composition") -> Exact:
    """Are objects, colours, number and places those of the caption?"""
    return Exact(
        name, "scenes world", lambda batch: batch.images, captions.parse, lambda image, said: check(image, said).correct
    )


def motion(name: str = "motion") -> Exact:
    """Are things, colours and motions those of the caption, and is each motion steady?"""
    return Exact(
        name,
        "moving scenes",
        lambda batch: batch.videos,
        moving.parse,
        lambda video, said: check_motion(video, said).correct,
    )

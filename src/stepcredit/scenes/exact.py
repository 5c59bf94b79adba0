"""The exact scores of the drawn worlds: 1 if a picture or video is what its caption says, else 0. No network."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stepcredit.records import Problem, RewardBatch, RewardOutput
from stepcredit.scenes import captions, moving
from stepcredit.scenes.checker import check
from stepcredit.scenes.moving_checker import check_motion


class Exact:
    """Scores captions of one world; NaN, with the reason, for every other text."""

    exact = True
    """1 is right and 0 is wrong: it frames the pictures before and after training."""

    def __init__(
        self,
        name: str,
        world: str,
        media: Callable[[RewardBatch], np.ndarray],
        parse: Callable[[str], Any],
        is_right: Callable[[np.ndarray, Any], bool],
    ) -> None:
        self.outputs = (name,)
        self._world = world
        self._media = media
        self._parse = parse
        self._is_right = is_right

    def score(self, batch: RewardBatch) -> RewardOutput:
        # From the texts and not from facts, since any source may list captions of the world. A foreign one is NaN and
        # not 0: a 0 would teach that pictures of other prompts are wrong.
        parsed = [self._parse(text) for text in batch.texts]
        scores = [
            np.nan if caption is None else float(self._is_right(medium, caption))
            for medium, caption in zip(self._media(batch), parsed, strict=True)
        ]
        foreign = {
            row: f'"{batch.texts[row]}" is not a caption of the {self._world}'
            for row, caption in enumerate(parsed)
            if caption is None
        }
        return RewardOutput({self.outputs[0]: np.array(scores)}, Problem.by_reason(self.outputs[0], foreign))

    def fingerprint(self) -> dict[str, str]:
        # The version goes up with every change of a threshold in the checkers: scores across it cannot be compared.
        return {"checker": f"{self._world}, version 1"}


def composition(name: str = "composition") -> Exact:
    """Are objects, colours, number and places those of the caption?"""
    return Exact(
        name,
        "scenes world",
        lambda batch: batch.images,  # refuses videos in words
        captions.parse,
        lambda image, caption: check(image, caption).correct,
    )


def motion(name: str = "motion") -> Exact:
    """Are things, colours and motions those of the caption, and is each motion steady?"""
    return Exact(
        name,
        "moving scenes",
        lambda batch: batch.videos,
        moving.parse,
        lambda video, caption: check_motion(video, caption).correct,
    )

"""Both drawn worlds at once: what kind a caption is, and what the exact checkers say of a picture or video."""

from dataclasses import asdict

import numpy as np

from stepcredit.scenes import captions, moving
from stepcredit.scenes.checker import questions
from stepcredit.scenes.moving_checker import check_motion

KINDS: tuple[str, ...] = (*captions.KINDS, *moving.MOVING_KINDS)
EXACT = ("composition", "motion")
"""The rewards that are exact: 1 is right, 0 is wrong."""


def kind_of(text: str) -> str | None:
    """The kind of a drawn world's caption; None for every other text."""
    caption = captions.parse(text) or moving.parse(text)
    return caption.kind if caption else None


def questions_of(medium: np.ndarray, text: str) -> dict[str, bool]:
    """The checker's answers by name, only to what the caption asks; nothing for a caption of another world."""
    still, in_motion = captions.parse(text), moving.parse(text)
    if medium.ndim == 3 and still is not None:
        return questions(medium, still)
    if medium.ndim == 4 and in_motion is not None:
        return asdict(check_motion(medium, in_motion))
    return {}

"""Both drawn worlds at once: what is known of a text, and what the exact checkers say of a picture or video."""

from dataclasses import asdict

import numpy as np

from stepcredit.records import Prompt
from stepcredit.scenes import captions, moving
from stepcredit.scenes.checker import questions
from stepcredit.scenes.moving_checker import check_motion


def facts_of(text: str) -> dict[str, str]:
    """The kind of a drawn world's caption, such as `{"kind": "count"}`; nothing of every other text."""
    caption = captions.parse(text) or moving.parse(text)
    return {"kind": caption.kind} if caption else {}


def answers_of(medium: np.ndarray, prompt: Prompt) -> dict[str, bool] | None:
    """The checker's answers by name, only to what the caption asks; None for a caption of no world, or of the other."""
    # A caption may be true of pictures or of videos, never of both: "a red circle" says nothing about motion.
    if medium.ndim == 3:
        still = captions.parse(prompt.text)
        return questions(medium, still) if still else None
    in_motion = moving.parse(prompt.text)
    return asdict(check_motion(medium, in_motion)) if in_motion else None

"""What scorers are shown and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from stepcredit.errors import RewardError


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of a rollout. NaN = could not be scored, for the reason in `errors`; never a made-up number."""

    names: tuple[str, ...]
    scores: Float[Tensor, "P G K"]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewardBatch:
    """Finished pictures, or videos with their frames per second, and their captions, one row per sample; `groups` says
    which rows share a prompt."""

    media: UInt8[np.ndarray, "B *frames H W 3"]
    prompts: tuple[str, ...]
    groups: tuple[int, ...]
    fps: float | None = None

    def __post_init__(self) -> None:
        if not len(self.media) == len(self.prompts) == len(self.groups):
            raise ValueError(
                f"got {len(self.media)} samples, {len(self.prompts)} prompts and {len(self.groups)} group numbers; "
                "wanted one of each per sample"
            )
        if (self.media.ndim == 5) != (self.fps is not None):
            raise ValueError(
                f"got media of shape {self.media.shape} with fps {self.fps}; videos [B, F, H, W, 3] need their frames "
                "per second, pictures [B, H, W, 3] have none"
            )

    @property
    def images(self) -> UInt8[np.ndarray, "B H W 3"]:
        """The pictures, for scorers that know no videos."""
        if self.fps is not None:
            raise RewardError("this reward scores pictures, and these are videos; take one that scores videos")
        return self.media

    @property
    def videos(self) -> UInt8[np.ndarray, "B F H W 3"]:
        """The videos, for scorers that know no pictures."""
        if self.fps is None:
            raise RewardError("this reward scores videos, and these are pictures; take one that scores pictures")
        return self.media


@dataclass(frozen=True)
class RewardOutput:
    """Scores `[B]` under each name that a reward offers, float; NaN where it could not score, reasons in `errors`."""

    scores: Mapping[str, Float[np.ndarray, " B"]]
    errors: tuple[str, ...] = ()

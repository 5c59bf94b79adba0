"""What scorers are shown and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from stepcredit.errors import RewardError
from stepcredit.records.prompts import Prompt


@dataclass(frozen=True)
class Problem:
    """Why samples have no score; for example `Problem("hps", (3, 7), "returned infinity for 2 of 8 pictures")`.

    `reward` is the name of an output, or of several that share the reason, joined with "+". `rows` are the samples of
    the batch; empty stands for all of them, or for a scorer that did not say which. `look` is the number of finished
    iterations where the batch is a look at held-out captions; None in training.
    """

    reward: str
    rows: tuple[int, ...]
    reason: str
    look: int | None = None

    @classmethod
    def of_sentence(cls, sentence: str, look: int | None = None) -> "Problem":
        """What `str` made a sentence of, as a look stores it; it does not say which rows."""
        reward, _, reason = sentence.partition(": ")
        return cls(reward, (), reason, look)

    def __str__(self) -> str:
        return f"{self.reward}: {self.reason}"

    @classmethod
    def by_reason(cls, reward: str, reasons: Mapping[int, str]) -> "tuple[Problem, ...]":
        """One problem for each distinct reason, from the reason of each row that has no score."""
        rows: dict[str, list[int]] = {}
        for row, reason in reasons.items():
            rows.setdefault(reason, []).append(row)
        return tuple(cls(reward, tuple(rows[reason]), reason) for reason in sorted(rows))

    def concerns(self, output: str) -> bool:
        """Whether this output of a reward has no score because of it."""
        # Names of outputs hold no plus: recipes refuse it, and functions cannot have one.
        return output in self.reward.split("+")


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of a rollout. NaN = could not be scored, for the reason in `problems`; never a made-up number.

    For example 2 prompts of 3 samples under two rewards: `names=("clip_t", "hps")`, `scores` of shape `[2, 3, 2]`, and
    in `problems` the rows of the flat batch, `p * G + g`.
    """

    names: tuple[str, ...]
    scores: Float[Tensor, "P G K"]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class RewardBatch:
    """Finished pictures, or videos with their frames per second, and their prompts, one row per sample; `groups` says
    which rows share a prompt.

    For example 2 prompts of 3 pictures: `media` `[6, 32, 32, 3]`, six `prompts`, `groups=(0, 0, 0, 1, 1, 1)`.
    """

    # Bytes and not floats: rewards see what a file would hold, so a stored picture has the same score.
    media: UInt8[np.ndarray, "B *frames H W 3"]
    prompts: tuple[Prompt, ...]
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
    def texts(self) -> tuple[str, ...]:
        """The words of each sample's prompt."""
        return tuple(prompt.text for prompt in self.prompts)

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
    """Scores `[B]` under each name that a reward offers, float; NaN where it could not score.

    `errors` say why: a sentence where the scorer does not know the rows, or where they are all, else a `Problem`. For
    example `RewardOutput({"taste": np.array([0.2, np.nan])}, (Problem("taste", (1,), "the picture is empty"),))`.
    """

    scores: Mapping[str, Float[np.ndarray, " B"]]
    errors: tuple[str | Problem, ...] = ()

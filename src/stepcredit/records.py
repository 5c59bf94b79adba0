"""The records that pass between rooms. Frozen; shapes use the letters of `axes.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stepcredit.credit.temporal import of_predictions
from stepcredit.errors import RewardError
from stepcredit.flow.transitions import Transitions

Compared = Literal["latents", "predictions"]


@dataclass(frozen=True)
class Condition:
    """What the generator is told, one row per sample: named tensors `[B, ...]` that only the policy understands."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, rows: Tensor) -> "Condition":
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Trajectory:
    """A rollout of P prompts, G samples each, from noise to data.

    `velocities` are what the network said before each move; the law of a move follows from them, so no density is
    kept. `final` is the latent that is decoded; `similarity` compares it with every latent, `clean_similarity` with
    the clean prediction made before every move.
    """

    latents: Float[Tensor, "P G L *latent"]
    velocities: Float[Tensor, "P G L-1 *latent"]
    final: Float[Tensor, "P G *latent"]
    levels: Float[Tensor, " L"]
    similarity: Float[Tensor, "P G L"]
    clean_similarity: Float[Tensor, "P G L-1"]


@dataclass(frozen=True)
class Plan:
    """What each transition of each sample does: whether it adds noise, by which kernel, and whether it is trained."""

    kernel: str
    stochastic: Bool[Tensor, "P G N"]
    trained: Bool[Tensor, "P G N"]

    @property
    def steps(self) -> int:
        return self.trained.shape[-1]


@dataclass(frozen=True)
class Moves:
    """Trained moves in a flat batch, as the policy under training sees them.

    In units of the transition's standard deviation: `drift` is how far its mean has moved since the sample was drawn
    (with gradient), `noise` is the standard normal that was drawn. `ratio_factor` and `loss_factor` are the method's
    weights of the transition (`objective.profile`).
    """

    drift: Float[Tensor, "B *latent"]
    noise: Float[Tensor, "B *latent"]
    ratio_factor: Float[Tensor, " B"]
    loss_factor: Float[Tensor, " B"]


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of a rollout. NaN = could not be scored, for the reason in `errors`; never a made-up number."""

    names: tuple[str, ...]
    scores: Float[Tensor, "P G K"]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that a method may look at when it assigns credit.

    `weights` are the recipe's weights of the objectives; `trained` marks each sample's trained transitions;
    `transitions` are the sampler's constants. Similarities as in `Trajectory`.
    """

    rewards: Float[Tensor, "P G K"]
    weights: Float[Tensor, " K"]
    similarity: Float[Tensor, "P G L"]
    clean_similarity: Float[Tensor, "P G L-1"]
    trained: Bool[Tensor, "P G L-1"]
    transitions: Transitions

    def similarities(self, of: Compared) -> Float[Tensor, "P G L"]:
        """With the final picture: of the noisy latents, or of the clean predictions (`temporal.of_predictions`)."""
        return self.similarity if of == "latents" else torch.vmap(of_predictions)(self.clean_similarity)


@dataclass(frozen=True)
class Credit:
    """What multiplies the loss of every (sample, transition), and the parts it was made of, for people to look at.

    One group has no P axis; a rollout has one.
    """

    per_step: Float[Tensor, "*P G N"]
    weights: Float[Tensor, "*P G N"]  # when
    mixed: Float[Tensor, "*P G"]  # how good, all objectives in one number
    advantages: Float[Tensor, "*P G K"]  # how good, objective by objective; NaN = no opinion
    coefficients: Float[Tensor, "*P G K"]  # how much each objective counted
    strength: Float[Tensor, "*P G"]  # MOCA's lambda; 0 for methods without one
    terms: Float[Tensor, "*P G N M"] | None = None  # loss terms that are clipped each for itself; None: per_step is one

    def tensors(self) -> dict[str, Tensor]:
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def over_prompts(rule: Callable[..., Credit]) -> Callable[..., Credit]:
    """Map a rule that is written for one group over the prompts of a rollout.

    Tensors get a leading P axis, be they positional or named; everything else is shared by all groups.
    """

    def mapped(*batched: Tensor, **named: object) -> Credit:
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        shared = {name: value for name, value in named.items() if name not in tensors}

        def one(group: tuple[Tensor, ...], own: dict[str, Tensor]) -> dict[str, Tensor]:
            return rule(*group, **own, **shared).tensors()

        return Credit(**torch.vmap(one)(batched, tensors))

    return mapped


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


@dataclass(frozen=True)
class StepReport:
    """One iteration in numbers: flat, named `group/what`, ready for a table."""

    iteration: int
    metrics: Mapping[str, float] = field(default_factory=dict)

"""Rewards that a recipe can name."""

from typing import Annotated, Literal

from pydantic import Field

from stepcredit.config import keys
from stepcredit.config.strict import Strict


class RewardSettings(Strict):
    """What all rewards share."""

    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """How the objective is called in tables; null is its type."""
    weight: float = 1.0
    """Weight for methods that sum objectives."""

    @property
    def label(self) -> str:
        return keys.label(dict(self))


class ClipT(RewardSettings):
    """Cosine of picture and caption under CLIP."""

    type: Literal["clip_t"] = "clip_t"
    weights: str = "scenes"
    """A transformers CLIP folder or hub id; `scenes` is the tiny one inside the package."""


class HPS(RewardSettings):
    """Human-preference score: a CLIP that was trained on which of two pictures people prefer."""

    type: Literal["hps"] = "hps"
    weights: str = "scenes"
    """A transformers CLIP folder or hub id; `scenes` is the tiny one inside the package."""


class Aesthetic(RewardSettings):
    """LAION's aesthetic score: an affine head on the CLIP embedding of the picture; the caption is not asked."""

    type: Literal["aesthetic"] = "aesthetic"
    weights: str = "scenes"
    """The CLIP that embeds; `scenes` is the tiny one inside the package."""
    head: str | None = None
    """A safetensors file with the head; null is `head.safetensors` beside the embedded weights."""


class Composition(RewardSettings):
    """Exact: are the objects, colours, number and places those of the caption? Scenes captions only."""

    type: Literal["composition"] = "composition"


class Diversity(RewardSettings):
    """How different the pictures of one prompt are from each other."""

    type: Literal["diversity"] = "diversity"


class Custom(RewardSettings):
    """A reward of your own: a function or class in an importable module."""

    type: Literal["custom"] = "custom"
    path: str
    """`package.module:name`; called as name(images, prompts) -> one score each."""


RewardChoice = Annotated[ClipT | HPS | Aesthetic | Composition | Diversity | Custom, Field(discriminator="type")]

"""Generators that a recipe can name, and what of them is trained."""

from typing import Annotated, Literal

from pydantic import Field

from stepcredit.config.strict import Strict


class LoRA(Strict):
    """Low-rank adapters on named modules (peft)."""

    type: Literal["lora"] = "lora"
    rank: int = Field(default=32, ge=1)
    """Rank of the adapters."""
    alpha: int | None = Field(default=None, gt=0)
    """Scale of the adapters; null is twice the rank."""
    targets: list[str] | None = None
    """Names of the adapted modules (suffixes); null is the family's preset."""


class Full(Strict):
    """All weights of the transformer."""

    type: Literal["full"] = "full"


SurfaceChoice = Annotated[LoRA | Full, Field(discriminator="type")]


class Flux(Strict):
    """FLUX.1: any diffusers FluxPipeline."""

    type: Literal["flux"] = "flux"
    weights: str = "scenes"
    """A diffusers folder or hub id; `scenes` is the generator inside the package."""
    surface: SurfaceChoice = LoRA()
    """What is trained."""
    resolution: int = Field(default=512, ge=8)
    """Side of the square picture, pixels."""
    guidance: float = Field(default=3.5, ge=0)
    """Guidance embedding, where the model has one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights; what is trained is float32."""
    device: str | None = None
    """Torch device; null is cuda where there is one, else cpu."""
    max_tokens: int = Field(default=512, ge=1)
    """Length of the T5 prompt; longer prompts are cut."""


PolicyChoice = Flux

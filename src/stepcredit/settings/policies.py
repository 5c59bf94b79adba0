"""What every generator can be told in a recipe, and what of it is trained.

A family's own settings stand in its file, `policies/families/X.py`, as a subclass of `PolicySettings`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from stepcredit.settings.places import PlaceOrHub, absolute_if_local
from stepcredit.settings.strict import Strict


class LoRA(Strict):
    """Low-rank adapters on named modules (peft)."""

    type: Literal["lora"] = "lora"
    rank: int = Field(default=32, ge=1, le=16_384)
    """Rank of the adapters."""
    alpha: int | None = Field(default=None, gt=0, le=1_000_000)
    """Scale of the adapters; null is twice the rank."""
    targets: Literal["attention", "blocks"] | list[str] = "blocks"
    """Adapted linear layers: `attention`, `blocks` (attention and feed-forward), or a list of name endings."""
    start: PlaceOrHub | None = None
    """A LoRA file or folder in diffusers format to go on from; null starts from nothing."""


class Full(Strict):
    """All weights of the network, or of parts of it."""

    type: Literal["full"] = "full"
    modules: list[str] | None = None
    """Only parameters whose name has one of these words in it, such as `attn` or `blocks.0`; null is all."""


SurfaceChoice = Annotated[LoRA | Full, Field(discriminator="type")]
Dtype = Literal["float32", "bfloat16", "float16"]
Medium = Literal["image", "video"]
Side = Annotated[int, Field(ge=8, le=8_192)]


class PolicySettings(Strict):
    """What all families share.

    Abstract: a family's subclass adds its `type`, which is the name of its file, and keys of its own. Example, as a
    recipe has it: `{type: flux, weights: black-forest-labs/FLUX.1-dev, dtype: bfloat16, resolution: 512}`.
    """

    medium: ClassVar[Medium] = "image"
    """What it draws."""
    paper: ClassVar[str] = ""
    """The key in `viewer/references.bib` under which the models are cited; empty where there is nothing to cite."""

    weights: str
    """A diffusers folder or hub id."""
    revision: str | None = None
    """Of a hub id: the branch, tag or commit to take; pin it to make a run repeatable."""
    variant: str | None = None
    """Of a hub id or folder: which of several weight files, such as `fp16`."""
    surface: SurfaceChoice = LoRA()
    """What is trained; always in float32, whatever `dtype`."""
    resolution: Side | tuple[Side, Side] = 512
    """Side of a square picture, or [height, width]; pixels."""
    dtype: Dtype = "float32"
    """In which the network computes, and of frozen weights."""
    vae_dtype: Dtype | None = None
    """The same of the autoencoder, which draws what rewards see; null is `dtype`."""
    device: str | None = None
    """Torch device; null is cuda where there is one, else cpu."""
    attention: str | None = None
    """Attention backend of diffusers, such as `_native_cudnn` or `_flash_3_hub`; null is PyTorch's own choice."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more work. Off where memory allows."""
    text_cache: int = Field(default=1024, ge=0, le=10_000_000)
    """Distinct prompts whose embeddings are kept, in main memory; the least recently used goes first."""
    decode_batch: int = Field(default=16, ge=1, le=1_000_000)
    """Samples that the autoencoder decodes at a time."""
    offload: tuple[Literal["vae", "text_encoders"], ...] = ("text_encoders",)
    """Parts that wait in main memory while they are not used."""

    @field_validator("weights")
    @classmethod
    def _weights_from_anywhere(cls, name: str) -> str:
        # Not the type of the field, as elsewhere: each family declares the field again with a default of its own.
        return absolute_if_local(name)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution

    def dtype_of(self, part: str) -> Dtype:
        """In which a part of the pipeline is loaded."""
        return (self.vae_dtype or self.dtype) if part == "vae" else self.dtype


class ClassifierFree(PolicySettings):
    """Families that are guided by a second forward without the prompt."""

    guidance: float = Field(default=4.5, ge=1, le=1_000)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""
    negative_prompt: str = ""
    """What the second forward is told."""

"""Generators that a recipe can name, and what of them is trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stepcredit.settings.strict import Strict


class LoRA(Strict):
    """Low-rank adapters on named modules (peft)."""

    type: Literal["lora"] = "lora"
    rank: int = Field(default=32, ge=1)
    """Rank of the adapters."""
    alpha: int | None = Field(default=None, gt=0)
    """Scale of the adapters; null is twice the rank."""
    targets: Literal["attention", "blocks"] | list[str] = "blocks"
    """Adapted linear layers: `attention`, `blocks` (attention and feed-forward), or a list of name endings."""
    start: str | None = None
    """A LoRA file or folder in diffusers format to go on from; null starts from nothing."""


class Full(Strict):
    """All weights of the network, or of parts of it."""

    type: Literal["full"] = "full"
    modules: list[str] | None = None
    """Only parameters whose name has one of these words in it, such as `attn` or `blocks.0`; null is all."""


SurfaceChoice = Annotated[LoRA | Full, Field(discriminator="type")]
Dtype = Literal["float32", "bfloat16", "float16"]
Side = Annotated[int, Field(ge=8)]


class Generator(Strict):
    """What all families share."""

    medium: ClassVar[Literal["image", "video"]] = "image"

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
    text_cache: int = Field(default=1024, ge=0)
    """Distinct prompts whose embeddings are kept, in main memory; the least recently used goes first."""
    decode_batch: int = Field(default=16, ge=1)
    """Samples that the autoencoder decodes at a time."""
    offload: tuple[Literal["vae", "text_encoders"], ...] = ("text_encoders",)
    """Parts that wait in main memory while they are not used."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution

    def dtype_of(self, part: str) -> Dtype:
        """In which a part of the pipeline is loaded."""
        return (self.vae_dtype or self.dtype) if part == "vae" else self.dtype


class ClassifierFree(Generator):
    """Families that are guided by a second forward without the prompt."""

    guidance: float = Field(default=4.5, ge=1)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""
    negative_prompt: str = ""
    """What the second forward is told."""


class Flux(Generator):
    """FLUX.1: any diffusers FluxPipeline."""

    type: Literal["flux"] = "flux"
    weights: str = "scenes"
    """A diffusers folder or hub id; `scenes` is the generator inside the package."""
    guidance: float = Field(default=3.5, ge=0)
    """Guidance embedding, where the model has one."""
    max_tokens: int = Field(default=512, ge=1, le=512)
    """Length of the T5 prompt; longer prompts are cut."""


class SD3(ClassifierFree):
    """Stable Diffusion 3 and 3.5, medium and large: any diffusers StableDiffusion3Pipeline."""

    type: Literal["sd3"] = "sd3"
    weights: str = "stabilityai/stable-diffusion-3.5-medium"
    """A diffusers folder or hub id."""
    max_tokens: int = Field(default=256, ge=1, le=512)
    """Length of the T5 prompt, beside CLIP's 77; longer prompts are cut."""


class Wan(ClassifierFree):
    """Wan 2.1 and 2.2, text to video: any diffusers WanPipeline; two experts where the folder has `transformer_2`."""

    medium: ClassVar[Literal["image", "video"]] = "video"

    type: Literal["wan"] = "wan"
    weights: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """A diffusers folder or hub id; `scenes` is the generator inside the package."""
    resolution: Side | tuple[Side, Side] = (240, 416)
    """Side of a square picture, or [height, width]; pixels."""
    vae_dtype: Dtype | None = "float32"
    """Of the autoencoder, which draws what rewards see: its published examples use float32; null is `dtype`."""
    frames: int = Field(default=53, ge=1)
    """Frames of a video."""
    fps: float = Field(default=16.0, gt=0)
    """Frames per second: how videos are shown and stored, and what rewards are told."""
    guidance: float = Field(default=5.0, ge=1)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""
    guidance_2: float | None = Field(default=None, ge=1)
    """The same for the low-noise expert; null is `guidance`."""
    experts: Literal["both", "high_noise", "low_noise"] = "both"
    """Which of two experts is trained; steps of the other one follow the ODE and get no credit."""
    max_tokens: int = Field(default=512, ge=1)
    """Length of the prompt; longer prompts are cut."""


class QwenImage(ClassifierFree):
    """Qwen-Image: any diffusers QwenImagePipeline."""

    type: Literal["qwen_image"] = "qwen_image"
    weights: str = "Qwen/Qwen-Image"
    """A diffusers folder or hub id."""
    guidance: float = Field(default=4.0, ge=1)
    """Scale of classifier-free guidance; the guided velocity gets back the length of the unguided one."""
    negative_prompt: str = " "
    """What the second forward is told."""
    max_tokens: int = Field(default=512, ge=1, le=1024)
    """Longest prompt; longer ones are cut."""


class SD(ClassifierFree):
    """Stable Diffusion 1.x and 2.x that predict noise: any diffusers StableDiffusionPipeline."""

    type: Literal["sd"] = "sd"
    weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A diffusers folder or hub id."""
    guidance: float = Field(default=5.0, ge=1)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""


PolicyChoice = Annotated[Flux | SD3 | Wan | QwenImage | SD, Field(discriminator="type")]

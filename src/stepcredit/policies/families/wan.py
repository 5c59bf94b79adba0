"""Wan 2.1 and 2.2, text to video, over diffusers' WanPipeline.

A latent is `[channels, frames, height, width]`; the autoencoder takes the first frame alone and then several at a time.
Wan 2.2 A14B has two experts: `transformer` where the level is at least the folder's `boundary_ratio`, `transformer_2`
below, each with its guidance scale.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.policies.family import Family, ModelInputs, Networks, scheduler_levels, to_unit, whole_latents
from stepcredit.policies.guidance import guided
from stepcredit.policies.lora_file import NAME
from stepcredit.policies.published import T5_XXL, Published
from stepcredit.settings.policies import ClassifierFree, Dtype, Medium, Side


class Wan(ClassifierFree):
    """Wan 2.1 and 2.2, text to video: any diffusers WanPipeline; two experts where the folder has `transformer_2`."""

    medium: ClassVar[Medium] = "video"
    paper: ClassVar[str] = "2503.20314"

    type: Literal["wan"] = "wan"
    weights: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    """A diffusers folder or hub id; `scenes` is the generator inside the package."""
    resolution: Side | tuple[Side, Side] = (240, 416)
    """Side of a square picture, or [height, width]; pixels."""
    vae_dtype: Dtype | None = "float32"
    """Of the autoencoder, which draws what rewards see: its published examples use float32; null is `dtype`."""
    frames: int = Field(default=53, ge=1, le=2_000)
    """Frames of a video."""
    fps: float = Field(default=16.0, gt=0, le=240)
    """Frames per second: how videos are shown and stored, and what rewards are told."""
    guidance: float = Field(default=5.0, ge=1, le=1_000)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""
    guidance_2: float | None = Field(default=None, ge=1, le=1_000)
    """The same for the low-noise expert; null is `guidance`."""
    experts: Literal["both", "high_noise", "low_noise"] = "both"
    """Which of two experts is trained; steps of the other one follow the ODE and get no credit."""
    max_tokens: int = Field(default=512, ge=1, le=4_096)
    """Length of the prompt; longer prompts are cut."""


# a multistep solver, of which only the shift is taken: see `scheduler_levels`
_SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
_TRANSFORMER_14B = {"_class_name": "WanTransformer3DModel"}
_14B = {
    "transformer": _TRANSFORMER_14B,
    "vae": {"_class_name": "AutoencoderKLWan"},
    "text_encoder": T5_XXL | {"_class_name": "UMT5EncoderModel", "vocab_size": 256384},
    "scheduler": _SCHEDULER,
}
_1B = _14B | {"transformer": _TRANSFORMER_14B | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}}
_TWO_14B = _14B | {"transformer_2": _TRANSFORMER_14B}


class WanFamily(Family[Wan]):
    """One network or two experts that share the levels between them."""

    pipeline = "WanPipeline"
    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    embedded = "wan_scenes"
    network_names = ("transformer", "transformer_2")
    feed_forward = ("ffn.net.0.proj", "ffn.net.2")
    published: ClassVar = {
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Published("apache-2.0", parts=_1B),
        "Wan-AI/Wan2.1-T2V-14B-Diffusers": Published("apache-2.0", parts=_14B),
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers": Published("apache-2.0", _TWO_14B, {"boundary_ratio": 0.875}),
    }

    def __init__(self, pipe: Any, settings: Wan, device: torch.device) -> None:
        super().__init__(pipe, settings, device)
        # a boundary_ratio beside one network means nothing
        self.boundary: float | None = pipe.config.boundary_ratio if pipe.transformer_2 is not None else None
        _check_experts(pipe, settings, self.boundary)
        if pipe.config.expand_timesteps:
            raise RecipeError(
                f"{settings.weights} is a Wan 2.2 TI2V model with a time for each token; wanted a T2V one"
            )
        _check_frames(settings.frames, pipe.vae_scale_factor_temporal)

    @classmethod
    def call(cls, settings: Wan) -> dict[str, Any]:
        height, width = settings.size
        return {
            "height": height,
            "width": width,
            "num_frames": settings.frames,
            "max_sequence_length": settings.max_tokens,
            "guidance_scale": settings.guidance,
            "guidance_scale_2": settings.guidance_2,
            "negative_prompt": settings.negative_prompt or None,
        }

    @classmethod
    def lora_loader(cls, network: str) -> dict[str, Any]:
        if network == "transformer":
            return {}
        # the file is named, because diffusers guesses names from the list of a whole repository or of its top folder
        return {"subfolder": network, "weight_name": NAME, "load_into_transformer_2": True}

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor_spatial * self.pipe.transformer.config.patch_size[1]

    def trained(self) -> dict[str, Any]:
        # the expert that is not named keeps its weights
        frozen = {"high_noise": "transformer_2", "low_noise": "transformer"}.get(self.settings.experts)
        return {name: network for name, network in self.networks().items() if name != frozen}

    def encode(self, prompts: list[str]) -> ModelInputs:
        embeddings, _ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_tokens,
            device=self.device,
        )
        return {"encoder_hidden_states": embeddings}

    def token_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        factor = self.pipe.vae_scale_factor_spatial
        # of frames: the first alone, then so many at a time
        frames = (self.settings.frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        return self.pipe.transformer.config.in_channels, frames, self.height // factor, self.width // factor

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        return scheduler_levels(self.pipe.scheduler, steps, tokens=None, even=False)

    def trainable(self, levels: Float[Tensor, " L"]) -> Bool[Tensor, " N"]:
        if self.boundary is None or self.settings.experts == "both":
            return super().trainable(levels)
        high = self._high(levels[:-1])
        return high if self.settings.experts == "high_noise" else ~high

    def deciding(self, levels: Float[Tensor, " L"]) -> list[str]:
        if self.boundary is None:
            return super().deciding(levels)
        return ["transformer" if high else "transformer_2" for high in self._high(levels[:-1]).tolist()]

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        high_scale = self.settings.guidance
        low_scale = self.settings.guidance_2 or high_scale
        if self.boundary is None or len(networks) == 1:  # one network is all there is, or is counted alone
            (network,) = networks.values()
            return self._guided(network, latents, level, inputs, high_scale)
        high = self._high(level)
        velocity = torch.empty_like(latents)
        for name, scale, rows in (("transformer", high_scale, high), ("transformer_2", low_scale, ~high)):
            if rows.any():  # in a rollout all rows have one level, and the other expert is left alone
                inputs_of_rows = {key: tensor[rows] for key, tensor in inputs.items()}
                predicted = self._guided(networks[name], latents[rows], level[rows], inputs_of_rows, scale)
                mask = rows.view(-1, *(1,) * (latents.ndim - 1))
                velocity = velocity.masked_scatter(mask, predicted.to(velocity.dtype))
        return velocity

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        videos = vae.decode(whole_latents(latents, vae).to(vae.dtype), return_dict=False)[0]
        return to_unit(videos).transpose(1, 2)  # frames before channels, as everywhere else in this library

    def _high(self, levels: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Which levels the first expert decides; in float32 wherever it is asked, as the network is."""
        assert self.boundary is not None
        return levels.float() >= self.boundary

    def _guided(self, network: Any, latents: Tensor, level: Tensor, inputs: ModelInputs, scale: float) -> Tensor:
        return guided(partial(self._predict, network), latents, level, inputs, scale=scale)

    def _predict(self, network: Any, latents: Tensor, level: Tensor, inputs: ModelInputs) -> Tensor:
        return network(hidden_states=latents.to(self.dtype), timestep=level * 1000, return_dict=False, **inputs)[0]


def _check_experts(pipe: Any, settings: Wan, boundary: float | None) -> None:
    """Two experts need a boundary, and one network has no use for the keys of a second."""
    if pipe.transformer_2 is not None and boundary is None:
        raise RecipeError(
            f"{settings.weights} has two experts and no boundary_ratio in its model_index.json, so nobody knows "
            "which decides what; copy or download the folder again"
        )
    for key, default in {"experts": "both", "guidance_2": None}.items():
        if boundary is None and getattr(settings, key) != default:
            raise RecipeError(
                f"policy.{key} is {getattr(settings, key)}, but {settings.weights} has one network; remove it"
            )


def _check_frames(frames: int, every: int) -> None:
    """The autoencoder takes the first frame alone, then `every` at a time."""
    if (frames - 1) % every:
        below = (frames - 1) // every * every + 1
        raise RecipeError(
            f"policy.frames is {frames}; this autoencoder needs 1 and a multiple of {every}, "
            f"the nearest are {below} and {below + every}"
        )

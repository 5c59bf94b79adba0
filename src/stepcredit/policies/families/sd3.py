"""Stable Diffusion 3 and 3.5 over diffusers' StableDiffusion3Pipeline, guided by a second branch of the same batch."""

from functools import partial
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.policies.family import Family, ModelInputs, Networks, scheduler_levels, to_unit
from stepcredit.policies.guidance import guided
from stepcredit.policies.published import CLIP_L, FLOW_MATCHING, T5_XXL, UNQUANTISED, Published, image_vae
from stepcredit.settings.policies import ClassifierFree


class SD3(ClassifierFree):
    """Stable Diffusion 3 and 3.5, medium and large: any diffusers StableDiffusion3Pipeline."""

    paper: ClassVar[str] = "2403.03206"

    type: Literal["sd3"] = "sd3"
    weights: str = "stabilityai/stable-diffusion-3.5-medium"
    """A diffusers folder or hub id."""
    max_tokens: int = Field(default=256, ge=1, le=512)
    """Length of the T5 prompt, beside CLIP's 77; longer prompts are cut."""


# unlike FLUX's, these CLIPs end in a projection, whose output is the pooled embedding
_CLIP_L_PROJECTED = CLIP_L | {"_class_name": "CLIPTextModelWithProjection"}
_CLIP_BIG_G = _CLIP_L_PROJECTED | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_TRANSFORMER = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_MEDIUM = {
    "transformer": _TRANSFORMER,
    "vae": image_vae(**UNQUANTISED, scaling_factor=1.5305, shift_factor=0.0609),
    "text_encoder": _CLIP_L_PROJECTED,
    "text_encoder_2": _CLIP_BIG_G,
    "text_encoder_3": T5_XXL,
    "scheduler": FLOW_MATCHING | {"shift": 3.0},
}
_MEDIUM_35 = _MEDIUM | {
    "transformer": _TRANSFORMER
    | {"pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
}
_LARGE_35 = _MEDIUM | {
    "transformer": _TRANSFORMER
    | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
}


class SD3Family(Family[SD3]):
    """One network, three text encoders of which T5 may be left out."""

    pipeline = "StableDiffusion3Pipeline"
    parts = (
        *("transformer", "vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    )
    optional: ClassVar = {"text_encoder_3": "tokenizer_3"}  # diffusers puts zeros where its words would be
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
    published: ClassVar = {
        "stabilityai/stable-diffusion-3-medium-diffusers": Published(parts=_MEDIUM),
        "stabilityai/stable-diffusion-3.5-medium": Published(parts=_MEDIUM_35),
        "stabilityai/stable-diffusion-3.5-large": Published(parts=_LARGE_35),
    }

    @classmethod
    def call(cls, settings: SD3) -> dict[str, Any]:
        height, width = settings.size
        return {
            "height": height,
            "width": width,
            "max_sequence_length": settings.max_tokens,
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt or None,
        }

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    def encode(self, prompts: list[str]) -> ModelInputs:
        # the same words for all three encoders: prompt_2 and prompt_3 take the first where they are None
        embeddings, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_tokens,
        )
        return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}

    def token_limit(self) -> tuple[Any, int]:
        if self.pipe.text_encoder_3 is None:  # by far the largest encoder, and some folders leave it out
            return self.pipe.tokenizer, self.pipe.tokenizer_max_length
        return self.pipe.tokenizer_3, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        factor = self.pipe.vae_scale_factor
        return self.pipe.transformer.config.in_channels, self.height // factor, self.width // factor

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        tokens = self.height * self.width // self.multiple**2
        # SD 3 has one shift for all sizes; a folder whose scheduler shifts by size is asked with the tokens
        return scheduler_levels(self.pipe.scheduler, steps, tokens=tokens, even=False)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        predict = partial(self._predict, networks["transformer"])
        return guided(predict, latents, level, inputs, scale=self.settings.guidance)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return to_unit(vae.decode(latents.to(vae.dtype), return_dict=False)[0])

    def _predict(self, network: Any, latents: Tensor, level: Tensor, inputs: ModelInputs) -> Tensor:
        # the level stays float32 here: only FLUX's and Qwen-Image's pipelines round it (`network_time`)
        return network(hidden_states=latents.to(self.dtype), timestep=level * 1000, return_dict=False, **inputs)[0]

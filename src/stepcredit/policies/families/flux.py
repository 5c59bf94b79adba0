"""FLUX.1 (and its miniature inside the package) over diffusers' FluxPipeline.

A latent is packed, `[tokens, channels]`: 2 x 2 places of the autoencoder's grid make one token. Guidance is a number
that the network is told, so there is one forward.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.policies.family import Family, ModelInputs, Networks, network_time, scheduler_levels, to_unit
from stepcredit.policies.published import CLIP_L, FLOW_MATCHING, T5_XXL, UNQUANTISED, Published, image_vae
from stepcredit.settings.policies import PolicySettings


class Flux(PolicySettings):
    """FLUX.1: any diffusers FluxPipeline."""

    paper: ClassVar[str] = "flux"

    type: Literal["flux"] = "flux"
    weights: str = "scenes"
    """A diffusers folder or hub id; `scenes` is the generator inside the package."""
    guidance: float = Field(default=3.5, ge=0, le=1_000)
    """Guidance embedding, where the model has one."""
    max_tokens: int = Field(default=512, ge=1, le=512)
    """Length of the T5 prompt; longer prompts are cut."""


_DEV = {
    "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
    "vae": image_vae(**UNQUANTISED, scaling_factor=0.3611, shift_factor=0.1159),
    "text_encoder": CLIP_L,
    "text_encoder_2": T5_XXL,
    "scheduler": FLOW_MATCHING
    | {
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
}


class FluxFamily(Family[Flux]):
    """One network, one forward, packed latents."""

    pipeline = "FluxPipeline"
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    embedded = "flux_scenes"
    encoders = ("text_encoder", "text_encoder_2")
    # proj_mlp and proj_out are the single blocks', which have no feed-forward of their own
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out")
    published: ClassVar = {
        "black-forest-labs/FLUX.1-dev": Published(parts=_DEV),
        "black-forest-labs/FLUX.1-schnell": Published("apache-2.0"),
    }

    def __init__(self, pipe: Any, settings: Flux, device: torch.device) -> None:
        super().__init__(pipe, settings, device)
        # the same for every sample and step, so they are made once
        rows = self.height // self.multiple
        columns = self.width // self.multiple
        self._image_ids = pipe._prepare_latent_image_ids(1, rows, columns, device, torch.float32)

    @classmethod
    def call(cls, settings: Flux) -> dict[str, Any]:
        height, width = settings.size
        return {
            "height": height,
            "width": width,
            "max_sequence_length": settings.max_tokens,
            "guidance_scale": settings.guidance,
        }

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def encode(self, prompts: list[str]) -> ModelInputs:
        embeddings, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.settings.max_tokens
        )
        return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}

    def token_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer_2, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        return len(self._image_ids), self.pipe.transformer.config.in_channels

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        return scheduler_levels(self.pipe.scheduler, steps, tokens=len(self._image_ids), even=True)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        network = networks["transformer"]
        tokens = inputs["encoder_hidden_states"].shape[1]
        guidance = None  # FLUX.1-schnell has no embedding of it
        if network.config.guidance_embeds:
            guidance = torch.full((len(latents),), self.settings.guidance, device=latents.device)
        return network(
            hidden_states=latents.to(self.dtype),
            timestep=network_time(level, self.dtype),
            guidance=guidance,
            txt_ids=torch.zeros(tokens, 3, device=latents.device),  # words have no place in the picture
            img_ids=self._image_ids,
            return_dict=False,
            **inputs,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        unpacked = self.pipe._unpack_latents(latents, self.height, self.width, self.pipe.vae_scale_factor)
        # the autoencoder's latents are shifted and scaled to be as wide as the noise
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        return to_unit(vae.decode(unpacked.to(vae.dtype), return_dict=False)[0])

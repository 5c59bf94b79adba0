"""FLUX.1 (and its miniature inside the package) over diffusers' FluxPipeline.

A latent is packed, `[tokens, channels]`: 2 x 2 places of the autoencoder's grid make one token. Guidance is a number
that the network is told, so there is one forward.
"""

from typing import Any

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor

from stepcredit.policies.family import Family, Networks, Told, network_time, scheduler_levels, to_unit


class FluxFamily(Family):
    pipeline = FluxPipeline
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    embedded = "flux_scenes"
    encoders = ("text_encoder", "text_encoder_2")
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out")

    def __init__(self, pipe: Any, settings: Any, device: torch.device) -> None:
        super().__init__(pipe, settings, device)
        rows, columns = self.height // self.multiple, self.width // self.multiple
        self._image_ids = pipe._prepare_latent_image_ids(1, rows, columns, device, torch.float32)

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def encode(self, prompts: list[str]) -> Told:
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

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        network, guidance = networks["transformer"], None
        if network.config.guidance_embeds:
            guidance = torch.full((len(latents),), self.settings.guidance, device=latents.device)
        return network(
            hidden_states=latents.to(self.dtype),
            timestep=network_time(level, self.dtype),
            guidance=guidance,
            txt_ids=torch.zeros(told["encoder_hidden_states"].shape[1], 3, device=latents.device),
            img_ids=self._image_ids,
            return_dict=False,
            **told,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        unpacked = self.pipe._unpack_latents(latents, self.height, self.width, self.pipe.vae_scale_factor)
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        return to_unit(vae.decode(unpacked.to(vae.dtype), return_dict=False)[0])

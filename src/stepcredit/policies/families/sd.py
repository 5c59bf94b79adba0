"""Stable Diffusion 1.x over diffusers' StableDiffusionPipeline: a UNet that predicts noise, sampled by DDIM.

Here its variance-preserving latent z is written in flow coordinates, x = z sqrt((1 - level)^2 + level^2), where the
velocity is (noise - x) / (1 - level) and DDIM without noise is Euler's step (`flow.schedules.variance_preserving`,
`flow.kernels.ddim`). The path ends at the clean prediction, as DDIM does with `set_alpha_to_one`.
"""

from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.flow.convert import noise_to_velocity, per_sample
from stepcredit.flow.schedules import variance_preserving
from stepcredit.policies.family import Family, Networks, Told, to_unit
from stepcredit.policies.guidance import guided


class SDFamily(Family):
    pipeline = StableDiffusionPipeline
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    feed_forward = ("ff.net.0.proj", "ff.net.2")
    prediction = "noise"

    def __init__(self, pipe: Any, settings: Any, device: torch.device) -> None:
        super().__init__(pipe, settings, device)
        self._scheduler: Any = DDIMScheduler.from_config(pipe.scheduler.config)
        if self._scheduler.config.prediction_type != "epsilon":
            raise RecipeError(
                f"{settings.weights} predicts {self._scheduler.config.prediction_type}, wanted noise (epsilon)"
            )
        self._levels = variance_preserving(self._scheduler.alphas_cumprod.flip(0))[:-1].flip(0)  # by training timestep

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor

    def networks(self) -> dict[str, Any]:
        return {"unet": self.pipe.unet}

    def encode(self, prompts: list[str]) -> Told:
        embeddings, _ = self.pipe.encode_prompt(
            prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": embeddings}

    def token_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, self.pipe.tokenizer.model_max_length

    def latent_shape(self) -> tuple[int, ...]:
        factor = self.pipe.vae_scale_factor
        return self.pipe.unet.config.in_channels, self.height // factor, self.width // factor

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        self._scheduler.set_timesteps(steps)
        return torch.cat([self._levels[self._scheduler.timesteps], self._levels.new_zeros(1)])

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise * _scale(noise, level)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        known = self._levels.to(level.device)
        timestep = torch.searchsorted(known, level.double() - 1e-7)  # rounding of float32 is far below their spacing

        def predict(x: Tensor, at: Tensor, words: Told) -> Tensor:
            return networks["unet"](x.to(self.dtype), at, return_dict=False, **words)[0]

        scaled = latents / _scale(latents, level)
        noise = guided(predict, scaled, timestep, told, scale=self.settings.guidance)
        return noise_to_velocity(latents, noise.to(latents.dtype), level)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        return to_unit(vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0])

    def save_lora(self, folder: Any, layers: Any, notes: Any) -> None:
        self.pipeline.save_lora_weights(
            folder, unet_lora_layers=layers["unet"], unet_lora_adapter_metadata=notes["unet"], safe_serialization=True
        )


def _scale(x: Tensor, level: Tensor) -> Tensor:
    """What a variance-preserving latent is multiplied by, shaped to multiply `x`."""
    return per_sample(((1 - level).square() + level.square()).sqrt(), x)

"""Stable Diffusion 1.x over diffusers' StableDiffusionPipeline: a UNet that predicts noise, sampled by DDIM.

Here its variance-preserving latent z is written in flow coordinates, x = z sqrt((1 - level)^2 + level^2), where the
velocity is (noise - x) / (1 - level) and DDIM without noise is Euler's step (`flow.schedules.variance_preserving`,
`flow.kernels.ddim`). The path ends at the clean prediction, as DDIM does with `set_alpha_to_one`.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.flow.convert import noise_to_velocity, per_sample
from stepcredit.flow.schedules import variance_preserving
from stepcredit.policies.family import Family, ModelInputs, Networks, to_unit
from stepcredit.policies.guidance import guided
from stepcredit.policies.published import CLIP_L, Published, image_vae
from stepcredit.settings.policies import ClassifierFree


class SD(ClassifierFree):
    """Stable Diffusion 1.x and 2.x that predict noise: any diffusers StableDiffusionPipeline."""

    paper: ClassVar[str] = "2112.10752"

    type: Literal["sd"] = "sd"
    weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """A diffusers folder or hub id."""
    guidance: float = Field(default=5.0, ge=1, le=1_000)
    """Scale of classifier-free guidance; 1 is none, and saves half of the work. What is trained is the guided model."""


_SD_15 = {
    "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
    "vae": image_vae(latent_channels=4, sample_size=512),
    "text_encoder": CLIP_L,
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}


class SDFamily(Family[SD]):
    """One UNet; levels are those of its thousand training timesteps."""

    pipeline = "StableDiffusionPipeline"
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    unused: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    network_names = ("unet",)
    feed_forward = ("ff.net.0.proj", "ff.net.2")
    prediction = "noise"
    published: ClassVar = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": Published("creativeml-openrail-m", parts=_SD_15)
    }

    def __init__(self, pipe: Any, settings: SD, device: torch.device) -> None:
        from diffusers import DDIMScheduler

        super().__init__(pipe, settings, device)
        # the folder may name another solver (1.5 names PNDM): the noise schedule is the same for all of them
        self._scheduler: Any = DDIMScheduler.from_config(pipe.scheduler.config)
        if self._scheduler.config.prediction_type != "epsilon":
            raise RecipeError(
                f"{settings.weights} predicts {self._scheduler.config.prediction_type}, wanted noise (epsilon)"
            )
        levels = variance_preserving(self._scheduler.alphas_cumprod.flip(0))
        self._levels = levels[:-1].flip(0)  # by training timestep, without the clean end

    @classmethod
    def call(cls, settings: SD) -> dict[str, Any]:
        height, width = settings.size
        return {
            "height": height,
            "width": width,  # no max_sequence_length: CLIP's 77 tokens are all there is
            "guidance_scale": settings.guidance,
            "negative_prompt": settings.negative_prompt or None,
        }

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor

    def encode(self, prompts: list[str]) -> ModelInputs:
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
        # as with `set_alpha_to_one`: the level of timestep 0 is not quite clean
        return torch.cat([self._levels[self._scheduler.timesteps], self._levels.new_zeros(1)])

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise * _scale(noise, level)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        levels = self._levels.to(level.device)
        timestep = torch.searchsorted(levels, level.double() - 1e-7)  # rounding of float32 is far below their spacing
        predict = partial(self._predict, networks["unet"])
        # the network knows z, the sampler's latents are x
        preserved = latents / _scale(latents, level)
        noise = guided(predict, preserved, timestep, inputs, scale=self.settings.guidance)
        return noise_to_velocity(latents, noise.to(latents.dtype), level)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        return to_unit(vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0])

    def _predict(self, network: Any, latents: Tensor, timestep: Tensor, inputs: ModelInputs) -> Tensor:
        return network(latents.to(self.dtype), timestep, return_dict=False, **inputs)[0]


def _scale(x: Tensor, level: Tensor) -> Tensor:
    """What a variance-preserving latent is multiplied by, shaped to multiply `x`."""
    return per_sample(((1 - level).square() + level.square()).sqrt(), x)

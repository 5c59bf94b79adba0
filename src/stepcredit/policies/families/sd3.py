"""Stable Diffusion 3 and 3.5 over diffusers' StableDiffusion3Pipeline, guided by a second branch of the same batch."""

from typing import Any

from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor

from stepcredit.policies.family import Family, Networks, Told, scheduler_levels, to_unit
from stepcredit.policies.guidance import guided


class SD3Family(Family):
    pipeline = StableDiffusion3Pipeline
    parts = (
        *("transformer", "vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    )
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    feed_forward = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    def encode(self, prompts: list[str]) -> Told:
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
        if self.pipe.text_encoder_3 is None:
            return self.pipe.tokenizer, self.pipe.tokenizer_max_length
        return self.pipe.tokenizer_3, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        factor = self.pipe.vae_scale_factor
        return self.pipe.transformer.config.in_channels, self.height // factor, self.width // factor

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        tokens = self.height * self.width // self.multiple**2
        return scheduler_levels(self.pipe.scheduler, steps, tokens=tokens, even=False)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        def predict(x: Tensor, at: Tensor, words: Told) -> Tensor:
            return networks["transformer"](
                hidden_states=x.to(self.dtype), timestep=at * 1000, return_dict=False, **words
            )[0]

        return guided(predict, latents, level, told, scale=self.settings.guidance)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return to_unit(vae.decode(latents.to(vae.dtype), return_dict=False)[0])

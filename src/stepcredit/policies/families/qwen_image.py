"""Qwen-Image over diffusers' QwenImagePipeline.

A latent is packed, `[tokens, channels]`, as in FLUX. Prompts have their own length, so a mask goes with them; the
guided velocity gets back the length of the prompted one, token by token.
"""

from typing import Any

import torch
from diffusers import QwenImagePipeline
from jaxtyping import Float
from torch import Tensor

from stepcredit.policies.family import Family, Networks, Told, network_time, scheduler_levels, to_unit, whole_latents
from stepcredit.policies.guidance import guided, norm_preserving

_MASK = "encoder_hidden_states_mask"


class QwenImageFamily(Family):
    pipeline = QwenImagePipeline
    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    packed = 4
    text_batch = 1  # so every prompt keeps its own length
    feed_forward = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def encode(self, prompts: list[str]) -> Told:
        embeddings, mask = self.pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.settings.max_tokens
        )
        if mask is None:  # the pipeline's word for: nothing is padding
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        return {"encoder_hidden_states": embeddings, _MASK: mask}

    def simplified(self, told: Told) -> Told:
        """Without masks that leave nothing out: they would rule out the fastest attention."""
        lengths = {tensor.shape[1] for name, tensor in told.items() if name.endswith(_MASK)}
        if len(lengths) > 1 or not all(tensor.all() for name, tensor in told.items() if name.endswith(_MASK)):
            return told
        return {name: tensor for name, tensor in told.items() if not name.endswith(_MASK)}

    def token_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        tokens = self.height * self.width // self.multiple**2
        return tokens, self.pipe.transformer.config.in_channels

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        return scheduler_levels(self.pipe.scheduler, steps, tokens=self.latent_shape()[0], even=True)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        grid = (1, self.height // self.multiple, self.width // self.multiple)

        def predict(x: Tensor, at: Tensor, words: Told) -> Tensor:
            return networks["transformer"](
                hidden_states=x.to(self.dtype),
                timestep=network_time(at, self.dtype),
                img_shapes=[[grid]] * len(x),
                return_dict=False,
                **words,
            )[0]

        scale = self.settings.guidance
        return guided(predict, latents, level, told, scale=scale, combine=norm_preserving)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = self.pipe._unpack_latents(latents, self.height, self.width, self.pipe.vae_scale_factor)
        return to_unit(vae.decode(whole_latents(latents, vae).to(vae.dtype), return_dict=False)[0][:, :, 0])

"""Qwen-Image over diffusers' QwenImagePipeline.

A latent is packed, `[tokens, channels]`, as in FLUX. Prompts have their own length, so a mask goes with them; the
guided velocity gets back the length of the prompted one, token by token.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.policies.family import (
    Family,
    ModelInputs,
    Networks,
    network_time,
    scheduler_levels,
    to_unit,
    whole_latents,
)
from stepcredit.policies.guidance import guided, norm_preserving
from stepcredit.policies.published import FLOW_MATCHING, Published
from stepcredit.settings.policies import ClassifierFree

_MASK = "encoder_hidden_states_mask"


class QwenImage(ClassifierFree):
    """Qwen-Image: any diffusers QwenImagePipeline."""

    paper: ClassVar[str] = "2508.02324"

    type: Literal["qwen_image"] = "qwen_image"
    weights: str = "Qwen/Qwen-Image"
    """A diffusers folder or hub id."""
    guidance: float = Field(default=4.0, ge=1, le=1_000)
    """Scale of classifier-free guidance; the guided velocity gets back the length of the unguided one."""
    negative_prompt: str = " "
    """What the second forward is told."""
    max_tokens: int = Field(default=512, ge=1, le=1024)
    """Longest prompt; longer ones are cut."""


_QWEN_25_VL_7B = {
    "_class_name": "Qwen2_5_VLForConditionalGeneration",
    "tie_word_embeddings": False,
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}
_QWEN_IMAGE = {
    "transformer": {"_class_name": "QwenImageTransformer2DModel"},
    "vae": {"_class_name": "AutoencoderKLQwenImage"},
    "text_encoder": _QWEN_25_VL_7B,
    "scheduler": FLOW_MATCHING
    | {
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
        "time_shift_type": "exponential",
    },
}


class QwenImageFamily(Family[QwenImage]):
    """One network, guided with its length kept, packed latents, prompts of their own length."""

    pipeline = "QwenImagePipeline"
    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    packed = 4
    text_batch = 1  # so every prompt keeps its own length
    feed_forward = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    published: ClassVar = {"Qwen/Qwen-Image": Published("apache-2.0", parts=_QWEN_IMAGE)}

    @classmethod
    def call(cls, settings: QwenImage) -> dict[str, Any]:
        height, width = settings.size
        return {
            "height": height,
            "width": width,
            "max_sequence_length": settings.max_tokens,
            "true_cfg_scale": settings.guidance,  # its `guidance_scale` is for distilled models alone
            "negative_prompt": settings.negative_prompt or None,
        }

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    def encode(self, prompts: list[str]) -> ModelInputs:
        embeddings, mask = self.pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.settings.max_tokens
        )
        if mask is None:  # the pipeline's word for: nothing is padding
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        return {"encoder_hidden_states": embeddings, _MASK: mask}

    def simplified(self, inputs: ModelInputs) -> ModelInputs:
        """Without masks that leave nothing out: they would rule out the fastest attention."""
        masks = [tensor for name, tensor in inputs.items() if name.endswith(_MASK)]
        # both branches of guidance go through one forward, so masks of two lengths will leave something out
        if len({mask.shape[1] for mask in masks}) > 1 or not all(mask.all() for mask in masks):
            return inputs
        return {name: tensor for name, tensor in inputs.items() if not name.endswith(_MASK)}

    def token_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, self.settings.max_tokens

    def latent_shape(self) -> tuple[int, ...]:
        tokens = self.height * self.width // self.multiple**2
        return tokens, self.pipe.transformer.config.in_channels

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        return scheduler_levels(self.pipe.scheduler, steps, tokens=self.latent_shape()[0], even=True)

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        predict = partial(self._predict, networks["transformer"])
        scale = self.settings.guidance
        return guided(predict, latents, level, inputs, scale=scale, combine=norm_preserving)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = self.pipe._unpack_latents(latents, self.height, self.width, self.pipe.vae_scale_factor)
        # its autoencoder is one of videos: a picture is the first frame
        return to_unit(vae.decode(whole_latents(latents, vae).to(vae.dtype), return_dict=False)[0][:, :, 0])

    def _predict(self, network: Any, latents: Tensor, level: Tensor, inputs: ModelInputs) -> Tensor:
        # frames, rows and columns of tokens: the network's positions know videos, too
        grid = (1, self.height // self.multiple, self.width // self.multiple)
        return network(
            hidden_states=latents.to(self.dtype),
            timestep=network_time(level, self.dtype),
            img_shapes=[[grid]] * len(latents),
            return_dict=False,
            **inputs,
        )[0]

"""Wan 2.1 and 2.2, text to video, over diffusers' WanPipeline.

A latent is `[channels, frames, height, width]`; the autoencoder takes the first frame alone and then several at a time.
Wan 2.2 A14B has two experts: `transformer` where the level is at least the folder's `boundary_ratio`, `transformer_2`
below, each with its guidance scale.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.policies.family import Family, Networks, Told, scheduler_levels, to_unit, whole_latents
from stepcredit.policies.guidance import guided


class WanFamily(Family):
    pipeline = WanPipeline
    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    embedded = "wan_scenes"
    feed_forward = ("ffn.net.0.proj", "ffn.net.2")

    def __init__(self, pipe: Any, settings: Any, device: torch.device) -> None:
        super().__init__(pipe, settings, device)
        self.boundary: float | None = pipe.config.boundary_ratio if pipe.transformer_2 is not None else None
        if pipe.transformer_2 is not None and self.boundary is None:
            raise RecipeError(
                f"{settings.weights} has two experts and no boundary_ratio in its model_index.json, so nobody knows "
                "which decides what; copy or download the folder again"
            )
        useless = [
            key for key, value in {"experts": "both", "guidance_2": None}.items() if getattr(settings, key) != value
        ]
        if self.boundary is None and useless:
            raise RecipeError(
                f"policy.{useless[0]} is {getattr(settings, useless[0])}, but {settings.weights} has one network; "
                "remove it"
            )
        if pipe.config.expand_timesteps:
            raise RecipeError(
                f"{settings.weights} is a Wan 2.2 TI2V model with a time for each token; wanted a T2V one"
            )
        every = pipe.vae_scale_factor_temporal
        if (settings.frames - 1) % every:
            below = (settings.frames - 1) // every * every + 1
            raise RecipeError(
                f"policy.frames is {settings.frames}; this autoencoder needs 1 and a multiple of {every}, "
                f"the nearest are {below} and {below + every}"
            )

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor_spatial * self.pipe.transformer.config.patch_size[1]

    def networks(self) -> dict[str, Any]:
        both = {"transformer": self.pipe.transformer, "transformer_2": self.pipe.transformer_2}
        return {name: network for name, network in both.items() if network is not None}

    def trained(self) -> dict[str, Any]:
        leave = {"high_noise": "transformer_2", "low_noise": "transformer"}.get(self.settings.experts)
        return {name: network for name, network in self.networks().items() if name != leave}

    def encode(self, prompts: list[str]) -> Told:
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
        factor, every = self.pipe.vae_scale_factor_spatial, self.pipe.vae_scale_factor_temporal
        frames = (self.settings.frames - 1) // every + 1
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

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        first, second = self.settings.guidance, self.settings.guidance_2 or self.settings.guidance
        if self.boundary is None or len(networks) == 1:
            (network,) = networks.values()
            return self._guided(network, latents, level, told, first)
        high = self._high(level)
        experts = [("transformer", first, high), ("transformer_2", second, ~high)]
        found = torch.empty_like(latents)
        for name, scale, rows in experts:
            if rows.any():
                mine = {key: tensor[rows] for key, tensor in told.items()}
                moved = self._guided(networks[name], latents[rows], level[rows], mine, scale)
                found = found.masked_scatter(rows.view(-1, *(1,) * (latents.ndim - 1)), moved.to(found.dtype))
        return found

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        videos = vae.decode(whole_latents(latents, vae).to(vae.dtype), return_dict=False)[0]
        return to_unit(videos).transpose(1, 2)

    def save_lora(self, folder: Path, layers: Mapping[str, dict[str, Tensor]], notes: Mapping[str, dict]) -> None:
        """The second expert's adapter goes into `transformer_2/`, for `load_lora_weights` with
        `load_into_transformer_2=True`."""
        for name in layers:
            self.pipeline.save_lora_weights(
                folder if name == "transformer" else folder / name,
                transformer_lora_layers=layers[name],
                transformer_lora_adapter_metadata=notes[name],
                safe_serialization=True,
            )

    def _high(self, levels: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Which levels the first expert decides; in float32 wherever it is asked, as the network is."""
        assert self.boundary is not None
        return levels.float() >= self.boundary

    def _guided(self, network: Any, latents: Tensor, level: Tensor, told: Told, scale: float) -> Tensor:
        def predict(x: Tensor, at: Tensor, words: Told) -> Tensor:
            return network(hidden_states=x.to(self.dtype), timestep=at * 1000, return_dict=False, **words)[0]

        return guided(predict, latents, level, told, scale=scale)

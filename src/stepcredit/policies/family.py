"""What an adapter says about its family of models. The defaults fit most; the rest is one short file a family."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.flow import schedules

Told = Mapping[str, Tensor]
"""Named tensors `[B, ...]`: what a network is told beside latents and level. Those of the second, unprompted forward
of classifier-free guidance have names that begin with `negative_`."""
Networks = Mapping[str, Any]


class Family:
    """Over a diffusers pipeline, whose modules are used and whose sampling loop is not."""

    pipeline: ClassVar[Any]
    parts: ClassVar[tuple[str, ...]]
    """Sub-folders that a pipeline folder must have."""
    embedded: ClassVar[str] = ""
    """The folder inside the package that `weights: scenes` stands for."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    packed: ClassVar[int] = 1
    """Places of the autoencoder's grid in one token, where a configuration counts channels before packing."""
    text_batch: ClassVar[int] = 16
    """Prompts that are encoded at a time."""
    feed_forward: ClassVar[tuple[str, ...]]
    """Name endings of the feed-forward layers in its blocks, for the LoRA preset."""
    prediction: ClassVar[Literal["velocity", "noise"]] = "velocity"
    """What the network predicts by itself; the weights of a step are told apart by it (`flow.transitions`)."""

    def __init__(self, pipe: Any, settings: Any, device: torch.device) -> None:
        self.pipe, self.settings, self.device = pipe, settings, device
        self.dtype = getattr(torch, settings.dtype)
        self.height, self.width = settings.size
        for network in self.networks().values():
            given, returned = network.config.in_channels, network.config.out_channels or network.config.in_channels
            if given != returned * self.packed:
                raise RecipeError(
                    f"{settings.weights} takes {given} channels and returns {returned * self.packed}: it is also told "
                    "a picture (to fill in, to go on from); wanted a model that is told text alone"
                )
        check_multiple("policy.resolution", settings.size, self.multiple)

    @property
    def multiple(self) -> int:
        """What height and width must divide by, pixels."""
        raise NotImplementedError

    def networks(self) -> dict[str, Any]:
        """The denoising networks by name."""
        return {"transformer": self.pipe.transformer}

    def trained(self) -> dict[str, Any]:
        """Those of them that are trained."""
        return self.networks()

    def encode(self, prompts: list[str]) -> Told:
        raise NotImplementedError

    def simplified(self, told: Told) -> Told:
        """What `encode` and its cache put together, without what says nothing."""
        return told

    def token_limit(self) -> tuple[Any, int]:
        """The tokenizer of the longest encoder, and the most tokens it keeps: what is cut there, no encoder sees."""
        raise NotImplementedError

    def latent_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        """The model's own schedule, as its pipeline would set it."""
        raise NotImplementedError

    def trainable(self, levels: Float[Tensor, " L"]) -> Bool[Tensor, " N"]:
        """Which transitions are decided by what is trained."""
        return torch.ones(len(levels) - 1, dtype=torch.bool)

    def deciding(self, levels: Float[Tensor, " L"]) -> list[str]:
        """Which of `networks` decides each transition."""
        return [next(iter(self.networks()))] * (len(levels) - 1)

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        """The first latents, from standard normal noise."""
        del level
        return noise

    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], told: Told) -> Tensor:
        """Noise minus data, in flow coordinates; of the guided model where the family is guided. Latents come as they
        are, in float32; what goes into a network is cast to `dtype`."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` or videos `[B, F, 3, H, W]` in [0, 1]."""
        raise NotImplementedError

    def save_lora(self, folder: Any, layers: Mapping[str, dict[str, Tensor]], notes: Mapping[str, dict]) -> None:
        """Adapter weights and peft's notes on them, by network, in the format of the pipeline's `load_lora_weights`."""
        self.pipeline.save_lora_weights(
            folder,
            transformer_lora_layers=layers["transformer"],
            transformer_lora_adapter_metadata=notes["transformer"],
            safe_serialization=True,
        )


def check_multiple(key: str, size: tuple[int, int], multiple: int) -> None:
    """Height and width that the autoencoder and the patches do not divide are an error that names the nearest."""
    if any(side % multiple for side in size):
        below = [max(side // multiple, 1) * multiple for side in size]
        above = [-(-side // multiple) * multiple for side in size]
        near = [f"{a} x {b}" for a, b in (below, above)] if size[0] != size[1] else [str(below[0]), str(above[0])]
        got = f"{size[0]} x {size[1]}" if size[0] != size[1] else str(size[0])
        raise RecipeError(
            f"{key} is {got}; this model needs a multiple of {multiple}, the nearest are {' and '.join(near)}"
        )


def scheduler_levels(scheduler: Any, steps: int, *, tokens: int | None, even: bool) -> Float[Tensor, " L"]:
    """The levels that diffusers' flow-matching scheduler gives a pipeline with so many image tokens.

    `even` pipelines hand it 1, 1 - 1/N, ...; the others leave it to the scheduler. Solvers of higher order start a
    little below 1, where the noise of `flow_sde` would be huge; they get the same shift of an even schedule.
    """
    config = scheduler.config
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return schedules.shifted(steps, shift=getattr(config, "flow_shift", None) or 1.0)
    fresh: Any = type(scheduler).from_config(config)
    given: dict[str, Any] = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if even else {"num_inference_steps": steps}
    if config.use_dynamic_shifting:
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        given["mu"] = config.base_shift + slope * ((tokens or 0) - config.base_image_seq_len)
    fresh.set_timesteps(**given)
    return fresh.sigmas.double()


def network_time(level: Float[Tensor, " B"], dtype: torch.dtype) -> Float[Tensor, " B"]:
    """The level as FLUX and Qwen-Image are told it: their pipelines round it as a timestep of a thousand."""
    return (level * 1000).to(dtype) / 1000


def whole_latents(latents: Float[Tensor, "B C F H W"], vae: Any) -> Float[Tensor, "B C F H W"]:
    """Normalised latents in the units of an autoencoder that has a mean and a deviation for each channel."""
    mean, std = (
        torch.tensor(numbers, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents * std + mean


def to_unit(pictures: Tensor) -> Tensor:
    """The autoencoder's [-1, 1] as [0, 1], float32."""
    return (pictures.float() / 2 + 0.5).clamp(0, 1)

"""What a family of models says about itself and does. The defaults fit most; the rest is one short file a family.

Nothing here imports diffusers when it is imported itself: a recipe is checked with the families' files, and diffusers
takes seconds.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.flow import schedules
from stepcredit.policies.lora_file import NAME
from stepcredit.policies.published import Published
from stepcredit.settings.policies import PolicySettings

ModelInputs = Mapping[str, Tensor]
"""Named tensors `[B, ...]`: what a network takes beside latents and level, such as `encoder_hidden_states`. Those of
the second, unprompted forward of classifier-free guidance have names that begin with `negative_`."""
Networks = Mapping[str, Any]
Settings = TypeVar("Settings", bound=PolicySettings)


class Family(ABC, Generic[Settings]):
    """Over a diffusers pipeline, whose modules are used and whose sampling loop is not.

    Abstract: each family is one final subclass in its own file. `pipe` is the loaded pipeline.
    """

    pipeline: ClassVar[str]
    """The class of the pipeline, as the index of a pipeline folder names it."""
    library: ClassVar[str] = "diffusers"
    """The package that exports that class."""
    parts: ClassVar[tuple[str, ...]]
    """Sub-folders that a pipeline folder must have."""
    optional: ClassVar[Mapping[str, str]] = {}
    """Text encoders of `parts` that a folder's index may leave out, each with its tokenizer. A network after the first
    of `network_names` may be left out as well; every other part has to be there."""
    unused: ClassVar[Mapping[str, Any]] = {}
    """What the pipeline is given instead of parts that are not needed here and cost memory."""
    embedded: ClassVar[str] = ""
    """The folder inside the package that `weights: scenes` stands for."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    network_names: ClassVar[tuple[str, ...]] = ("transformer",)
    """What its denoising networks are called in the pipeline; a model may lack those after the first."""
    packed: ClassVar[int] = 1
    """Places of the autoencoder's grid in one token, where a configuration counts channels before packing."""
    text_batch: ClassVar[int] = 16
    """Prompts that are encoded at a time."""
    feed_forward: ClassVar[tuple[str, ...]]
    """Name endings of the feed-forward layers in its blocks, for the LoRA preset."""
    prediction: ClassVar[Literal["velocity", "noise"]] = "velocity"
    """What the network predicts by itself; the weights of a step are told apart by it (`flow.transitions`)."""
    published: ClassVar[Mapping[str, Published]] = {}
    """Its models on the hub, by hub id."""

    def __init__(self, pipe: Any, settings: Settings, device: torch.device) -> None:
        self.pipe = pipe
        self.settings = settings
        self.device = device
        self.dtype = getattr(torch, settings.dtype)
        self.height, self.width = settings.size
        for network in self.networks().values():
            # a network that fills in or goes on from a picture takes that picture as further channels
            channels_in = network.config.in_channels
            channels_out = (network.config.out_channels or channels_in) * self.packed
            if channels_in != channels_out:
                raise RecipeError(
                    f"{settings.weights} takes {channels_in} channels and returns {channels_out}: it is also told "
                    "a picture (to fill in, to go on from); wanted a model that is told text alone"
                )
        check_multiple("policy.resolution", settings.size, self.multiple)

    @classmethod
    def pipeline_class(cls) -> Any:
        """Imported when it is asked for: a pipeline's module pulls in its text encoders."""
        return getattr(importlib.import_module(cls.library), cls.pipeline)

    @classmethod
    @abstractmethod
    def call(cls, settings: Settings) -> dict[str, Any]:
        """What the plain pipeline is called with beside the prompt, to draw what `velocity` draws; the model card
        prints it. None is left out."""

    @classmethod
    def lora_files(cls, folder: Path) -> dict[str, Path]:
        """Where a LoRA's folder has the file of each network."""
        first, *further = cls.network_names
        return {first: folder / NAME} | {name: folder / name / NAME for name in further}

    @classmethod
    def lora_prefix(cls) -> str:
        """What the keys in such a file begin with. Files of further networks begin like those of the first: diffusers
        takes them for it, and puts them elsewhere only where its loader is told to (`lora_loader`)."""
        return cls.network_names[0]

    @classmethod
    def lora_loader(cls, network: str) -> dict[str, Any]:
        """What diffusers' `load_lora_weights` is told beside the folder, for the file of this network."""
        del network
        return {}

    @property
    @abstractmethod
    def multiple(self) -> int:
        """What height and width must divide by, pixels."""

    def networks(self) -> dict[str, Any]:
        """The denoising networks by name."""
        networks = {name: getattr(self.pipe, name) for name in self.network_names}
        return {name: network for name, network in networks.items() if network is not None}

    def trained(self) -> dict[str, Any]:
        """Those of them that are trained."""
        return self.networks()

    @abstractmethod
    def encode(self, prompts: list[str]) -> ModelInputs:
        """What the text encoders make of prompts, one row each, by the names of the network's arguments."""

    def simplified(self, inputs: ModelInputs) -> ModelInputs:
        """What `encode` and its cache put together, without what says nothing."""
        return inputs

    @abstractmethod
    def token_limit(self) -> tuple[Any, int]:
        """The tokenizer of the longest encoder, and the most tokens it keeps: what is cut there, no encoder sees."""

    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The axes of one latent."""

    @abstractmethod
    def own_levels(self, steps: int) -> Float[Tensor, " L"]:
        """The model's own schedule, as its pipeline would set it."""

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

    @abstractmethod
    def velocity(self, networks: Networks, latents: Tensor, level: Float[Tensor, " B"], inputs: ModelInputs) -> Tensor:
        """Noise minus data, in flow coordinates; of the guided model where the family is guided.

        | argument | shape | |
        |---|---|---|
        | `networks` | | those of `networks()`, or their references, by name |
        | `latents` | `[B, *latent]` | as they are, in float32; what goes into a network is cast to `dtype` |
        | `level` | `[B]` | 1 is noise, 0 is data |
        | `inputs` | `[B, ...]` each | what `encode` returned, the negative prompt's beside it |
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` or videos `[B, F, 3, H, W]` in [0, 1]."""

    def save_lora(
        self, folder: Path, layers: Mapping[str, dict[str, Tensor]], notes: Mapping[str, dict[str, Any]]
    ) -> None:
        """Adapter weights and peft's notes on them, by network, in the format of the pipeline's `load_lora_weights`."""
        prefix = self.lora_prefix()
        files = self.lora_files(folder)
        for name, weights in layers.items():
            adapter = {f"{prefix}_lora_layers": weights, f"{prefix}_lora_adapter_metadata": notes[name]}
            self.pipeline_class().save_lora_weights(files[name].parent, safe_serialization=True, **adapter)


def check_multiple(key: str, size: tuple[int, int], multiple: int) -> None:
    """Height and width that the autoencoder and the patches do not divide are an error that names the nearest."""
    if not any(side % multiple for side in size):
        return
    below = [max(side // multiple, 1) * multiple for side in size]  # never 0 pixels
    above = [-(-side // multiple) * multiple for side in size]
    square = size[0] == size[1]
    wanted, lower, higher = (str(sides[0]) if square else f"{sides[0]} x {sides[1]}" for sides in (size, below, above))
    raise RecipeError(
        f"{key} is {wanted}; this model needs a multiple of {multiple}, the nearest are {lower} and {higher}"
    )


def scheduler_levels(scheduler: Any, steps: int, *, tokens: int | None, even: bool) -> Float[Tensor, " L"]:
    """The levels that diffusers' flow-matching scheduler gives a pipeline with so many image tokens.

    `even` pipelines hand it 1, 1 - 1/N, ...; the others leave it to the scheduler. Solvers of higher order start a
    little below 1, where the noise of `flow_sde` would be huge; they get the same shift of an even schedule.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = scheduler.config
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return schedules.shifted(steps, shift=getattr(config, "flow_shift", None) or 1.0)
    fresh: Any = type(scheduler).from_config(config)  # a scheduler keeps the steps that it was set to
    arguments: dict[str, Any] = {"num_inference_steps": steps}
    if even:
        arguments = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    if config.use_dynamic_shifting:
        # more tokens, more noise: the pipelines' `calculate_shift`, a line through two sizes
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        arguments["mu"] = config.base_shift + slope * ((tokens or 0) - config.base_image_seq_len)
    fresh.set_timesteps(**arguments)
    return fresh.sigmas.double()  # spreads come from small differences of levels


def network_time(level: Float[Tensor, " B"], dtype: torch.dtype) -> Float[Tensor, " B"]:
    """The level as FLUX and Qwen-Image are told it: their pipelines round it as a timestep of a thousand."""
    return (level * 1000).to(dtype) / 1000  # in bfloat16 times 1000 and over 1000 is not the number itself


def whole_latents(latents: Float[Tensor, "B C F H W"], vae: Any) -> Float[Tensor, "B C F H W"]:
    """Normalised latents in the units of an autoencoder that has a mean and a deviation for each channel."""
    mean = latents.new_tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = latents.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return latents * std + mean


def to_unit(pictures: Tensor) -> Tensor:
    """The autoencoder's [-1, 1] as [0, 1], float32; NaN for every number that is not finite."""
    # Before the clamp, which would make white of an autoencoder that overflowed.
    finite = pictures.float().masked_fill(~pictures.isfinite(), torch.nan)
    return (finite / 2 + 0.5).clamp(0, 1)

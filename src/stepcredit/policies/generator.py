"""A policy made of a family's adapter: what all families share is here, once."""

import collections.abc
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.flow import schedules
from stepcredit.policies import lora_file
from stepcredit.policies.family import Family
from stepcredit.policies.guidance import PREFIX
from stepcredit.policies.loading import load_pipeline
from stepcredit.policies.surface import Surface
from stepcredit.policies.text import TextCache
from stepcredit.records import Condition
from stepcredit.settings.policies import ClassifierFree, Full, LoRA, PolicySettings


class Generator:
    """Implements `protocols.Policy` for every family.

    `pipe` is a pipeline that is loaded already; by default it is loaded as the settings say.
    """

    def __init__(self, family: type[Family[Any]], settings: PolicySettings, *, seed: int = 0, pipe: Any = None) -> None:
        self.settings = settings
        # what can be refused without a model is refused before one is loaded
        self.device = device_of(settings)
        self.dtype = getattr(torch, settings.dtype)
        starting = lora_file.starts(
            settings.surface,
            family.lora_files,
            family.lora_prefix(),
            lambda: family.pipeline_class().lora_state_dict,
        )
        self.pipe: Any = pipe or load_pipeline(settings, family)
        for module in self._modules().values():
            module.requires_grad_(False)
        self.family = family(self.pipe, settings, self.device)
        self.surface = Surface(self.family.trained(), settings.surface, family.feed_forward, seed=seed)
        lora_file.fill(self.surface.networks, starting)
        self._networks = self.family.networks()
        for network in self._networks.values():
            if settings.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            if settings.attention is not None:
                _set_attention(network, settings.attention)
        self._waiting = _waiting(settings, family)
        for name, module in self._modules().items():
            module.to("cpu" if name in self._waiting else self.device)
        self._text = TextCache(
            self.family.encode,
            settings.text_cache,
            lambda: self._on_device(*family.encoders),
            batch=family.text_batch,
        )
        self._cut: set[str] = set()
        self._warned: set[str] = set()

    @property
    def fps(self) -> float | None:
        """Frames per second of what is decoded; None for pictures."""
        return getattr(self.settings, "fps", None)

    @property
    def prediction(self) -> Literal["velocity", "noise"]:
        return self.family.prediction

    def encode(self, prompts: Sequence[str]) -> Condition:
        """What the network takes of these prompts, one row each."""
        self._warn_of_long("a prompt", prompts)
        inputs = self._text(prompts)
        if isinstance(self.settings, ClassifierFree) and self.settings.guidance > 1:
            self._warn_of_long("policy.negative_prompt", [self.settings.negative_prompt])
            negative = self._text([self.settings.negative_prompt])
            inputs |= {PREFIX + name: row for name, row in negative.items()}
        tensors = {}
        for name, tensor in self.family.simplified(inputs).items():
            # there is one negative prompt for all rows, which a view repeats without memory
            tensors[name] = tensor.to(self.device).expand(len(prompts), *tensor.shape[1:])
        return Condition(tensors)

    def latent_shape(self) -> tuple[int, ...]:
        return self.family.latent_shape()

    def levels(self, steps: int, shift: float | None) -> Float[Tensor, " L"]:
        if shift is None:
            return self.family.own_levels(steps)
        if self.prediction == "noise":
            raise RecipeError("rollout.shift has no meaning for a model that predicts noise; leave it null")
        return schedules.shifted(steps, shift=shift)

    def trainable(self, levels: Float[Tensor, " L"]) -> Bool[Tensor, " N"]:
        return self.family.trainable(levels)

    def start(self, noise: Float[Tensor, "B *latent"], level: Float[Tensor, ""]) -> Float[Tensor, "B *latent"]:
        return self.family.start(noise, level)

    def velocity(
        self, latents: Float[Tensor, "B *latent"], level: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B *latent"]:
        with self._precision():
            velocity = self.family.velocity(self._networks, latents, level, condition.tensors)
        return velocity.to(latents.dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B *latent"]) -> Float[Tensor, "B *frames 3 H W"]:
        with self._on_device("vae"):
            return torch.cat([self.family.decode(part) for part in latents.split(self.settings.decode_batch)])

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.surface.parameters()

    def keep_reference(self) -> None:
        self.surface.keep_reference()

    @contextmanager
    def reference(self) -> collections.abc.Generator[None]:
        """Inside, velocities are those of the networks before training."""
        networks_now = self._networks
        with self.surface.reference() as references:
            self._networks = {**networks_now, **references}  # a frozen expert has no reference: it is its own
            try:
                yield
            finally:
                self._networks = networks_now

    @contextmanager
    def alone(self, name: str) -> collections.abc.Generator[None]:
        """Inside, one network gives the velocity at every level; for counting what each costs."""
        networks_now = self._networks
        self._networks = {name: networks_now[name]}
        try:
            yield
        finally:
            self._networks = networks_now

    def save(self, folder: Path) -> None:
        """A LoRA that the family's `load_lora_weights` reads, or the trained networks as diffusers folders."""
        if isinstance(self.settings.surface, LoRA):
            networks = self.surface.networks
            layers: dict[str, Any] = {name: get_peft_model_state_dict(network) for name, network in networks.items()}
            self.family.save_lora(folder, layers, {name: _notes(network) for name, network in networks.items()})
        else:
            for name, network in self.surface.networks.items():
                network.save_pretrained(folder / name, safe_serialization=True)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {name: part for name, part in self.pipe.components.items() if isinstance(part, torch.nn.Module)}

    def _precision(self) -> AbstractContextManager[object]:
        """Weights that are trained themselves stay float32; where the network computes in less, each product is cast.
        Opened for each forward and without a cache, which would keep old copies of weights that have moved."""
        exact = self.dtype == torch.float32 or not isinstance(self.settings.surface, Full)
        if exact or self.device.type == "meta":  # where only shapes are computed there is no autocast
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype, cache_enabled=False)

    @contextmanager
    def _on_device(self, *names: str) -> collections.abc.Generator[None]:
        """Parts that wait in main memory are on the device inside. They are frozen, so nothing is copied back."""
        waiting = [name for name in names if name in self._waiting and self.device.type != "cpu"]
        parts = [getattr(self.pipe, name) for name in waiting]
        parts = [part for part in parts if part is not None]  # T5 may be left out of SD3
        modules = [module for part in parts for module in part.modules()]
        stores: list[Any] = [store for module in modules for store in (module._parameters, module._buffers)]
        items = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
        # `Module.to` changes a parameter's data in place and puts a new tensor where a buffer was: both are undone
        in_main_memory = [(store, name, tensor, tensor.data) for store, name, tensor in items]
        for part in parts:
            part.to(self.device)
        try:
            yield
        finally:
            for store, name, tensor, values in in_main_memory:
                tensor.data = values
                store[name] = tensor

    def _warn_of_long(self, what: str, prompts: Sequence[str]) -> None:
        """Once for each kind of prompt of which the tokenizer cuts one."""
        tokenizer, limit = self.family.token_limit()
        distinct = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cut]
        lengths = {prompt: len(tokenizer(prompt, truncation=False, verbose=False).input_ids) for prompt in distinct}
        long = [prompt for prompt, length in lengths.items() if length > limit]
        if long and what not in self._warned:
            warnings.warn(
                f'{what} is longer than {limit} tokens and is cut: "{long[0][:60]}..."; raise policy.max_tokens '
                "where the model allows it, or shorten it (said once; the others are counted)",
                stacklevel=2,
            )
            self._warned.add(what)
        self._cut.update(long)

    @property
    def cut_prompts(self) -> int:
        """Distinct prompts so far that the tokenizer cut, the negative one among them."""
        return len(self._cut)


def device_of(settings: Any, key: str = "policy.device") -> torch.device:
    """The device that settings name, or what there is; an error where it is not here, before anything is loaded."""
    wanted = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # unknown names; builds without, machines without
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise RecipeError(f"{key} is {wanted}, which is not here ({reason}); null takes what there is") from None


def _waiting(settings: PolicySettings, family: type[Family[Any]]) -> set[str]:
    """Parts of the pipeline that wait in main memory."""
    waiting: set[str] = set()
    if "vae" in settings.offload:
        waiting.add("vae")
    if "text_encoders" in settings.offload:
        waiting.update(family.encoders)
    return waiting


def _notes(network: Any) -> dict[str, Any]:
    """peft's own notes on an adapter, for the metadata of its file."""
    notes = network.peft_config["default"].to_dict()
    notes["target_modules"] = sorted(notes["target_modules"])  # a set, whose order is chance
    return notes


def _set_attention(network: Any, backend: str) -> None:
    try:
        network.set_attention_backend(backend)
    except Exception as error:  # unknown names, missing packages, no such hardware
        raise RecipeError(f'policy.attention "{backend}" cannot be used here: {error}') from error

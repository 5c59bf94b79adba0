"""The recipe's generator without weights, on the meta device, and what a meter asks of it."""

import collections.abc
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from stepcredit.costs.blueprint import blueprint
from stepcredit.costs.meter import META, Meter, metered
from stepcredit.policies.families import family_of
from stepcredit.policies.generator import Generator
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Condition
from stepcredit.settings.policies import LoRA


@dataclass(frozen=True)
class Encoding:
    """What text encoders take for so many `prompts`, at most `batch` at a time.

    Of one long prompt of FLUX.1-dev: `Encoding(prompts=1, batch=16, flops=4_858_021_613_568, peak=96_600_080)`.
    """

    prompts: int
    batch: int
    flops: int
    peak: int
    """Bytes of a batch at the worst moment, beside the encoders themselves."""


def sketch(recipe: Recipe) -> Generator:
    """The recipe's generator, of which nothing is loaded."""
    surface = recipe.policy.surface
    if isinstance(surface, LoRA):
        surface = surface.model_copy(update={"start": None})
    without_weights = {
        "device": "meta",
        "surface": surface,
        "offload": (),  # there is nothing to move; what would be moved is weighed in `weights.py`
        "attention": None,  # a backend may need a GPU; see `meter.fused_attention`
        "text_cache": 2**30,  # every prompt's row is kept, so that none is encoded twice
    }
    settings = recipe.policy.model_copy(update=without_weights)
    family = family_of(settings)
    return Generator(family, settings, pipe=blueprint(settings, family))


def velocity(policy: Generator, condition: Condition, network: str, count: int = 1) -> None:
    """A network's forward for so many samples, as the rollout runs it."""
    with torch.no_grad():
        _forward(policy, condition, network, count)


def gradient(policy: Generator, condition: Condition, network: str, count: int = 1) -> None:
    """A network's forward and backward for so many samples, as the update runs them."""
    predicted = _forward(policy, condition, network, count)
    predicted.backward(torch.empty_like(predicted))


def _forward(policy: Generator, condition: Condition, network: str, count: int) -> Tensor:
    rows = {name: tensor[:1].expand(count, *tensor.shape[1:]) for name, tensor in condition.tensors.items()}
    latents = torch.empty(count, *policy.latent_shape(), device=META)
    with policy.alone(network):
        return policy.velocity(latents, torch.empty(count, device=META), Condition(rows))


def decode(policy: Generator) -> tuple[Meter, Tensor]:
    """Work and peak of decoding one sample, and the picture or video, without memory."""
    latent = torch.empty(1, *policy.latent_shape(), device=META)
    with metered() as meter:
        picture = policy.decode(latent)
    return meter, picture


def encode(policy: Generator, prompts: Sequence[str]) -> tuple[Encoding, Condition]:
    """Work and peak of the text encoders, and what they make of the prompts."""
    encoders = [getattr(policy.pipe, name) for name in policy.family.encoders]
    # The pipeline's own handling of texts looks at values, so it runs on the CPU, with zeros; only the encoders are
    # without memory.
    policy.family.device = torch.device("cpu")
    with _shadows([encoder for encoder in encoders if encoder is not None]) as meters, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prompts that are cut: training says it
        condition = policy.encode(list(prompts))
    policy.family.device = META
    flops = sum(meter.flops for meter in meters)
    peak = max((meter.peak for meter in meters), default=0)
    return Encoding(len(prompts), policy.family.text_batch, flops, peak), condition


@contextmanager
def _shadows(encoders: Sequence[Any]) -> collections.abc.Generator[list[Meter]]:
    """Inside, encoders return zeros; there is a meter of what each call would have done."""
    meters: list[Meter] = []
    for encoder in encoders:
        # On the instance: the class's own method is back as soon as this one is deleted.
        encoder.forward = _shadow(encoder.forward, meters)
    try:
        yield meters
    finally:
        for encoder in encoders:
            del encoder.forward


def _shadow(forward: Callable[..., Any], meters: list[Meter]) -> Callable[..., Any]:
    """An encoder's `forward` that is metered on the meta device and returns zeros on the CPU."""

    def run(*args: Any, **kwargs: Any) -> Any:
        ids = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        # Without its mask, whose values nobody knows on the meta device: padding is computed like everything else.
        flags = {name: value for name, value in kwargs.items() if not isinstance(value, Tensor)}
        with torch.no_grad(), metered() as meter:
            output = forward(ids.to(META), **flags)
        meters.append(meter)
        return tree_map(_zeros, output)

    return run


def _zeros(leaf: Any) -> Any:
    """Zeros in a tensor's shape that fill one number's memory."""
    return torch.zeros((), dtype=leaf.dtype).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf

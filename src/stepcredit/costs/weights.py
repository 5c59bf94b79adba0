"""Bytes of a generator's parameters and of what training hangs on them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.policies.generator import Generator
from stepcredit.recipe.recipe import Recipe
from stepcredit.settings.policies import Full

FLOAT32 = 4  # bytes; what is trained, its gradients and AdamW's two moments are always float32
_OFFLOADED = {"vae": "autoencoder", "text_encoders": "text encoders"}  # parts by their names in `policy.offload`


@dataclass(frozen=True)
class Weights:
    """Bytes by part. Of FLUX.1-dev with a LoRA of rank 64: `resident` {"network": 23_802_816_640, "trained weights":
    418_381_824, ...}, `waiting` {"text encoders": 9_770_742_272}, `copies` 0."""

    resident: Mapping[str, int]
    """On the device all the time."""
    waiting: Mapping[str, int]
    """In main memory, and on the device only while it is used."""
    copies: int
    """Made anew for each batch of the update."""


def weigh(recipe: Recipe, policy: Generator, *, reference: bool) -> Weights:
    """Weigh a sketch, and bring its parameters into the state in which an update finds them.

    `reference`: whether the frozen policy is asked, too, so that full training keeps a copy of it.
    """
    trained = policy.parameters()
    count = sum(parameter.numel() for parameter in trained)
    full = isinstance(recipe.policy.surface, Full)
    frozen = _frozen(policy, trained)
    offload = () if recipe.policy.device == "cpu" else recipe.policy.offload
    waiting = {_OFFLOADED[name]: frozen.pop(_OFFLOADED[name]) for name in offload}
    resident = {
        **frozen,
        "trained weights": FLOAT32 * count,
        "gradients": FLOAT32 * count,
        "moments of AdamW": 2 * FLOAT32 * count,
        "moving average": FLOAT32 * count if recipe.training.ema is not None else 0,
        # A LoRA that is switched off is the reference, and takes nothing.
        "reference": frozen["network"] + FLOAT32 * count if full and reference else 0,
    }
    copies = _as_in_an_update(policy, trained, cast=full and policy.dtype != torch.float32)
    return Weights({part: size for part, size in resident.items() if size}, waiting, copies)


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def _frozen(policy: Generator, trained: list[torch.nn.Parameter]) -> Counter[str]:
    """Bytes of what is not trained, by part."""
    trained_ids = {id(parameter) for parameter in trained}
    frozen: Counter[str] = Counter()
    for name, module in policy.pipe.components.items():
        if isinstance(module, torch.nn.Module):
            parameters = [parameter for parameter in module.parameters() if id(parameter) not in trained_ids]
            frozen[_part(policy, name, module)] += sum(bytes_of(parameter) for parameter in parameters)
    return frozen


def _part(policy: Generator, name: str, module: torch.nn.Module) -> str:
    if any(module is network for network in policy.family.networks().values()):
        return "network"
    return "autoencoder" if name == "vae" else "text encoders"


def _as_in_an_update(policy: Generator, trained: list[torch.nn.Parameter], *, cast: bool) -> int:
    """Give every trained parameter a gradient, so that no phase is charged for it; returns the bytes of casts.

    Autocast computes with a copy of each weight that is trained itself, and keeps it for the backward. On the meta
    device there is no autocast, so the weights themselves become those copies.
    """
    copies = 0
    for parameter in trained:
        if cast:
            parameter.data = parameter.data.to(policy.dtype)
            copies += bytes_of(parameter)
        parameter.grad = torch.empty_like(parameter)
    return copies

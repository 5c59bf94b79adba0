"""Classifier-free guidance (arXiv 2207.12598): both branches in one forward, then put together."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stepcredit.policies.text import stack_padded

Predict = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
Combine = Callable[[Tensor, Tensor, Tensor | float], Tensor]
PREFIX = "negative_"
"""How the names of the negative prompt's inputs begin."""


def linear(prompted: Tensor, unprompted: Tensor, scale: Tensor | float) -> Tensor:
    """unprompted + scale (prompted - unprompted)."""
    return unprompted + scale * (prompted - unprompted)


def norm_preserving(prompted: Tensor, unprompted: Tensor, scale: Tensor | float) -> Tensor:
    """The same, then as long as the prompted prediction, token by token (Qwen-Image)."""
    combined = linear(prompted, unprompted, scale)
    return combined * (prompted.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))


def guided(
    predict: Predict,
    latents: Tensor,
    level: Tensor,
    inputs: Mapping[str, Tensor],
    *,
    scale: Tensor | float,
    combine: Combine = linear,
) -> Tensor:
    """The guided prediction of `predict(latents, level, inputs)`, or the plain one where there is no negative prompt.

    | argument | shape | |
    |---|---|---|
    | `latents` | `[B, *latent]` | as the network takes them |
    | `level` | `[B]` | or the timestep, where the network takes that |
    | `inputs` | `[B, ...]` each | of the prompts, and under `negative_...` the same of the negative prompt |
    | `scale` | number, or `[B, 1, ...]` | 1 is the prompted prediction, more goes further from the other |
    | `combine` | | `linear` or `norm_preserving` |
    """
    positive = {name: tensor for name, tensor in inputs.items() if not name.startswith(PREFIX)}
    if len(positive) == len(inputs):
        return predict(latents, level, positive)
    both = {name: _both(inputs[PREFIX + name], tensor) for name, tensor in positive.items()}
    # one forward of 2B rows, the unprompted ones first, as diffusers' pipelines order them
    predicted = predict(torch.cat([latents, latents]), torch.cat([level, level]), both)
    unprompted, prompted = predicted.chunk(2)
    return combine(prompted, unprompted, scale)


def _both(negative: Tensor, positive: Tensor) -> Tensor:
    """Rows of both branches, `[2B, ...]`; prompts of different length are padded."""
    if negative.shape[1:] == positive.shape[1:]:
        return torch.cat([negative, positive])
    return stack_padded([*negative, *positive])

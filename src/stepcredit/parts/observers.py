"""Who watches a rollout for a rule: cosines of latents, and of clean predictions, with what is decoded."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.credit.temporal import of_predictions, similarity_to_final
from stepcredit.flow.convert import velocity_to_data
from stepcredit.protocols import Observer
from stepcredit.records import Evidence, Move

Compared = Literal["latents", "predictions"]
"""Whose similarity with the picture is read: that of noisy latents, or of clean predictions."""


class Similarity:
    """`similarity [B, L]`: the cosine of every latent with the one that is decoded."""

    name = "similarity"

    def __init__(self) -> None:
        self._latents: list[Tensor] = []

    def begin(self) -> None:
        self._latents = []

    def see(self, move: Move) -> None:
        # N moves have L = N + 1 states: the first move brings its start along.
        if not self._latents:
            self._latents.append(move.x)
        self._latents.append(move.y)

    def leave(self, final: Float[Tensor, "B *latent"]) -> Mapping[str, Tensor]:
        similarity = similarity_to_final(torch.stack(self._latents, dim=1), final)
        self._latents = []  # a trajectory must not live through the next one
        return {self.name: similarity}


class CleanSimilarity:
    """`clean_similarity [B, N]`: the cosine of the clean prediction before every move with what is decoded."""

    name = "clean_similarity"

    def __init__(self) -> None:
        self._predictions: list[Tensor] = []

    def begin(self) -> None:
        self._predictions = []

    def see(self, move: Move) -> None:
        self._predictions.append(velocity_to_data(move.x, move.velocity, move.level))

    def leave(self, final: Float[Tensor, "B *latent"]) -> Mapping[str, Tensor]:
        similarity = similarity_to_final(torch.stack(self._predictions, dim=1), final)
        self._predictions = []
        return {self.name: similarity}


def watching(compared: Compared) -> Observer:
    """Who leaves what `similarities` reads."""
    return Similarity() if compared == "latents" else CleanSimilarity()


def similarities(evidence: Evidence, compared: Compared) -> Float[Tensor, "P G L"]:
    """Similarities with the final picture: of the noisy latents, or of the clean predictions in their place."""
    if compared == "latents":
        return evidence.seen[Similarity.name]
    return torch.vmap(of_predictions)(evidence.seen[CleanSimilarity.name])

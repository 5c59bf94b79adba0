"""Where every random number comes from: one key an iteration, and a stream of its own for everybody who draws.

A stream depends on the seed, the iteration and *global* numbers of prompts and members alone; so an iteration is the
same whatever the micro-batch, the device or the number of ranks. Streams are drawn on the CPU.
"""

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Numbers that stand where a prompt or a member would, far beyond any real one.
_SHARED_START = 2**31 - 1
_PLAN = 2**31 - 2
_NAMED = 2**31 - 3

_OWN_START = 1  # the fifth number of a key: tells the first noise of a sample from that of its moves


class NoiseStream:
    """Standard normal noise, latent by latent: call `draw` for each one that is needed, in order."""

    def __init__(self, *key: int) -> None:
        # SeedSequence spreads neighbouring keys far apart; torch takes 63 bits of it.
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next latent of noise, `[*shape]`, float32."""
        return torch.randn(shape, generator=self._generator)


@dataclass(frozen=True)
class Key:
    """The only source of randomness of one iteration, such as `Key(seed=0, iteration=7)`.

    `prompt` and `member` are global: the place of the prompt among all prompts of the iteration, and the place of the
    sample in its group.
    """

    seed: int
    iteration: int

    def moves(self, prompt: int, member: int) -> NoiseStream:
        """The noise of a sample's moves, in the order in which they are noisy."""
        return NoiseStream(self.seed, self.iteration, prompt, member)

    def start(self, prompt: int, member: int) -> NoiseStream:
        """The noise that a sample starts from."""
        return NoiseStream(self.seed, self.iteration, prompt, member, _OWN_START)

    def shared_start(self, prompt: int) -> NoiseStream:
        """The noise that a whole group starts from."""
        return NoiseStream(self.seed, self.iteration, prompt, _SHARED_START)

    def plan(self) -> np.random.Generator:
        """For windows and fractions."""
        return np.random.default_rng(np.random.SeedSequence((self.seed, self.iteration, _PLAN)))

    def dealing(self) -> torch.Generator:
        """For the order in which a rollout's moves are dealt to optimiser steps."""
        # A sum is enough here: two seeds meet only if an iteration number reaches a million.
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.iteration)

    def words(self) -> random.Random:
        """For the choice of prompts."""
        # Seeded by a text: with a sum, seed 0 would draw in its second iteration what seed 1 begins with.
        return random.Random(f"{self.seed}-{self.iteration}")

    def stream(self, name: str) -> torch.Generator:
        """For whatever has a name of its own, such as the fresh levels of an objective."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        seed = np.random.SeedSequence((self.seed, self.iteration, _NAMED, number)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))


def fixed_noise(seed: int, prompt: int, member: int) -> NoiseStream:
    """The noise of evaluations, which belongs to no iteration: the same pictures again and again."""
    return NoiseStream(seed, prompt, member)

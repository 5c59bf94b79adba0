"""Where every random number of a rollout comes from: one stream per sample, keyed, not shared.

A sample's stream depends on (seed, iteration, prompt, member) alone; so a rollout is the same whatever the
micro-batch, the device or the number of ranks. Streams are drawn on the CPU.
"""

import numpy as np
import torch
from torch import Tensor

SHARED = 2**31 - 1  # the "member" whose stream gives a group its common initial noise
PLAN = 2**31 - 2  # the "prompt" whose stream draws windows and fractions


class NoiseStream:
    """The noise of one sample: call `draw` for each latent that is needed, in order."""

    def __init__(self, *key: int) -> None:
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self._generator)


def initial_noise(
    shape: tuple[int, ...], *, seed: int, iteration: int, prompt: int, members: int, shared: bool
) -> list[Tensor]:
    """The starting latents of one group: one for all, or one for each."""
    if shared:
        return [NoiseStream(seed, iteration, prompt, SHARED).draw(shape)] * members
    return [NoiseStream(seed, iteration, prompt, member, 1).draw(shape) for member in range(members)]

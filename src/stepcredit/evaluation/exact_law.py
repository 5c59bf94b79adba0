"""Does a kernel sample the law that its model describes? Checked on a mixture whose velocity is known exactly.

Three Gaussians in the plane. A kernel that adds noise must pull back with the score, else its samples spread; CPS keeps
the amount of noise and not the law, and is told apart here too. Ours.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.flow.gaussian import Gaussian
from stepcredit.flow.kernels import Kernel
from stepcredit.flow.schedules import shifted

MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
VARIANCE = 0.15


@dataclass(frozen=True)
class LawError:
    """`distance`: sliced Wasserstein-1 distance to true samples; `variance`: within a mode, the truth being 0.15."""

    distance: float
    variance: float


def velocity(x: Float[Tensor, "B 2"], level: Float[Tensor, ""]) -> Float[Tensor, "B 2"]:
    """E[noise - data | x] of the mixture, exact."""
    spread = (1 - level).square() * VARIANCE + level.square()
    offset = x[:, None] - (1 - level) * MEANS
    share = (WEIGHTS.log() - offset.square().sum(-1) / (2 * spread)).softmax(-1)[..., None]
    data = MEANS + (1 - level) * VARIANCE / spread * offset
    noise = level / spread * offset
    return (share * (noise - data)).sum(1)


def truth(count: int, generator: torch.Generator) -> Float[Tensor, "B 2"]:
    """Samples of the mixture."""
    mode = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[mode] + VARIANCE**0.5 * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def measure(
    kernel: Kernel, *, noise_level: float, steps: int, shift: float = 1.0, count: int = 20_000, seed: int = 0
) -> LawError:
    """Sample with the kernel and compare with the truth."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    levels = shifted(steps, shift=shift)
    for level, next_level in itertools.pairwise(levels):
        law = kernel(x, velocity(x, level), level, next_level, noise_level=noise_level)
        x = law.sample(torch.randn(x.shape, generator=generator, dtype=torch.float64))
    nearest = torch.cdist(x, MEANS).argmin(1)
    within = (x - MEANS[nearest]).square().mean()
    return LawError(sliced_distance(x, truth(count, generator)), float(within))


def sliced_distance(left: Float[Tensor, "B 2"], right: Float[Tensor, "B 2"], *, directions: int = 32) -> float:
    """Wasserstein-1 distance of projections, mean over directions of the half circle."""
    angle = torch.arange(directions, dtype=torch.float64) * (torch.pi / directions)
    axes = torch.stack([angle.cos(), angle.sin()])
    return float(((left @ axes).sort(0).values - (right @ axes).sort(0).values).abs().mean())


def without_score(x: Tensor, velocity: Tensor, level: Tensor, next_level: Tensor, *, noise_level: float) -> Gaussian:
    """A broken kernel on purpose: Dance's noise without the pull back. A check that lets it pass checks nothing."""
    dt = next_level - level
    return Gaussian(x + velocity * dt, (noise_level * (-dt).sqrt()).reshape(1, *(1,) * (x.ndim - 1)))

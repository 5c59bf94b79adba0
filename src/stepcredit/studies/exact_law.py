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

# Unequal weights: a sampler that loses a mode or favours one is seen in the distance.
MEANS = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
VARIANCE = 0.15


@dataclass(frozen=True)
class LawError:
    """How far a kernel's samples are from the law.

    distance   Wasserstein-1 distance to the exact law, mean over the two axes
    variance   within a mode, the truth being 0.15

    Example: 50,000 exact samples have about `LawError(distance=0.007, variance=0.15)`.
    """

    distance: float
    variance: float


def velocity(x: Float[Tensor, "B 2"], level: Float[Tensor, ""]) -> Float[Tensor, "B 2"]:
    """E[noise - data | x] of the mixture, exact."""
    # Given its mode, x = (1 - level) data + level noise is Gaussian, and both expectations are linear in the offset.
    spread = (1 - level).square() * VARIANCE + level.square()
    offset = x[:, None] - (1 - level) * MEANS
    share = (WEIGHTS.log() - offset.square().sum(-1) / (2 * spread)).softmax(-1)[..., None]
    expected_data = MEANS + (1 - level) * VARIANCE / spread * offset
    expected_noise = level / spread * offset
    return (share * (expected_noise - expected_data)).sum(1)


def measure(
    kernel: Kernel, *, noise_level: float, steps: int, shift: float = 1.0, count: int = 50_000, seed: int = 0
) -> LawError:
    """Sample with the kernel and compare with the truth.

    kernel        any transition, such as `flow.kernels.KERNELS["cps"]`
    noise_level   how much noise it adds (the papers' eta)
    steps         N; an error that does not fall with N is the kernel's own
    shift         of the noise levels
    count         samples; of 50,000 exact ones the distance is about 0.007
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    levels = shifted(steps, shift=shift)
    for level, next_level in itertools.pairwise(levels):
        law = kernel(x, velocity(x, level), level, next_level, noise_level=noise_level)
        x = law.sample(torch.randn(x.shape, generator=generator, dtype=torch.float64))
    # The modes are eight deviations apart or more: the nearest mean is the sample's own.
    nearest = torch.cdist(x, MEANS).argmin(1)
    within = torch.stack([x[nearest == mode].var(0).mean() for mode in range(len(MEANS))]).mean()
    return LawError(distance(x), float(within))


def distance(x: Float[Tensor, "B 2"]) -> float:
    """The area between the sorted samples' distribution function and the mixture's, mean over the axes."""
    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    areas = []
    for axis in range(2):
        exact = (WEIGHTS * torch.special.ndtr((grid[:, None] - MEANS[:, axis]) / VARIANCE**0.5)).sum(1)
        # searchsorted copies what is not contiguous, and warns of it.
        empirical = torch.searchsorted(x[:, axis].sort().values.contiguous(), grid, right=True) / len(x)
        areas.append((empirical - exact).abs().sum() * (grid[1] - grid[0]))
    return float(torch.stack(areas).mean())


def without_score(x: Tensor, velocity: Tensor, level: Tensor, next_level: Tensor, *, noise_level: float) -> Gaussian:
    """A broken kernel on purpose: Dance's noise without the pull back. A check that lets it pass checks nothing."""
    dt = next_level - level
    return Gaussian(x + velocity * dt, (noise_level * (-dt).sqrt()).reshape(1, *(1,) * (x.ndim - 1)))

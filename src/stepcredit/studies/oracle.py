"""Credit oracle: flows whose policy gradient is known exactly, so that every rule's estimate can be judged.

Data are Gaussian in `dimensions` axes, so the velocity is affine in the latent and every sampler is a linear-Gaussian
chain. A control theta[n, axis] is added to the velocity at step n along one axis; the true gradient

    dE[R] / dtheta_n = E[R'(x_N)] b_n prod_{m > n} (a_m + b_m alpha_m)

is a closed form (b: the mean's slope in the velocity, alpha: the velocity's slope in x). A rule sees what it would see
in training (scores and similarities of a group) and gives an estimate, credit times the score of each move, averaged.
Every step has a parameter of its own here; a real network shares them. Ours.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.credit.temporal import similarity_to_final
from stepcredit.errors import CreditError
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.schedules import shifted
from stepcredit.flow.transitions import Transitions, read_transitions
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.sampling import NoisyEnd
from stepcredit.records import Evidence, Key, Plan

MEAN, SPREAD = 1.0, 0.5  # of the data, along every axis


@dataclass(frozen=True)
class Objective:
    """A reward of one axis of the final latent: -(x - target)^2, or x itself."""

    axis: int
    kind: Literal["quadratic", "linear"]
    target: float = 1.5

    def score(self, x: Tensor) -> Tensor:
        """Of the values along the axis."""
        return -(x - self.target).square() if self.kind == "quadratic" else x

    def slope(self, mean: Tensor) -> Tensor:
        """E[R'] for a mean of x; exact, R' being affine."""
        return -2 * (mean - self.target) if self.kind == "quadratic" else torch.ones_like(mean)


PROBLEMS: dict[str, tuple[Objective, ...]] = {
    "quadratic": (Objective(0, "quadratic"),),
    "linear": (Objective(0, "linear"),),
    "three rewards": (Objective(0, "quadratic"), Objective(1, "linear"), Objective(0, "quadratic", 0.8)),
}
"""The last has two rewards that pull one axis to different sides, and an easy third one."""


@dataclass(frozen=True)
class Sampler:
    """A kernel on the exact flow, every transition stochastic where the kernel has noise."""

    kernel: str
    noise_level: float
    steps: int = 16
    shift: float = 3.0
    dimensions: int = 16

    @cached_property
    def levels(self) -> Float[Tensor, " L"]:
        return shifted(self.steps, shift=self.shift)

    @cached_property
    def transitions(self) -> Transitions:
        return read_transitions(self.kernel, self.levels, noise_level=self.noise_level)

    def velocity(self, x: Tensor, level: Tensor) -> Tensor:
        """E[noise - data | x], exact."""
        slope = self.slope(level)
        return slope * (x - (1 - level) * MEAN) - MEAN

    @staticmethod
    def slope(level: Tensor) -> Tensor:
        """alpha: how the velocity changes with x."""
        variance = (1 - level).square() * SPREAD**2 + level.square()
        return (level - (1 - level) * SPREAD**2) / variance

    @cached_property
    def response(self) -> Float[Tensor, " N"]:
        """d x_N / d theta_n along an axis: b_n times the slopes of all later steps."""
        start, end = self.levels[:-1], self.levels[1:]
        one, zero = torch.ones_like(start), torch.zeros_like(start)
        kernel = KERNELS[self.kernel]
        step = kernel(one, self.slope(start), start, end, noise_level=self.noise_level).mean
        push = kernel(zero, one, start, end, noise_level=self.noise_level).mean
        later = torch.cat([step.flip(0).cumprod(0).flip(0)[1:], one[:1]])
        return push * later

    @cached_property
    def end(self) -> Float[Tensor, ""]:
        """E[x_N] along every axis."""
        x = torch.zeros((), dtype=torch.float64)
        for level, next_level in zip(self.levels[:-1], self.levels[1:], strict=True):
            law = KERNELS[self.kernel](
                x[None], self.velocity(x, level)[None], level, next_level, noise_level=self.noise_level
            )
            x = law.mean[0]
        return x


SAMPLERS = {
    "dance_sde": Sampler("dance_sde", 0.3),
    "flow_sde": Sampler("flow_sde", 0.7),
    "cps": Sampler("cps", 0.8),
    "ddim": Sampler("ddim", 1.0),
}


@dataclass(frozen=True)
class Draws:
    """Groups drawn from a sampler: what a method may see, and the noise and latents that it does not see."""

    evidence: Evidence
    noise: Float[Tensor, "P G N D"]
    path: Float[Tensor, "P G L D"]
    plan: Plan


def draw(
    sampler: Sampler,
    objectives: tuple[Objective, ...],
    method: Method,
    *,
    groups: int,
    group_size: int,
    seed: int,
    train_last: bool = False,
) -> Draws:
    """Roll out groups as the method's plan says (windows, fractions), with its noise sharing, on the given sampler."""
    generator = torch.Generator().manual_seed(seed)
    sampling = method.sampler
    if isinstance(sampling, NoisyEnd):
        sampling = sampling.model_copy(update={"train_last": train_last and _noisy_end(sampler)})
    chosen = method.plan.draw(
        sampling, steps=sampler.steps, prompts=groups, group_size=group_size, key=Key(seed, iteration=0)
    )
    shape = (groups, group_size, sampler.dimensions)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x[:, :1].expand(shape) if method.plan.shared_noise else x
    noise = torch.randn(groups, group_size, sampler.steps, sampler.dimensions, generator=generator, dtype=torch.float64)
    latents, cleans = [x], []
    for n, (level, next_level) in enumerate(zip(sampler.levels[:-1], sampler.levels[1:], strict=True)):
        velocity = sampler.velocity(x, level)
        cleans.append(x - level * velocity)
        straight = x + (next_level - level) * velocity
        law = KERNELS[sampler.kernel](x, velocity, level, next_level, noise_level=sampler.noise_level)
        x = torch.where(chosen.stochastic[:, :, n, None], law.sample(noise[:, :, n]), straight)
        latents.append(x)
    path, clean = torch.stack(latents, 2), torch.stack(cleans, 2)
    rewards = torch.stack([objective.score(x[..., objective.axis]) for objective in objectives], -1)
    evidence = Evidence(
        rewards=rewards,
        weights=torch.ones(len(objectives), dtype=torch.float64),
        trained=chosen.trained,
        transitions=sampler.transitions,
        seen={
            "similarity": similarity_to_final(path.flatten(0, 1)).unflatten(0, shape[:2]),
            "clean_similarity": similarity_to_final(clean.flatten(0, 1), x.flatten(0, 1)).unflatten(0, shape[:2]),
        },
    )
    return Draws(evidence, noise, path, chosen)


def _noisy_end(sampler: Sampler) -> bool:
    return bool(sampler.transitions.std[-1] > 0)


def truth(sampler: Sampler, objectives: tuple[Objective, ...], spreads: Float[Tensor, " K"]) -> Float[Tensor, "N A"]:
    """The gradient of the sum of the objectives, each in units of its spread, over steps and controlled axes."""
    axes = sorted({objective.axis for objective in objectives})
    gradient = torch.zeros(sampler.steps, len(axes), dtype=torch.float64)
    for objective, spread in zip(objectives, spreads, strict=True):
        gradient[:, axes.index(objective.axis)] += objective.slope(sampler.end) / spread * sampler.response
    return gradient


def estimates(draws: Draws, method: Method, axes: list[int]) -> tuple[Float[Tensor, "P N A"], float]:
    """Each group's estimate of the gradient, the mean over samples of credit, profile and the move's score; and how
    many moves of a group have credit and must be computed again."""
    constants = draws.evidence.transitions
    credit = method.credit(draws.evidence).per_step.double()
    ratio, loss = step_factors(method, draws.evidence)
    native = torch.where(draws.plan.trained.any(0).any(0), constants.native, 0)
    weight = credit * native * (ratio * loss)
    estimate = -(weight[..., None] * draws.noise[..., axes]).mean(1)  # the mean falls with the velocity: b < 0
    return estimate, float((credit != 0).sum()) / len(credit)


def step_factors(method: Method, evidence: Evidence) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """What multiplies the log-ratio and the loss of every transition; 1 for objectives that weigh no steps."""
    if isinstance(method.objective, LikelihoodRatio):
        return method.objective.step_factors(evidence.transitions, evidence.trained)
    ones = torch.ones_like(evidence.transitions.std)
    return ones, ones


@dataclass(frozen=True)
class Quality:
    """How good a rule's estimates are. `bias` is 1 - cosine of the mean estimate with the truth; `cosine` the mean
    cosine of single estimates at the given cost; `snr` the length of the mean over the root mean square deviation."""

    bias: float
    cosine: float
    snr: float
    cost: float


def judge(
    estimate: Float[Tensor, "P N A"], true: Float[Tensor, "N A"], *, cost: float, budget: float, seed: int
) -> Quality:
    """Judge estimates that average as many groups as the budget buys, fractions by chance; `cost` is one group's."""
    flat, goal = estimate.flatten(1), true.flatten()
    known = goal != 0
    flat, goal = flat[:, known], goal[known]
    random = torch.Generator().manual_seed(seed)
    wanted = budget / cost
    averaged = []
    at = 0
    while at < len(flat):
        count = max(1, int(wanted + torch.rand((), generator=random)))
        if at + count > len(flat):
            break
        averaged.append(flat[at : at + count].mean(0))
        at += count
    if len(averaged) < 2:
        raise CreditError(
            f"{len(flat)} groups make {len(averaged)} estimates of {wanted:.1f} groups each, "
            "wanted at least 2; take more"
        )
    many = torch.stack(averaged)
    mean = many.mean(0)
    deviation = (many - mean).square().sum(1).mean().sqrt()
    return Quality(
        bias=1 - float(torch.cosine_similarity(flat.mean(0), goal, dim=0)),
        cosine=float(torch.cosine_similarity(many, goal[None], dim=1).mean()),
        snr=float(mean.norm() / deviation),
        cost=cost,
    )


def dense(
    sampler: Sampler,
    objective: Objective,
    *,
    groups: int,
    group_size: int,
    seed: int,
    anchored: bool,
    normalised: bool,
) -> Float[Tensor, "P N 1"]:
    """Estimates of rules that ask for the value of every latent, which is its deterministic completion's reward.

    Step n is credited with what its noise changed in that value, minus the group's mean. `anchored`: the groups of
    all steps branch off one deterministic path (one noisy step at a time, as in G2RPO and TempFlow-GRPO); otherwise
    they are the gains along ordinary trajectories (DenseGRPO). `normalised` divides by each step's own spread.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 1, generator=generator, dtype=torch.float64).expand(groups, group_size)
    noise = torch.randn(groups, group_size, sampler.steps, generator=generator, dtype=torch.float64)
    gains = []
    for n, (level, next_level) in enumerate(zip(sampler.levels[:-1], sampler.levels[1:], strict=True)):
        velocity = sampler.velocity(x, level)
        law = KERNELS[sampler.kernel](x, velocity, level, next_level, noise_level=sampler.noise_level)
        moved = law.sample(noise[:, :, n])
        gains.append(_value(sampler, objective, moved, n + 1) - _value(sampler, objective, x, n))
        x = x + (next_level - level) * velocity if anchored else moved
    advantage = torch.stack(gains, -1)
    advantage = advantage - advantage.mean(1, keepdim=True)
    if normalised:
        advantage = advantage / (advantage.square().sum(1, keepdim=True) / (group_size - 1)).sqrt().clamp(min=1e-12)
    native = torch.where(sampler.transitions.std > 0, sampler.transitions.native, 0)
    return -(advantage * native * noise).mean(1)[..., None]


def _value(sampler: Sampler, objective: Objective, x: Tensor, n: int) -> Tensor:
    """The reward of the deterministic completion from latent n."""
    for level, next_level in zip(sampler.levels[n:-1], sampler.levels[n + 1 :], strict=True):
        x = x + (next_level - level) * sampler.velocity(x, level)
    return objective.score(x)

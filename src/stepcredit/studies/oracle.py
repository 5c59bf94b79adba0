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
from stepcredit.flow import sampler as flow_sampler
from stepcredit.flow.schedules import shifted
from stepcredit.flow.transitions import Transitions
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.sampling import NoisyEnd
from stepcredit.records import Evidence, Key, Plan

# The data's law along every axis.
MEAN = 1.0
SPREAD = 0.5


@dataclass(frozen=True)
class Objective:
    """A reward of one axis of the final latent: -(x - target)^2, or x itself.

    Example: `Objective(axis=0, kind="quadratic", target=1.5)` is best where the first number of the latent is 1.5.
    """

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
    """A kernel on the exact flow, every transition stochastic where the kernel has noise.

    kernel        the transition, one of `flow.kernels.KERNELS`
    noise_level   how much noise it adds (the papers' eta)
    steps         N
    shift         of the noise levels; 3 is Stable Diffusion 3's
    dimensions    D numbers of a latent; the rewards look at one or two of them

    Example: `Sampler("dance_sde", noise_level=0.3)` walks 16 steps from noise to 16 numbers of mean 1 and spread 0.5.
    """

    kernel: str
    noise_level: float
    steps: int = 16
    shift: float = 3.0
    dimensions: int = 16

    @cached_property
    def levels(self) -> Float[Tensor, " L"]:
        return shifted(self.steps, shift=self.shift)

    @cached_property
    def moves(self) -> flow_sampler.Sampler:
        """The sampler that a rollout would use."""
        return flow_sampler.Sampler(self.kernel, self.noise_level, self.levels)

    @property
    def transitions(self) -> Transitions:
        return self.moves.transitions

    def velocity(self, x: Tensor, level: Tensor) -> Tensor:
        """E[noise - data | x], exact."""
        # Data and noise are Gaussian, so the expectation is affine in x; at x's own mean it is the mean, 0 - MEAN.
        slope = self.slope(level)
        return slope * (x - (1 - level) * MEAN) - MEAN

    @staticmethod
    def slope(level: Tensor) -> Tensor:
        """alpha: how the velocity changes with x, Cov(noise - data, x) / Var(x)."""
        variance = (1 - level).square() * SPREAD**2 + level.square()
        return (level - (1 - level) * SPREAD**2) / variance

    @cached_property
    def response(self) -> Float[Tensor, " N"]:
        """d x_N / d theta_n along an axis: b_n times the slopes of all later steps."""
        start = self.levels[:-1]
        one = torch.ones_like(start)
        zero = torch.zeros_like(start)
        every_step = torch.arange(self.steps)
        # A mean is linear in (x, velocity), so the kernel at (1, alpha) is a + b alpha and at (0, 1) it is b.
        factor = self.moves.law(one, self.slope(start), every_step).mean
        push = self.moves.law(zero, one, every_step).mean
        later = torch.cat([factor.flip(0).cumprod(0).flip(0)[1:], one[:1]])
        return push * later

    @cached_property
    def end(self) -> Float[Tensor, ""]:
        """E[x_N] along every axis."""
        x = torch.zeros(1, dtype=torch.float64)
        for step in range(self.steps):
            # Every step is affine, so the mean of the next latent is the next latent of the mean.
            x = self.moves.law(x, self.velocity(x, self.levels[step]), step).mean
        return x[0]


SAMPLERS = {
    "dance_sde": Sampler("dance_sde", 0.3),
    "flow_sde": Sampler("flow_sde", 0.7),
    "cps": Sampler("cps", 0.8),
    "ddim": Sampler("ddim", 1.0),
}


@dataclass(frozen=True)
class Draws:
    """Groups drawn from a sampler: what a method may see, and the noise and latents that it does not see.

    Example: `draws.noise[0, 3, 5]` are the D numbers that were drawn for the sixth step of the first group's fourth
    sample, and `draws.path[0, 3, 6]` is where it stood after that step.
    """

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
    """Roll out groups as the method's plan says (windows, fractions), with its noise sharing, on the given sampler.

    train_last   train the last step as well where the sampler has noise there: the truth has a number for it
    """
    plan = _plan(sampler, method, groups=groups, group_size=group_size, seed=seed, train_last=train_last)
    # The order of these two draws is part of the published numbers.
    generator = torch.Generator().manual_seed(seed)
    shape = (groups, group_size, sampler.dimensions)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(groups, group_size, sampler.steps, sampler.dimensions, generator=generator, dtype=torch.float64)
    start = start[:, :1].expand(shape) if method.plan.shared_noise else start
    path, clean = _walk(sampler, plan, start, noise)
    end = path[:, :, -1]
    rewards = torch.stack([objective.score(end[..., objective.axis]) for objective in objectives], -1)
    evidence = Evidence(
        rewards=rewards,
        weights=torch.ones(len(objectives), dtype=torch.float64),
        trained=plan.trained,
        transitions=sampler.transitions,
        seen={
            "similarity": _similarity(path, end),
            "clean_similarity": _similarity(clean, end),
        },
    )
    return Draws(evidence, noise, path, plan)


def _plan(sampler: Sampler, method: Method, *, groups: int, group_size: int, seed: int, train_last: bool) -> Plan:
    sampling = method.sampler
    if isinstance(sampling, NoisyEnd):
        sampling = sampling.model_copy(update={"train_last": train_last and _noisy_end(sampler)})
    return method.plan.draw(
        sampling, steps=sampler.steps, prompts=groups, group_size=group_size, key=Key(seed, iteration=0)
    )


def _walk(
    sampler: Sampler, plan: Plan, start: Float[Tensor, "P G D"], noise: Float[Tensor, "P G N D"]
) -> tuple[Float[Tensor, "P G L D"], Float[Tensor, "P G N D"]]:
    """All latents from noise to data, and the clean prediction before every move."""
    x = start
    latents = [x]
    predictions = []
    for step in range(sampler.steps):
        level = sampler.levels[step]
        velocity = sampler.velocity(x, level)
        predictions.append(x - level * velocity)
        moved = sampler.moves.law(x, velocity, step).sample(noise[:, :, step])
        x = torch.where(plan.stochastic[:, :, step, None], moved, sampler.moves.straight(x, velocity, step))
        latents.append(x)
    return torch.stack(latents, 2), torch.stack(predictions, 2)


def _similarity(latents: Float[Tensor, "P G S D"], end: Float[Tensor, "P G D"]) -> Float[Tensor, "P G S"]:
    return similarity_to_final(latents.flatten(0, 1), end.flatten(0, 1)).unflatten(0, end.shape[:2])


def _noisy_end(sampler: Sampler) -> bool:
    return bool(sampler.transitions.std[-1] > 0)


def truth(sampler: Sampler, objectives: tuple[Objective, ...], spreads: Float[Tensor, " K"]) -> Float[Tensor, "N A"]:
    """The gradient of the sum of the objectives, each in units of its spread, over steps and controlled axes."""
    # Rewards that are standardised ascend the sum of the objectives, each in units of its spread.
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
    # Native is infinite where a move is deterministic; there is no credit there, and 0 times infinity is NaN.
    native = torch.where(draws.plan.trained.any(0).any(0), constants.native, 0)
    weight = credit * native * (ratio * loss)
    # A move's score is its noise times the native weight, with the sign of b: the mean falls with the velocity.
    estimate = -(weight[..., None] * draws.noise[..., axes]).mean(1)
    return estimate, float((credit != 0).sum()) / len(credit)


def step_factors(method: Method, evidence: Evidence) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """What multiplies the log-ratio and the loss of every transition; 1 for objectives that weigh no steps."""
    if isinstance(method.objective, LikelihoodRatio):
        return method.objective.step_factors(evidence.transitions, evidence.trained)
    ones = torch.ones_like(evidence.transitions.std)
    return ones, ones


@dataclass(frozen=True)
class Quality:
    """How good a rule's estimates are.

    bias     1 - cosine of the mean estimate with the truth
    cosine   the mean cosine of single estimates with the truth, at equal cost
    snr      the length of the mean estimate over the root mean square deviation of single ones
    cost     network forwards of one group

    Example: `Quality(bias=0.001, cosine=0.78, snr=1.2, cost=780.0)`: right on average, and most of a single estimate.
    """

    bias: float
    cosine: float
    snr: float
    cost: float


def judge(
    estimate: Float[Tensor, "P N A"], true: Float[Tensor, "N A"], *, cost: float, budget: float, seed: int
) -> Quality:
    """Judge estimates that average as many groups as the budget buys, fractions by chance.

    estimate   of every group
    true       the gradient; where it is 0 nothing can be learnt, and nothing is judged
    cost       network forwards of one group
    budget     network forwards that one estimate may cost
    """
    goal = true.flatten()
    learnable = goal != 0
    goal = goal[learnable]
    single = estimate.flatten(1)[:, learnable]
    averages = _averages(single, budget / cost, torch.Generator().manual_seed(seed))
    mean = averages.mean(0)
    deviation = (averages - mean).square().sum(1).mean().sqrt()
    return Quality(
        # All groups once: the mean over averages would leave out the groups that fill no last average.
        bias=1 - float(torch.cosine_similarity(single.mean(0), goal, dim=0)),
        cosine=float(torch.cosine_similarity(averages, goal[None], dim=1).mean()),
        snr=float(mean.norm() / deviation),
        cost=cost,
    )


def _averages(
    single: Float[Tensor, "P numbers"], groups_each: float, random: torch.Generator
) -> Float[Tensor, "E numbers"]:
    """Means over as many neighbouring groups as `groups_each`; 2.5 are 2 or 3 by chance, half of the time each."""
    averages = []
    first = 0
    while first < len(single):
        count = max(1, int(groups_each + torch.rand((), generator=random)))
        if first + count > len(single):
            break
        averages.append(single[first : first + count].mean(0))
        first += count
    if len(averages) < 2:
        raise CreditError(
            f"{len(single)} groups make {len(averages)} estimates of {groups_each:.1f} groups each, "
            "wanted at least 2; take more"
        )
    return torch.stack(averages)


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

    Step n is credited with what its noise changed in that value, minus the group's mean.

    anchored     the groups of all steps branch off one deterministic path (one noisy step at a time, as in G2RPO and
                 TempFlow-GRPO); otherwise they are the gains along ordinary trajectories (DenseGRPO)
    normalised   divide by each step's own spread
    """
    generator = torch.Generator().manual_seed(seed)
    # One axis is enough: it is the only one that the reward looks at, and axes do not mix.
    x = torch.randn(groups, 1, generator=generator, dtype=torch.float64).expand(groups, group_size)
    noise = torch.randn(groups, group_size, sampler.steps, generator=generator, dtype=torch.float64)
    gains = []
    for step in range(sampler.steps):
        velocity = sampler.velocity(x, sampler.levels[step])
        moved = sampler.moves.law(x, velocity, step).sample(noise[:, :, step])
        gains.append(_value(sampler, objective, moved, step + 1) - _value(sampler, objective, x, step))
        x = sampler.moves.straight(x, velocity, step) if anchored else moved
    advantage = torch.stack(gains, -1)
    advantage = advantage - advantage.mean(1, keepdim=True)
    if normalised:
        # A step without noise changes nothing: its spread is 0, and so is its advantage.
        spread = (advantage.square().sum(1, keepdim=True) / (group_size - 1)).sqrt()
        advantage = advantage / spread.clamp(min=1e-12)
    native = torch.where(sampler.transitions.std > 0, sampler.transitions.native, 0)
    return -(advantage * native * noise).mean(1)[..., None]  # b < 0, as in `estimates`


def _value(sampler: Sampler, objective: Objective, x: Tensor, step: int) -> Tensor:
    """The reward of the deterministic completion from the latent before this step."""
    for later in range(step, sampler.steps):
        x = sampler.moves.straight(x, sampler.velocity(x, sampler.levels[later]), later)
    return objective.score(x)

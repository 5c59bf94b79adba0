"""What every method decides: a kernel, which transitions are trained, how credit is assigned, the loss."""

import inspect
from abc import abstractmethod
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from stepcredit.credit import advantage, assign, temporal
from stepcredit.flow.transitions import Transitions
from stepcredit.methods.border import check_credit, check_evidence
from stepcredit.objective import diagnostics, surrogate
from stepcredit.objective.profile import Form, Place, Preserve, Profile, factors, log_ratio, placed
from stepcredit.records import Credit, Evidence, Moves
from stepcredit.settings.strict import Strict

Kernel = Literal["flow_sde", "dance_sde", "cps", "ddim"]
ENDS_WITHOUT_NOISE = ("cps", "ddim")


class Window(Strict):
    """Noise and training on a few neighbouring steps only, drawn at random; the rest of the path is deterministic."""

    size: int = Field(ge=1)
    """Steps in the window."""
    first: int = Field(default=0, ge=0)
    """The earliest step that a window may hold."""
    end: int | None = Field(default=None, ge=1)
    """The step after the last one that a window may hold; null is the last trained step."""
    per: Literal["rollout", "prompt"] = "rollout"
    """One window for the whole rollout, or one for each prompt."""

    def room(self, steps: int) -> int:
        """The step after the last possible one; an error if the window does not fit into so many trained steps."""
        end = steps if self.end is None else self.end
        if end > steps or self.first + self.size > end:
            raise ValueError(
                f"method.window holds {self.size} of the steps {self.first} to {end - 1}, and the trained steps are 0 "
                f"to {steps - 1}; lower window.size, window.first or window.end, or raise rollout.steps"
            )
        return end


class Method(Strict):
    """Settings and decisions of a method. The trainer calls `credit` and `loss` and knows nothing else of it.

    Abstract: each method is one final subclass in its own file. It gives the settings below its own paper's values
    and says how credit is assigned; the settings may be combined freely.
    """

    paper: ClassVar[str]
    """Where it comes from, e.g. "arXiv 2604.19234"."""
    summary: ClassVar[str]
    """One line for `stepcredit methods`."""
    fills: ClassVar[str]
    """What it decides itself: "when", "mix", "advantage", "loss", "kernel", "plan"; the rest is shared."""
    status: ClassVar[Literal["formula", "code"]] = "formula"
    """How it was checked: against its published formula, or against published code as well."""
    mixes_objectives: ClassVar[bool] = False
    """Whether the method finds its own mix of the objectives, so that weights in the recipe would be ignored."""

    kernel: Kernel = "dance_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.3, gt=0)
    """How much noise the kernel adds (the papers' eta)."""
    shared_noise: bool = True
    """Whether the samples of a prompt start from the same noise."""
    train_last: bool = False
    """Whether the last transition is trained too; if not, it is deterministic."""
    final_state: Literal["x0", "x_N"] = "x0"
    """What is decoded and compared with: the last step's clean prediction, or the last latent with its noise."""
    window: Window | None = None
    """Noise and training on a few steps only; null is all of them."""
    timestep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the trained steps that each sample trains, drawn at random for every sample."""
    best_of: int | None = Field(default=None, ge=2)
    """Train only so many samples of a group, the best and the worst half; null is all of them."""
    head: surrogate.Head = "clipped"
    """The loss of a log-ratio and its credit."""
    clip: float = Field(default=1e-4, gt=0)
    """Half-width of the clipped ratio or hinge; the largest KL of the trust region."""
    profile: Profile = "native"
    """How much each step should count in the gradient."""
    place: Place = "loss"
    """What the profile multiplies: the loss, or the log-ratio (the trust region scales too)."""
    preserve: Preserve = "gradient"
    """What a profile leaves as it was: the total gradient weight, the mean factor, or nothing."""
    form: Form = "power"
    """How a profile enters the log-ratio."""
    advantage_clip: float = Field(default=5.0, gt=0)
    """Advantages are clamped to plus or minus this."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Strength of the pull towards the policy before training."""
    kl_form: Literal["exact", "flow_grpo"] = "exact"
    """`exact`: the transition's KL; `flow_grpo`: that times the step length, as published with Flow-GRPO."""

    @model_validator(mode="after")
    def _last_transition_has_noise(self) -> "Method":
        if self.train_last and self.kernel in ENDS_WITHOUT_NOISE:
            raise ValueError(
                f"train_last needs a transition with noise at the end, and {self.kernel} ends without; set it to false"
            )
        return self

    def check(self, *, steps: int, group_size: int) -> None:
        """Whether the settings fit a rollout of so many steps and samples per prompt; ValueError says what does not."""
        if self.window is not None:
            self.window.room(steps if self.train_last else steps - 1)
        if self.best_of is not None and self.best_of > group_size:
            raise ValueError(f"method.best_of is {self.best_of}, and a group has {group_size} samples; lower it")

    @abstractmethod
    def assign(self, evidence: Evidence) -> Credit:
        """Credit of a whole rollout, `[P, G, N]`."""

    def credit(self, evidence: Evidence) -> Credit:
        """`assign`, with evidence and credit checked; an error names the file of the rule."""
        check_evidence(evidence, mixes=self.mixes_objectives)
        credit = self.assign(evidence)
        check_credit(credit, evidence, where=inspect.getfile(type(self)))
        if credit.advantages.shape[-1] != evidence.rewards.shape[-1]:
            credit = _objective_by_objective(credit, evidence)
        return credit if self.best_of is None else _extremes(credit, self.best_of)

    def step_factors(
        self, transitions: Transitions, trained: Bool[Tensor, "P G N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """What multiplies the log-ratio and the loss of every transition (`objective.profile`)."""
        counts = trained.sum((0, 1)).to(transitions.levels)
        factor = factors(
            transitions.slope,
            transitions.std,
            transitions.length,
            counts,
            profile=self.profile,
            preserve=self.preserve,
        )
        return placed(factor, transitions.std, place=self.place)

    def log_ratio(self, moves: Moves) -> Float[Tensor, " B"]:
        """Of the policy now to the policy that sampled, per latent dimension, weighted by the profile."""
        return log_ratio(moves.drift, moves.noise, moves.ratio_factor, form=self.form)

    def loss(self, moves: Moves, credit: Float[Tensor, "B M"]) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """The loss of each move, to be minimised, and whether all of it is cut off. Terms are clipped one by one."""
        log_ratio = self.log_ratio(moves)[:, None].expand_as(credit)
        divergence = moves.drift.square().flatten(1).mean(1)[:, None].expand_as(credit) / 2
        head = partial(self._head, credit=credit, divergence=divergence)
        loss = moves.loss_factor * head(log_ratio).sum(-1)
        cut = diagnostics.silent_elements(head, log_ratio, credit)
        return loss, (cut | (credit == 0)).all(-1) & (credit != 0).any(-1)

    def _head(self, log_ratio: Tensor, credit: Tensor, divergence: Tensor) -> Tensor:
        match self.head:
            case "clipped":
                return surrogate.clipped(log_ratio, credit, clip=self.clip)
            case "hinge":
                return surrogate.hinge(log_ratio, credit, clip=self.clip)
            case "trust_region":
                return surrogate.trust_region(log_ratio, credit, divergence, limit=self.clip)
            case "unclipped":
                return surrogate.unclipped(log_ratio, credit)

    def divergence(self, drift: Float[Tensor, "B *latent"], step_length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Distance of each transition from the reference policy's, whose mean is `drift` standard deviations away.

        Flow-GRPO's published KL has g^2 where the transition's variance is g^2 times the step length; so it is the
        exact one times the step length, and a weight tuned for one form means something else in the other.
        """
        kl = drift.square().flatten(1).mean(1) / 2
        return kl if self.kl_form == "exact" else kl * step_length


def same_for_every_step(
    mixed: Float[Tensor, " G"],
    advantages: Float[Tensor, "G K"],
    coefficients: Float[Tensor, "... K"],
    *,
    trained: Bool[Tensor, "*G N"],
) -> Credit:
    """What a rule without an opinion on steps returns for one group: its mix of the objectives at every trained one."""
    when = temporal.uniform(mixed.new_ones(mixed.shape[0], trained.shape[-1]), trained=trained)
    return Credit(
        per_step=assign.per_step(when, mixed),
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=coefficients.expand_as(advantages).clone(),
        strength=torch.zeros_like(mixed),
    )


@torch.no_grad()
def _objective_by_objective(credit: Credit, evidence: Evidence) -> Credit:
    """The parts of a rule that sums raw scores, as people look at them: each objective's own advantage, and what it
    counted in the sum, its weight times its spread in the group."""
    rewards = torch.where(evidence.rewards.isfinite(), evidence.rewards, torch.nan).to(credit.mixed)
    spread = (rewards - rewards.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
    return replace(
        credit,
        advantages=torch.vmap(advantage.standardise)(rewards),
        coefficients=(evidence.weights.to(rewards) * spread).nan_to_num(0.0).expand_as(rewards).clone(),
    )


def _extremes(credit: Credit, count: int) -> Credit:
    """Credit for the `count` samples of each group at both ends of its mix; the others get none.

    Kept credit grows by G / count, so that the mean over all moves of the rollout is the mean over the kept ones.
    """
    order = credit.mixed.nan_to_num(0.0).argsort(dim=-1, stable=True)  # a broken sample is nobody's best
    members = order.shape[-1]
    rank = order.argsort(dim=-1)
    kept = ((rank < count - count // 2) | (rank >= members - count // 2))[..., None]
    kept = kept.to(credit.per_step) * (members / count)
    terms = None if credit.terms is None else credit.terms * kept[..., None]
    return replace(credit, per_step=credit.per_step * kept, terms=terms)

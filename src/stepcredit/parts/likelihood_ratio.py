"""The likelihood ratio of stochastic moves: what the whole GRPO family minimises.

    row (sample, step):   loss_factor * sum over terms of f(log_ratio, credit)   + kl_weight * KL(now, reference)

with f one of the losses of `objective.surrogate`, and log_ratio that of the policy now to the policy that sampled, per
latent dimension, weighted by the step's factor (`objective.profile`).
"""

from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.flow.gaussian import at_least_float32
from stepcredit.flow.transitions import Transitions
from stepcredit.objective import diagnostics, surrogate
from stepcredit.objective.profile import Form, Place, Preserve, Profile, factors, log_ratio, placed
from stepcredit.parts.objective import Objective
from stepcredit.parts.sampling import Sampling
from stepcredit.records import Answers, Credit, Loss, Points, Queries, Rollout
from stepcredit.settings.strict import Strict


class Clipped(Strict):
    """PPO's clipped surrogate."""

    type: Literal["clipped"] = "clipped"
    clip: float = Field(default=1e-4, gt=0, le=1e30)
    """Half-width of the clipped ratio."""

    def loss(self, log_ratio: Tensor, credit: Tensor, divergence: Tensor) -> Tensor:
        del divergence
        return surrogate.clipped(log_ratio, credit, clip=self.clip)


class Hinge(Strict):
    """PCPO's hinge in the log-ratio."""

    type: Literal["hinge"] = "hinge"
    clip: float = Field(default=1e-4, gt=0, le=1e30)
    """The hinge's margin."""

    def loss(self, log_ratio: Tensor, credit: Tensor, divergence: Tensor) -> Tensor:
        del divergence
        return surrogate.hinge(log_ratio, credit, clip=self.clip)


class TrustRegion(Strict):
    """Flow-DPPO's mask: no ratio clip, but moves that left a KL ball and go on outwards are left out."""

    type: Literal["trust_region"] = "trust_region"
    clip: float = Field(default=1e-5, gt=0, le=1e30)
    """The largest KL per dimension."""

    def loss(self, log_ratio: Tensor, credit: Tensor, divergence: Tensor) -> Tensor:
        return surrogate.trust_region(log_ratio, credit, divergence, limit=self.clip)


class Unclipped(Strict):
    """The plain score-function estimator; there is nothing to clip."""

    type: Literal["unclipped"] = "unclipped"

    def loss(self, log_ratio: Tensor, credit: Tensor, divergence: Tensor) -> Tensor:
        del divergence
        return surrogate.unclipped(log_ratio, credit)


LossChoice = Annotated[Clipped | Hinge | TrustRegion | Unclipped, Field(discriminator="type")]


class LikelihoodRatio(Objective):
    """Policy gradient on the moves of a stochastic sampler."""

    loss: LossChoice = Clipped()
    """The loss of a log-ratio and its credit."""
    profile: Profile = "native"
    """How much each step should count in the gradient."""
    place: Place = "loss"
    """What the profile multiplies: the loss, or the log-ratio (the trust region scales too)."""
    preserve: Preserve = "gradient"
    """What a profile leaves as it was: the total gradient weight, the mean factor, or nothing."""
    form: Form = "power"
    """How a profile enters the log-ratio."""
    kl_weight: float = Field(default=0.0, ge=0, le=1e30)
    """Strength of the pull towards the policy before training."""
    kl_form: Literal["exact", "flow_grpo"] = "exact"
    """`exact`: the transition's KL; `flow_grpo`: that times the step length, as published with Flow-GRPO."""

    @property
    def asks_reference(self) -> bool:
        return self.kl_weight > 0

    def check(self, sampling: Sampling) -> None:
        if not sampling.adds_noise:
            raise ValueError(
                f"method.sampler is {sampling.kernel}, whose moves have no likelihood; take one that adds noise "
                "(dance_sde, flow_sde, cps, ddim)"
            )

    def queries(self, rollout: Rollout, credit: Credit, generator: torch.Generator) -> Queries:
        """One row for each trained move. A move without credit has no gradient, unless a KL pulls at it; a sample
        whose latents are not finite has no density."""
        del generator  # every row is a move of the rollout: nothing is drawn
        trained = rollout.plan.trained.flatten(0, 1)
        sample, step = trained.nonzero().unbind(1)
        terms = credit.per_step[..., None] if credit.terms is None else credit.terms
        terms = terms.to(rollout.latents).flatten(0, 1)
        has_gradient = rollout.alive.flatten()[sample]
        if not self.asks_reference:
            has_gradient = has_gradient & (terms != 0).any(-1).cpu()[sample, step]
        on_ratio, on_loss = self.step_factors(rollout.sampler.transitions, rollout.plan.trained)
        # Rows are counted on the CPU, where plan and liveness are; what goes into the loss lies with the latents.
        credit_row = sample.to(terms.device)
        credit_step = step.to(terms.device)
        states = rollout.plan.node.flatten(0, 1)[sample, step]
        return Queries(
            sample=sample,
            step=step,
            state=states * rollout.plan.steps + step,  # a state's number is unique within its column only
            asked=has_gradient,
            extras={
                "credit": terms[credit_row, credit_step],
                "ratio_factor": on_ratio.to(terms)[credit_step],
                "loss_factor": on_loss.to(terms)[credit_step],
            },
        )

    def points(self, rollout: Rollout, queries: Queries) -> Points:
        """The state before each move, the noise that was drawn for it, and what the network said then."""
        sampler = rollout.sampler
        row = queries.sample.to(rollout.latents.device)
        step = queries.step.to(rollout.latents.device)
        latents = rollout.latents.flatten(0, 1)
        x = latents[row, step]
        sampled = at_least_float32(rollout.velocities.flatten(0, 1)[row, step])
        law = sampler.law(x, sampled, step)
        # Read back from the latents, so that no noise need be kept; whatever rounding did to a latent is in it, too.
        noise = (latents[row, step + 1] - law.mean) / law.std
        return Points(
            x=x,
            level=sampler.levels.to(latents)[step],
            step=step,
            sampler=sampler,
            extras={**queries.extras, "sampled": sampled, "noise": noise},
        )

    def losses(self, answers: Answers, points: Points) -> Loss:
        """The loss of each move, its terms clipped one by one; the KL to the reference where it is asked for."""
        extras = points.extras
        drift = points.sampler.drift(answers.now - extras["sampled"], points.step)
        weighted = log_ratio(drift, extras["noise"], extras["ratio_factor"], form=self.form)
        rows, clipped = self.of_moves(weighted, drift, extras["credit"])
        total = (extras["loss_factor"] * rows).sum()
        kl = torch.zeros_like(total)
        if answers.reference is not None:
            # Both moves start from one state and have one spread, so their KL depends on their means alone.
            apart = drift - points.sampler.drift(answers.reference - extras["sampled"], points.step)
            levels = points.sampler.levels.to(apart)
            kl = self.divergence(apart, levels[points.step] - levels[points.step + 1]).sum()
            total = total + self.kl_weight * kl
        weighted = weighted.detach()  # from here on numbers for people, which must not hold the graph
        return Loss(
            total=total,
            sums={"kl": kl.detach()},
            by_step={"ratio_deviation": (weighted.exp() - 1).abs(), "clip_fraction": clipped.to(weighted)},
            agreement=weighted,
        )

    def step_factors(
        self, transitions: Transitions, trained: Bool[Tensor, "P G N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """What multiplies the log-ratio and the loss of every transition (`objective.profile`)."""
        # How often each step is trained: what a profile preserves is a total over the moves that count.
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

    def of_moves(
        self, log_ratio: Float[Tensor, " B"], drift: Float[Tensor, "B *latent"], credit: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """The loss of each move, all its terms together, and whether all of it is clipped off."""
        ratios = log_ratio[:, None].expand_as(credit)
        # Of the move itself: a term has a credit of its own, but the move has one density for all terms.
        divergence = drift.square().flatten(1).mean(1)[:, None].expand_as(credit) / 2
        head = partial(self.loss.loss, credit=credit, divergence=divergence)
        rows = head(ratios).sum(-1)
        silent = diagnostics.silent_elements(head, ratios, credit)
        # A term without credit has nothing to clip: it does not keep a move from being wholly clipped off.
        return rows, (silent | (credit == 0)).all(-1) & (credit != 0).any(-1)

    def divergence(self, drift: Float[Tensor, "B *latent"], step_length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Distance of each transition from the reference policy's, whose mean is `drift` standard deviations away.

        Flow-GRPO's published KL has g^2 where the transition's variance is g^2 times the step length; so it is the
        exact one times the step length, and a weight tuned for one form means something else in the other.
        """
        kl = drift.square().flatten(1).mean(1) / 2
        return kl if self.kl_form == "exact" else kl * step_length

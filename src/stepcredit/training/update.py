"""How gradients are taken: a rollout's (sample, step) pairs, flattened, shuffled and recomputed in full batches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import NumericsError, during
from stepcredit.flow.gaussian import Gaussian, at_least_float32
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.transitions import Transitions
from stepcredit.methods.base import Method
from stepcredit.protocols import Policy
from stepcredit.records import Condition, Credit, Moves, Plan, Trajectory
from stepcredit.rollout.engine import Advance

RATIO_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest |log ratio| before the first update of a rollout, by the dtype of the network."""


@dataclass(frozen=True)
class Pairs:
    """A flat batch of moves x -> y of a trajectory, `[B]` along the first axis; `credit` is `[B, M]`, a column for
    each loss term; `velocity` is that of the policy that sampled."""

    x: Tensor
    y: Tensor
    level: Tensor
    next_level: Tensor
    velocity: Tensor
    credit: Tensor
    step: Tensor
    condition: Condition


@dataclass(frozen=True)
class Recompute:
    """Runs the network again on the stored moves. Exact for any number of updates per rollout.

    Pairs are dealt out at random to `updates` optimiser steps, `passes` times. Pairs with zero credit have no gradient
    and are not computed. The loss is the mean over all trained pairs of the rollout, whatever the micro-batch.
    """

    policy: Policy
    method: Method
    transitions: Transitions
    updates: int
    passes: int
    micro_batch: int
    max_gradient_norm: float

    @during("update")
    def apply(
        self,
        trajectory: Trajectory,
        plan: Plan,
        condition: Condition,
        credit: Credit,
        optimiser: torch.optim.Optimizer,
        *,
        seed: int,
        iteration: int,
        advance: Advance,
    ) -> dict[str, float]:
        """Take all optimiser steps of one rollout; returns what they did, in numbers."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + iteration)
        terms = (credit.per_step[..., None] if credit.terms is None else credit.terms).to(trajectory.latents)
        factors = torch.stack(self.method.step_factors(self.transitions, plan.trained)).to(trajectory.latents)
        pairs = _trained_pairs(plan)
        whole = trajectory.latents.flatten(2).isfinite().all(-1).flatten().cpu()  # NaN samples have no density
        computed = whole[pairs[:, 0]]
        if self.method.kl_weight == 0:
            computed = computed & (terms != 0).any(-1).flatten(0, 1).cpu()[pairs[:, 0], pairs[:, 1]]
        totals: list[Tensor] = []
        norms: list[Tensor] = []
        orders = [torch.randperm(len(pairs), generator=generator) for _ in range(self.passes)]
        for number, chosen in enumerate(part for order in orders for part in order.tensor_split(self.updates)):
            mine = pairs[chosen[computed[chosen]]]
            if not len(mine):
                continue
            for scale in self._loss_scales(trajectory.final[0, 0].numel() * len(chosen)):
                optimiser.zero_grad(set_to_none=True)
                batches = (_gather(trajectory, condition, terms, part) for part in mine.split(self.micro_batch))
                found = [
                    self._backward(batch, factors, len(chosen), scale, fresh=number == 0, advance=advance)
                    for batch in batches
                ]
                norm = self._unscaled(scale)
                if norm.isfinite():
                    break
                advance(-len(mine))
            else:
                raise NumericsError(
                    f"the gradient of iteration {iteration} is not finite; weights are untouched by it. "
                    "Lower the learning rate or use policy.dtype float32"
                )
            totals += found
            norms.append(norm)
            optimiser.step()
        return _summary(totals, norms, pairs[computed], len(pairs), steps=plan.steps, passes=self.passes)

    def _backward(
        self, batch: Pairs, factors: Tensor, pairs: int, scale: float, *, fresh: bool, advance: Advance
    ) -> Tensor:
        """Add a batch's part of the mean over so many `pairs`, times `scale`, to the gradient; its numbers in a row."""
        loss, kl, moved, cut = self._loss(batch, factors, fresh=fresh)
        (loss / pairs * scale).backward()
        advance(len(batch.step))
        return torch.cat([torch.stack([loss.detach(), kl]), moved, cut])

    def _loss_scales(self, parts: int) -> list[float]:
        """What the loss is multiplied by while its gradient is taken, to be tried in turn until nothing overflows.

        The loss is a mean over so many `parts`, latent numbers times pairs, which float16 would round to 0 on the way
        back: there the mean is made a sum, to a power of two, and less where that is too much. 1 in other dtypes.
        """
        if self.policy.dtype != torch.float16:
            return [1.0]
        return [2.0**exponent for exponent in range(math.floor(math.log2(parts)), -1, -4)]

    def _unscaled(self, scale: float) -> Tensor:
        """The norm of the gradient, which is clipped and no longer scaled."""
        parameters = self.policy.parameters()
        if scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= scale
        return torch.nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)

    def _loss(self, batch: Pairs, factors: Tensor, *, fresh: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over a batch: loss, KL to the reference, and per transition `[N]` |ratio - 1| and moves cut off."""
        moves = self._moves(batch, factors)
        log_ratio = self.method.log_ratio(moves).detach()
        if fresh:
            self._check_ratio(log_ratio)
        losses, cut = self.method.loss(moves, batch.credit)
        loss = losses.sum()
        per_step = torch.zeros(2, factors.shape[1], device=loss.device, dtype=loss.dtype)
        per_step.index_add_(1, batch.step, torch.stack([(log_ratio.exp() - 1).abs(), cut.to(loss)]))
        kl = torch.zeros_like(loss)
        if self.method.kl_weight > 0:
            with torch.no_grad(), self.policy.reference():
                reference = self._velocity(batch)
            apart = moves.drift - self._drift(batch, reference - at_least_float32(batch.velocity))
            kl = self.method.divergence(apart, batch.level - batch.next_level).sum()
            loss = loss + self.method.kl_weight * kl
        return loss, kl.detach(), per_step[0], per_step[1]

    def _moves(self, batch: Pairs, factors: Tensor) -> Moves:
        """How the policy of now sees the moves. Every kernel's mean is linear in the velocity, so the mean's change
        comes from the velocity's change alone: no two large numbers are subtracted."""
        before = at_least_float32(batch.velocity)
        drawn = self._kernel(batch.x, before, batch)
        ratio_factor, loss_factor = factors[:, batch.step]
        return Moves(
            drift=self._drift(batch, self._velocity(batch) - before),
            noise=(batch.y - drawn.mean) / drawn.std,
            ratio_factor=ratio_factor,
            loss_factor=loss_factor,
        )

    def _velocity(self, batch: Pairs) -> Tensor:
        return at_least_float32(self.policy.velocity(batch.x, batch.level, batch.condition))

    def _drift(self, batch: Pairs, change: Tensor) -> Tensor:
        """What a change of velocity does to a transition's mean, in standard deviations."""
        law = self._kernel(torch.zeros_like(change), change, batch)
        return law.mean / law.std

    def _kernel(self, x: Tensor, velocity: Tensor, batch: Pairs) -> Gaussian:
        kernel = KERNELS[self.method.kernel]
        return kernel(x, velocity, batch.level, batch.next_level, noise_level=self.method.noise_level)

    def _check_ratio(self, log_ratio: Tensor) -> None:
        """Before anything was updated, the policy that trains must be the policy that sampled."""
        worst = float(log_ratio.abs().max())
        allowed = RATIO_TOLERANCE[self.policy.dtype]
        if not worst <= allowed:
            raise NumericsError(
                f"before the first update the log-ratio is {worst:.2e}, wanted 0 within {allowed:.0e}: sampling and "
                "training disagree about the same network (dropout left on, another dtype, other weights?)"
            )


def _trained_pairs(plan: Plan) -> Tensor:
    """(row, step) of every trained move, row = prompt x G + member, `[B, 2]`."""
    return plan.trained.flatten(0, 1).nonzero()


def _gather(trajectory: Trajectory, condition: Condition, terms: Tensor, pairs: Tensor) -> Pairs:
    row, at = pairs[:, 0].to(trajectory.latents.device), pairs[:, 1].to(trajectory.latents.device)
    latents = trajectory.latents.flatten(0, 1)
    levels = trajectory.levels.to(latents)
    return Pairs(
        x=latents[row, at],
        y=latents[row, at + 1],
        level=levels[at],
        next_level=levels[at + 1],
        velocity=trajectory.velocities.flatten(0, 1)[row, at],
        credit=terms.flatten(0, 1)[row, at],
        step=at,
        condition=condition[row // trajectory.latents.shape[1]],
    )


def _summary(
    totals: list[Tensor], norms: list[Tensor], computed: Tensor, pairs: int, *, steps: int, passes: int
) -> dict[str, float]:
    """`computed` are the pairs that were, `[B, 2]`, out of so many `pairs` of a pass."""
    if not norms:  # no sample had any credit
        return {"update/steps": 0.0, "update/skipped_pairs": 1.0, "update/pairs": 0.0}
    loss, kl, *rest = torch.stack(totals).sum(0).tolist()
    moved, cut = rest[:steps], rest[steps:]
    counts = (torch.bincount(computed[:, 1], minlength=steps) * passes).tolist()
    total = sum(counts)
    metrics = {
        "update/loss": loss / (pairs * passes),
        "update/ratio_deviation": sum(moved) / total,
        "update/clip_fraction": sum(cut) / total,
        "update/kl": kl / total,
        "update/gradient_norm": float(torch.stack(norms).mean()),
        "update/steps": float(len(norms)),
        "update/pairs": float(total),
        "update/skipped_pairs": 1 - len(computed) / pairs,
    }
    for step, count in enumerate(counts):
        if count:
            metrics[f"update/ratio_deviation/{step:02d}"] = moved[step] / count
            metrics[f"update/clip_fraction/{step:02d}"] = cut[step] / count
    return metrics

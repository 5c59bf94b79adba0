"""How gradients are taken: a rollout's (sample, step) pairs, flattened, shuffled and recomputed in full batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import NumericsError
from stepcredit.flow.gaussian import Gaussian
from stepcredit.flow.kernels import KERNELS
from stepcredit.methods.base import Method
from stepcredit.objective import diagnostics
from stepcredit.protocols import Policy
from stepcredit.records import Condition, Credit, Trajectory
from stepcredit.rollout.engine import Advance
from stepcredit.rollout.plan import Plan

RATIO_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest |log ratio| before the first update of a rollout, by the dtype of the network."""


@dataclass(frozen=True)
class Pairs:
    """A flat batch of moves x -> y of a trajectory, `[B]` along the first axis."""

    x: Tensor
    y: Tensor
    level: Tensor
    next_level: Tensor
    log_prob: Tensor
    credit: Tensor
    step: Tensor
    condition: Condition
    kernel: str


@dataclass(frozen=True)
class Recompute:
    """Runs the network again on the stored moves. Exact for any number of updates per rollout.

    Pairs are dealt out at random to `updates` optimiser steps, `passes` times. Pairs with zero credit have no gradient
    and are not computed. The loss is the mean over all P x G x T pairs of the rollout, whatever the micro-batch.
    """

    policy: Policy
    method: Method
    plan: Plan
    updates: int
    passes: int
    micro_batch: int
    max_gradient_norm: float

    def apply(
        self,
        trajectory: Trajectory,
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
        per_step = credit.per_step.to(trajectory.latents)
        pairs = self._trained_pairs(per_step)
        whole = trajectory.latents.flatten(2).isfinite().all(-1).flatten().cpu()  # NaN samples have no density
        computed = whole[pairs[:, 0]]
        if self.method.kl_weight == 0:
            computed = computed & (per_step.flatten(0, 1).cpu()[pairs[:, 0], pairs[:, 1]] != 0)
        totals: list[Tensor] = []
        norms: list[Tensor] = []
        orders = [torch.randperm(len(pairs), generator=generator) for _ in range(self.passes)]
        for number, chosen in enumerate(part for order in orders for part in order.tensor_split(self.updates)):
            mine = pairs[chosen[computed[chosen]]]
            optimiser.zero_grad(set_to_none=True)
            for part in mine.split(self.micro_batch) if len(mine) else ():
                batch = self._gather(trajectory, condition, per_step, part)
                loss, kl, moved, cut = self._loss(batch, fresh=number == 0)
                (loss / len(chosen)).backward()
                totals.append(torch.cat([torch.stack([loss.detach(), kl]), moved, cut]))
                advance(len(part))
            if len(mine):
                parameters = self.policy.parameters()
                norms.append(torch.nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm))
                if not norms[-1].isfinite():
                    raise NumericsError(
                        f"the gradient of iteration {iteration} is not finite; weights are untouched by it. "
                        "Lower the learning rate or use policy.dtype float32"
                    )
                optimiser.step()
        return self._summary(totals, norms, pairs[computed], len(pairs))

    def _trained_pairs(self, per_step: Tensor) -> Tensor:
        """(row, step) of every trained move, row = prompt x G + member, `[P G T, 2]`."""
        rows = torch.arange(per_step.shape[0] * per_step.shape[1])
        return torch.cartesian_prod(rows, self.plan.trained.nonzero()[:, 0])

    def _gather(self, trajectory: Trajectory, condition: Condition, per_step: Tensor, pairs: Tensor) -> Pairs:
        row, at = pairs[:, 0].to(trajectory.latents.device), pairs[:, 1].to(trajectory.latents.device)
        latents = trajectory.latents.flatten(0, 1)
        levels = trajectory.levels.to(latents)
        kernels = {self.plan.kernels[step] for step in pairs[:, 1].tolist()}
        return Pairs(
            x=latents[row, at],
            y=latents[row, at + 1],
            level=levels[at],
            next_level=levels[at + 1],
            log_prob=trajectory.log_probs.flatten(0, 1)[row, at],
            credit=per_step.flatten(0, 1)[row, at],
            step=at,
            condition=condition[row // trajectory.latents.shape[1]],
            kernel=kernels.pop(),
        )

    def _loss(self, batch: Pairs, *, fresh: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over a batch: loss, KL to the reference, and per transition `[N]` |ratio - 1| and clipped elements."""
        law = self._law(batch)
        log_ratio = law.log_prob(batch.y) - batch.log_prob
        if fresh:
            self._check_ratio(log_ratio)
        loss = self.method.loss(log_ratio, batch.credit).sum()
        with torch.no_grad():
            cut = diagnostics.clipped_elements(log_ratio, batch.credit, clip=self.method.clip)
            per_step = torch.zeros(2, len(self.plan.kernels), device=loss.device, dtype=loss.dtype)
            per_step.index_add_(1, batch.step, torch.stack([(log_ratio.exp() - 1).abs(), cut.to(loss)]))
        kl = torch.zeros_like(loss)
        if self.method.kl_weight > 0:
            with torch.no_grad(), self.policy.reference():
                reference = self._law(batch)
            kl = self.method.divergence(law, reference, batch.level - batch.next_level).sum()
            loss = loss + self.method.kl_weight * kl
        moved, cut = per_step
        return loss, kl.detach(), moved, cut

    def _law(self, batch: Pairs) -> Gaussian:
        velocity = self.policy.velocity(batch.x, batch.level, batch.condition)
        kernel = KERNELS[batch.kernel]
        return kernel(batch.x, velocity, batch.level, batch.next_level, noise_level=self.method.noise_level)

    def _check_ratio(self, log_ratio: Tensor) -> None:
        """Before anything was updated, the policy that trains must be the policy that sampled."""
        worst = float(log_ratio.detach().abs().max())
        allowed = RATIO_TOLERANCE[self.policy.dtype]
        if not worst <= allowed:
            raise NumericsError(
                f"before the first update the log-ratio is {worst:.2e}, wanted 0 within {allowed:.0e}: sampling and "
                "training disagree about the same network (dropout left on, another dtype, other weights?)"
            )

    def _summary(self, totals: list[Tensor], norms: list[Tensor], computed: Tensor, pairs: int) -> dict[str, float]:
        """`computed` are the pairs that were, `[B, 2]`, out of so many `pairs` of a pass."""
        if not norms:  # no sample had any credit
            return {"update/steps": 0.0, "update/skipped_pairs": 1.0, "update/pairs": 0.0}
        N = len(self.plan.kernels)
        loss, kl, *rest = torch.stack(totals).sum(0).tolist()
        moved, cut = rest[:N], rest[N:]
        counts = (torch.bincount(computed[:, 1], minlength=N) * self.passes).tolist()
        total = sum(counts)
        metrics = {
            "update/loss": loss / (pairs * self.passes),
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

"""How gradients are taken: an objective's rows, shuffled, dealt to optimiser steps and asked in full batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import NumericsError, during
from stepcredit.flow.gaussian import at_least_float32
from stepcredit.parts.objective import Objective
from stepcredit.protocols import Observer, Policy, Progress
from stepcredit.records import Answers, Credit, Key, Points, Queries, Rollout, UpdateReport
from stepcredit.rollout.states import distinct, spread
from stepcredit.training.finite import all_finite
from stepcredit.training.tally import Tally

AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}
"""Largest |log ratio| before the first update of a rollout, by the dtype of the network."""

_WITH_GRADIENT = 3  # network forwards that a forward with its backward costs


@dataclass(frozen=True)
class Recompute:
    """Asks the network again where the objective says. Exact for any number of updates per rollout.

    Rows are dealt out at random to `updates` optimiser steps, `passes` times. Rows whose term is known to be 0 are not
    asked. The loss is the mean over all rows of the optimiser step, whatever the micro-batch.
    """

    policy: Policy
    objective: Objective
    optimiser: torch.optim.Optimizer
    updates: int
    passes: int
    micro_batch: int
    max_gradient_norm: float
    share_states: bool = True

    def observers(self) -> tuple[Observer, ...]:
        """Nobody: everything is computed again."""
        return ()

    @during("update")
    def apply(self, rollout: Rollout, credit: Credit, key: Key, progress: Progress) -> UpdateReport:
        """Take all optimiser steps of one rollout; returns what they did, in numbers."""
        # All rows at once, which are light; what is of latent size is gathered a micro-batch at a time, in `points`.
        queries = self.objective.queries(rollout, credit, key.stream("queries"))
        tally = Tally(steps=rollout.sampler.steps, rows=len(queries), passes=self.passes)
        for dealt in self._deal(len(queries), key):
            rows = dealt[queries.asked[dealt]]
            # No step at all: with a gradient of 0 AdamW would still decay the weights and go on along its moments.
            if not len(rows):
                continue
            batch = _Batch(rollout, queries[rows], rows_in_mean=len(dealt), fresh=tally.optimiser_steps == 0)
            self._accumulate(batch, tally, progress, key.iteration)
            self.optimiser.step()
        self._check_weights(key.iteration)
        return tally.report()

    def _deal(self, rows: int, key: Key) -> Iterator[Tensor]:
        """The rows of each optimiser step."""
        generator = key.dealing()
        # All orders are drawn first: an optimiser step that nobody asks for must not shift the later ones.
        orders = [torch.randperm(rows, generator=generator) for _ in range(self.passes)]
        for order in orders:
            yield from order.tensor_split(self.updates)

    def _check_weights(self, iteration: int) -> None:
        """Once an iteration and not once a step: the answer has to be waited for on a device."""
        if not all_finite(self.policy.parameters()):
            raise NumericsError(
                f"the optimiser steps of iteration {iteration} left weights that are not finite; nothing of them is "
                "saved, checkpoints so far are whole. Lower optimiser.learning_rate or optimiser.max_gradient_norm, "
                "or use policy.dtype float32"
            )

    def _accumulate(self, batch: "_Batch", tally: Tally, progress: Progress, iteration: int) -> None:
        """Take the gradient of one optimiser step, and clip it."""
        for scale in self._loss_scales(batch):
            # None and not 0: AdamW passes over parameters that no row has reached.
            self.optimiser.zero_grad(set_to_none=True)
            attempt = tally.attempt()
            for part in batch.split(self.micro_batch, share_states=self.share_states):
                self._backward(part, scale, attempt)
                progress(len(part.queries))
            norm = self._unscaled(scale)
            if norm.isfinite():
                tally.keep(attempt, norm)
                return
            progress(-len(batch.queries))  # they will be computed again, at a smaller scale
        raise NumericsError(
            f"the gradient of iteration {iteration} is not finite; weights are untouched by it. "
            "Lower the learning rate or use policy.dtype float32"
        )

    def _backward(self, batch: "_Batch", scale: float, tally: Tally) -> None:
        """Add a batch's part of the mean, times `scale`, to the gradient, and its numbers to the tally."""
        points = self.objective.points(batch.rollout, batch.queries)
        answers, forwards = self._ask(batch, points)
        loss = self.objective.losses(answers, points)
        if batch.fresh and loss.agreement is not None:
            self._check_agreement(loss.agreement)
        # Divided by the rows of the whole optimiser step, so that parts of any size add up to its mean.
        (loss.total / batch.rows_in_mean * scale).backward()
        tally.add(loss, points.step, forwards)

    def _ask(self, batch: "_Batch", points: Points) -> tuple[Answers, int]:
        """What the policies say at the points, and what it cost in network forwards."""
        members = batch.rollout.final.shape[1]
        prompt = batch.queries.sample.to(points.x.device) // members
        states = distinct(batch.queries.state) if self.share_states else None
        rows = slice(None) if states is None else states.first.to(points.x.device)
        x = points.x[rows]
        level = points.level[rows]
        condition = batch.rollout.condition[prompt[rows]]

        def answer() -> Tensor:
            velocity = at_least_float32(self.policy.velocity(x, level, condition))
            return velocity if states is None else spread(velocity, states)

        now = answer()
        if not self.objective.asks_reference:
            return Answers(now), _WITH_GRADIENT * len(x)
        with torch.no_grad(), self.policy.reference():
            return Answers(now, reference=answer()), (_WITH_GRADIENT + 1) * len(x)

    def _loss_scales(self, batch: "_Batch") -> list[float]:
        """What the loss is multiplied by while its gradient is taken, to be tried in turn until nothing overflows.

        The loss is a mean over latent numbers times rows, which float16 would round to 0 on the way back: there the
        mean is made a sum, to a power of two, and less where that is too much. 1 in other dtypes.
        """
        if self.policy.dtype != torch.float16:
            return [1.0]
        numbers = batch.rollout.final[0, 0].numel() * batch.rows_in_mean
        return [2.0**exponent for exponent in range(math.floor(math.log2(numbers)), -1, -4)]

    def _unscaled(self, scale: float) -> Tensor:
        """The norm of the gradient, which is clipped and no longer scaled."""
        parameters = self.policy.parameters()
        # Before the norm is taken, whose bound is meant for the true gradient; a power of two rounds nothing.
        if scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= scale
        return torch.nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)

    def _check_agreement(self, agreement: Tensor) -> None:
        """Before anything was updated, the policy that trains must be the policy that sampled."""
        worst = float(agreement.abs().max())
        allowed = AGREEMENT[self.policy.dtype]
        # Not `worst > allowed`, which is False for NaN.
        if not worst <= allowed:
            raise NumericsError(
                f"before the first update the log-ratio is {worst:.2e}, wanted 0 within {allowed:.0e}: sampling and "
                "training disagree about the same network (dropout left on, another dtype, other weights?)"
            )


@dataclass(frozen=True)
class _Batch:
    """Rows of one optimiser step that are asked; `rows_in_mean` are all of its rows, `fresh` says that no optimiser
    step of this rollout was taken before."""

    rollout: Rollout
    queries: Queries
    rows_in_mean: int
    fresh: bool

    def split(self, size: int, *, share_states: bool) -> Iterator["_Batch"]:
        """Parts of at most so many rows; rows that share a state stand together."""
        # The order within an optimiser step changes nothing but rounding; so it is left alone where nothing is shared.
        order = torch.arange(len(self.queries))
        if share_states and distinct(self.queries.state) is not None:
            order = self.queries.state.argsort(stable=True)
        for rows in order.split(size):
            yield _Batch(self.rollout, self.queries[rows], self.rows_in_mean, self.fresh)

"""Adds up what the optimiser steps of one rollout did, and makes the numbers that people see of it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepcredit.records import Loss, UpdateReport


@dataclass
class Tally:
    """Sums of one rollout's update: over `rows` in each of `passes`, told apart by the sampler's `steps` transitions.

    Numbers stay on the device until the end, so that nothing waits for them.
    """

    steps: int
    rows: int
    passes: int
    forwards: int = 0
    _numbers: list[Tensor] = field(default_factory=list)  # of each micro-batch: loss, sums, numbers by step
    _counts: list[Tensor] = field(default_factory=list)
    _norms: list[Tensor] = field(default_factory=list)
    _sums: tuple[str, ...] = ()
    _by_step: tuple[str, ...] = ()

    @property
    def optimiser_steps(self) -> int:
        """Optimiser steps that were taken so far."""
        return len(self._norms)

    def add(self, loss: Loss, step: Tensor, forwards: int) -> None:
        """One micro-batch, whose rows belong to the transitions `step [B]`."""
        total = loss.total.detach()
        self.forwards += forwards
        self._sums = tuple(loss.sums)
        self._by_step = tuple(loss.by_step)
        by_step = torch.zeros(len(loss.by_step), self.steps, device=total.device, dtype=total.dtype)
        # An objective may have no number of each step, and stack refuses an empty list.
        if loss.by_step:
            by_step.index_add_(1, step, torch.stack([values.to(total) for values in loss.by_step.values()]))
        # In one tensor, so that the report adds up all micro-batches at once.
        self._numbers.append(torch.cat([torch.stack([total, *loss.sums.values()]), by_step.flatten()]))
        self._counts.append(torch.bincount(step, minlength=self.steps))

    def attempt(self) -> "Tally":
        """An empty one, for a gradient that may have to be taken again."""
        return Tally(self.steps, self.rows, self.passes)

    def keep(self, attempt: "Tally", norm: Tensor) -> None:
        """Add an attempt that succeeded, with the norm of its gradient."""
        self.forwards += attempt.forwards
        self._sums = attempt._sums
        self._by_step = attempt._by_step
        self._numbers += attempt._numbers
        self._counts += attempt._counts
        self._norms.append(norm)

    def report(self) -> UpdateReport:
        """Means over the rows that were asked; the loss's over all rows."""
        if not self._norms:  # no sample had any credit
            return UpdateReport({"update/steps": 0.0, "update/skipped_pairs": 1.0, "update/pairs": 0.0}, forwards=0)
        numbers = torch.stack(self._numbers).sum(0)
        loss, *sums = numbers[: 1 + len(self._sums)].tolist()
        by_step = numbers[1 + len(self._sums) :].view(-1, self.steps).tolist()
        counts = torch.stack(self._counts).sum(0).tolist()
        computed = sum(counts)
        # Rows that were not asked have a loss of 0, so the mean over all of them is known. Their ratio and KL are not:
        # those are means over the rows that were computed.
        metrics = {"update/loss": loss / (self.rows * self.passes)}
        for name, values in zip(self._by_step, by_step, strict=True):
            metrics[f"update/{name}"] = sum(values) / computed
            metrics |= {f"update/{name}/{at:02d}": values[at] / counts[at] for at in range(self.steps) if counts[at]}
        metrics |= {f"update/{name}": value / computed for name, value in zip(self._sums, sums, strict=True)}
        metrics |= {
            "update/gradient_norm": float(torch.stack(self._norms).mean()),
            "update/steps": float(self.optimiser_steps),
            "update/pairs": float(computed),
            "update/skipped_pairs": 1 - computed / self.passes / self.rows,
        }
        return UpdateReport(metrics, forwards=self.forwards)

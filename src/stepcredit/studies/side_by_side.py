"""One frozen rollout under every rule: what each would have told the update, and how far rules agree."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from stepcredit.credit import advantage, mix
from stepcredit.credit.diagnostics import pareto_share
from stepcredit.methods.base import Method
from stepcredit.records import Evidence
from stepcredit.studies.oracle import step_factors


@dataclass(frozen=True)
class Verdict:
    """One rule's credit for a frozen rollout. Shares are over trained (sample, step) pairs.

    effective           credit times the factors of its profile, scaled to a mean absolute value of 1 over trained
                        steps: what multiplies the score of each move
    zero_share          pairs without credit
    sign_disagreement   pairs that are praised where the sum of the standardised rewards blames, or the other way round,
                        of those where both have an opinion
    pareto_share        praise that goes to samples that no sibling beats in all rewards
    early_share         gradient weight of the first half of the path
    mean                0 where as much is praised as is blamed

    Example: DanceGRPO's has `zero_share=0.0, sign_disagreement=0.0, mean=0.0`.
    """

    effective: Float[Tensor, "P G N"]
    zero_share: float
    sign_disagreement: float
    pareto_share: float
    early_share: float
    mean: float


@dataclass(frozen=True)
class SideBySide:
    """All rules on one rollout.

    verdicts    of each rule, by its name
    agreement   Spearman's rank correlation of effective credit, `[rules, rules]`

    Example: `side_by_side.agreement[0, 1]` is 1 where the first two rules rank all moves alike.
    """

    verdicts: Mapping[str, Verdict]
    agreement: Float[np.ndarray, "M M"]


def judge(methods: Mapping[str, Method], evidence: Evidence) -> SideBySide:
    """Every method on the same evidence: same rewards, same sampler, same trained steps."""
    verdicts = {name: _verdict(method, evidence) for name, method in methods.items()}
    trained = evidence.trained
    columns = np.stack([verdict.effective[trained].numpy() for verdict in verdicts.values()], axis=1)
    ranks = stats.rankdata(columns, axis=0)
    with np.errstate(invalid="ignore"):  # a rule that gives nothing has no ranks: its agreement is NaN
        agreement = np.corrcoef(ranks.T)
    return SideBySide(verdicts, np.atleast_2d(agreement))


def _verdict(method: Method, evidence: Evidence) -> Verdict:
    credit = method.credit(evidence).per_step.double()
    trained = evidence.trained
    on_ratio, on_loss = step_factors(method, evidence)
    effective = credit * (on_ratio * on_loss).to(credit)
    size = effective[trained].abs().mean()
    effective = effective / size.clamp(min=torch.finfo(effective.dtype).tiny)
    summed = torch.vmap(_summed)(evidence.rewards.double())[..., None].expand_as(effective)
    both = trained & (effective != 0) & (summed != 0)
    first_half = torch.arange(trained.shape[-1]) < trained.shape[-1] / 2
    # Native is infinite where a move is deterministic; there is no credit there, and 0 times infinity is NaN.
    weight = effective.abs() * evidence.transitions.native.nan_to_num(posinf=0.0)
    return Verdict(
        effective=effective,
        zero_share=float((effective[trained] == 0).double().mean()),
        # The mean over no pair at all is NaN: nobody disagrees, and nobody agrees.
        sign_disagreement=float((effective.sign() != summed.sign())[both].double().mean()),
        pareto_share=float(torch.vmap(pareto_share)(effective, evidence.rewards.double()).nanmean()),
        early_share=float(weight[..., first_half].sum() / weight.sum()),
        mean=float(effective[trained].mean()),
    )


def _summed(rewards: Float[Tensor, "G K"]) -> Float[Tensor, " G"]:
    """The sum of the standardised rewards of a group."""
    return mix.weighted_sum(advantage.standardise(rewards), torch.ones_like(rewards[0]))

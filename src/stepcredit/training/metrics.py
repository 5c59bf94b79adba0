"""An iteration in numbers: what was scored, where the credit went, what it cost."""

import numpy as np
import torch

from stepcredit.credit import spread as spreads
from stepcredit.credit.diagnostics import conflict, pareto_share
from stepcredit.objective.diagnostics import effective_steps
from stepcredit.records import Credit, RewardTable, Rollout, UpdateReport
from stepcredit.rollout.decoding import Decoded


def reward_metrics(rewards: RewardTable) -> dict[str, float]:
    """Per objective: mean, spread within groups, share that could not be scored, groups without spread."""
    metrics = {}
    for name, scores in zip(rewards.names, rewards.scores.double().numpy().transpose(2, 0, 1), strict=True):
        known = np.where(np.isfinite(scores), scores, np.nan)
        comparable = np.isfinite(known).sum(1) > 1  # groups in which a spread can be measured at all
        spread = np.nanstd(known[comparable], axis=1, ddof=1) if comparable.any() else np.zeros(0)
        size = np.abs(np.nan_to_num(known[comparable])).max(1)
        # The very test of the advantage: what is not flat here has an opinion there.
        speaks = spread > spreads.least(torch.from_numpy(size)).numpy()
        metrics |= {
            f"reward/{name}": float(np.nanmean(known)) if np.isfinite(known).any() else float("nan"),
            f"reward/{name}/spread": float(spread.mean()) if len(spread) else float("nan"),
            f"reward/{name}/missing": float(np.isnan(known).mean()),
            f"reward/{name}/flat_groups": float(len(known) - speaks.sum()),
        }
    return metrics


def credit_metrics(credit: Credit, rewards: RewardTable) -> dict[str, float]:
    """How much signal there is, where it went, and how far the objectives disagree."""
    weights = credit.weights.nan_to_num(0.0)  # a sample that broke has none
    trained = weights.abs().amax((0, 1)) > 0
    whole = credit.weights.isfinite().all(-1)
    front = torch.vmap(pareto_share)(credit.per_step, rewards.scores.to(credit.per_step))
    return {
        "credit/mean_size": float(credit.per_step[..., trained].abs().mean()),
        "credit/zero_share": float((credit.mixed == 0).float().mean()),
        "credit/flat_groups": float((credit.mixed == 0).all(-1).sum()),
        "credit/effective_steps": float(effective_steps(weights)[whole].mean()),
        "credit/strength": float(credit.strength.nanmean()),
        "credit/conflict": float(torch.vmap(conflict)(credit.advantages).float().mean()),
        "credit/pareto_share": float(front.nanmean()),
    }


def sample_metrics(decoded: Decoded) -> dict[str, float]:
    """Samples that nobody could score, and those of them that the decoder alone has lost."""
    return {
        "rollout/unusable": float((decoded.sampler | decoded.decoder).sum()),
        "rollout/unusable_decoded": float(decoded.decoder.sum()),
    }


def cost(rollout: Rollout, update: UpdateReport) -> dict[str, float]:
    """What the iteration cost: pictures, and network forwards with a gradient counted as three.

    A state that several samples share is computed once, and counted once.
    """
    return {
        "cost/pictures": float(rollout.final.shape[0] * rollout.final.shape[1]),
        "cost/forwards": float(rollout.forwards + update.forwards),
    }

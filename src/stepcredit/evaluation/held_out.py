"""Scores of a policy on held-out captions, always from the same noise, and the paired comparison of two of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from stepcredit.protocols import Policy, PromptSource
from stepcredit.records import RewardBatch
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import decode, sample_ode
from stepcredit.rollout.noise import NoiseStream

SIBLINGS = 4  # pictures per caption draw, so that diversity can be measured
_SEED = 20_260_419  # captions and noise of every evaluation, whatever the run's seed


@dataclass(frozen=True)
class HeldOut:
    """Pictures of one policy and their scores."""

    names: tuple[str, ...]
    scores: Float[np.ndarray, "B K"]
    prompts: tuple[str, ...]
    images: UInt8[np.ndarray, "B H W 3"]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One reward, tuned minus base, over the same captions and noise. `standard_error` and the 95 % interval treat
    captions, not pictures, as independent."""

    name: str
    base: float
    tuned: float
    difference: float
    standard_error: float
    low: float
    high: float


def evaluate(
    policy: Policy,
    prompts: PromptSource,
    rewards: RewardSuite,
    *,
    count: int,
    steps: int,
    shift: float | None,
    micro_batch: int,
    only: Sequence[int] | None = None,
) -> HeldOut:
    """Draw `count` pictures (rounded up to whole groups of 4) with the deterministic sampler and score them.

    With `only`, just these rows of them, which are the same pictures as in the whole.
    """
    drawn = prompts.draw(-(-count // SIBLINGS), seed=_SEED, iteration=0)
    rows = range(len(drawn) * SIBLINGS) if only is None else only
    images = draw_pictures(
        policy, drawn, members=SIBLINGS, rows=rows, steps=steps, shift=shift, seed=_SEED, micro_batch=micro_batch
    )
    texts = tuple(drawn[row // SIBLINGS] for row in rows)
    groups = tuple(row // SIBLINGS for row in rows)
    scores, errors = rewards.score(RewardBatch(images, texts, groups))
    return HeldOut(rewards.names, scores, texts, images, errors)


@torch.no_grad()
def draw_pictures(
    policy: Policy,
    prompts: Sequence[str],
    *,
    members: int,
    steps: int,
    shift: float | None,
    seed: int,
    micro_batch: int,
    rows: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "B H W 3"]:
    """`members` pictures of each prompt with the ODE, each from noise of its own that depends on the seed alone.

    With `rows`, only these of the P x members pictures.
    """
    rows = range(len(prompts) * members) if rows is None else rows
    noise = torch.stack([NoiseStream(seed, *divmod(row, members)).draw(policy.latent_shape()) for row in rows])
    condition, levels = policy.encode(prompts), policy.levels(steps, shift)
    finished = []
    for part in torch.arange(len(rows)).split(micro_batch):
        told = condition[torch.tensor([rows[index] // members for index in part.tolist()])]
        finished.append(sample_ode(policy, told, levels, noise[part]))
    return decode(policy, torch.cat(finished), micro_batch)


def compare(base: HeldOut, tuned: HeldOut, *, resamples: int = 2000) -> list[Difference]:
    """Paired differences per reward with a bootstrap over captions."""
    captions = np.array(base.prompts)
    generator = np.random.default_rng(0)
    rows = []
    for column, name in enumerate(base.names):
        change = tuned.scores[:, column] - base.scores[:, column]
        known = np.isfinite(change)
        if not known.any():
            continue
        _, caption = np.unique(captions[known], return_inverse=True)
        sums = np.bincount(caption, weights=change[known])
        counts = np.bincount(caption)
        chosen = generator.integers(0, len(sums), size=(resamples, len(sums)))
        means = sums[chosen].sum(1) / counts[chosen].sum(1)
        low, high = np.quantile(means, [0.025, 0.975])
        rows.append(
            Difference(
                name=name,
                base=float(base.scores[known, column].mean()),
                tuned=float(tuned.scores[known, column].mean()),
                difference=float(change[known].mean()),
                standard_error=float(means.std()),
                low=float(low),
                high=float(high),
            )
        )
    return rows

"""When a picture was decided: weights over transitions, `[G, N]`, most of them of mean 1 over those that are trained.

The shares here are OTCA's trajectory-level credit decomposition (TCD, arXiv 2604.19234, section 3.2). What the
functions have in common, with T the number of a sample's trained transitions:

    similarity   [G, L]          S, cosine of every latent with the final one, in [-1, 1]; the last is 1
    share        [G, N]          p >= 0, each transition's part of the similarity gained; the trained ones sum to 1
    floor        [0, 1]          the least weight; OTCA's is .5 (section 6.5)
    trained      [N] or [G, N]   the transitions that are trained; None means all of them

The readings of "weight" (`READINGS`) take share, floor and trained and return weights `[G, N]`, 0 where nothing is
trained. They have one signature, so that a name in a recipe chooses among them, and some ignore the floor. The paper
has weights that sum to one and a floor, which do not go together: `sum_one` is the former to the letter, the others
are ours, each a way to have a floor or a mean of 1 or both.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Shares = Float[Tensor, "G N"]
Trained = Bool[Tensor, " N"] | Bool[Tensor, "G N"] | None
Reading = Literal["affine", "sum_one", "mean_one", "lifted", "waterfill", "clamp_renormalise", "minmax", "two_level"]


def similarity_to_final(
    latents: Float[Tensor, "G L *latent"], final: Float[Tensor, "G *latent"] | None = None
) -> Float[Tensor, "G L"]:
    """Cosine of every latent of a trajectory with the clean one it ends in: S_n = cos(x_n, final) (eq. 6).

    latents   [G, L, *latent]   of one group, from noise to data
    final     [G, *latent]      the latent that is decoded, by default the last of the trajectory

    Returns `[G, L]`, in float32 or, for float64 latents, in float64. A cosine needs neither unpacking nor scaling of
    latents. A product of norms below 1e-8 counts as 1e-8, so a latent of zeros has similarity 0.
    """
    flat = latents.flatten(2)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    goal = flat[:, -1] if final is None else final.flatten(1).to(flat)
    norms = flat.norm(dim=-1) * goal.norm(dim=-1, keepdim=True)
    # Against 0 / 0, with the eps of torch.cosine_similarity.
    return (flat * goal[:, None]).sum(-1) / norms.clamp(min=1e-8)


def of_predictions(clean_similarity: Float[Tensor, "G N"]) -> Float[Tensor, "G N+1"]:
    """Similarities of the clean predictions in the place of the latents' (ours): what x_n already says of the picture.

    clean_similarity   [G, N]   cosine of each step's clean prediction with the final latent

    Returns `[G, N + 1]`. A latent's cosine rises when noise leaves it, whether or not the picture changes; its
    prediction's rises when the picture is decided. The prediction before move n stands for x_n; the end is similar to
    itself.
    """
    return torch.cat([clean_similarity, torch.ones_like(clean_similarity[:, :1])], dim=-1)


def similarity_share(
    similarity: Float[Tensor, "G L"], *, trained: Trained = None, eps: float = 1e-6
) -> Float[Tensor, "G L-1"]:
    """Each trained transition's share of the similarity gained, sums to 1 over them (eq. 7 and 8).

        dS_n = S_{n+1} - S_n        p_n = (max(0, dS_n) + eps) / sum_m (max(0, dS_m) + eps)

    similarity   [G, L]          S, from `similarity_to_final` or `of_predictions`
    trained      [N] or [G, N]   None means all; the others get 0 and have no part in the sum
    eps          > 0             gives a sample that never gains a flat share instead of 0 / 0

    Returns `[G, N]`. The gain of the move x_n -> x_{n+1} is credited to that very move; the paper's index would credit
    the next one.
    """
    raised = similarity.diff(dim=-1).clamp(min=0) + eps
    if trained is not None:
        raised = torch.where(trained, raised, 0)
    return raised / raised.sum(-1, keepdim=True)


def uniform(like: Shares, *, trained: Trained = None) -> Shares:
    """Weight 1 for every trained transition, `[G, N]`: what GRPO does (arXiv 2402.03300).

    like      [G, N]          gives shape, dtype and device
    trained   [N] or [G, N]   None means all
    """
    weights = torch.ones_like(like)
    return weights if trained is None else torch.where(trained, weights, 0)


def with_floor(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """floor + (1 - floor) T p: mean exactly 1, never below the floor, smooth, and 1 everywhere for a flat share.

    Our reading ("affine") of the paper's minimum weight of 0.5, which its sum-to-one weights cannot have (section 6.5).
    """
    weights = floor + (1 - floor) * _count(share, trained) * share
    return weights if trained is None else torch.where(trained, weights, 0)


def sum_one(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """The share itself: eq. 8 to the letter. Sums to 1, so the signal shrinks by 1/T against GRPO; no floor."""
    del floor, trained
    return share


def mean_one(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """T p: mean 1, no floor."""
    del floor
    return _count(share, trained) * share


def lifted(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """max(floor, T p): the floor holds, the mean is 1 or a little more."""
    return _masked((_count(share, trained) * share).clamp(min=floor), trained)


def waterfill(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """Lift to the floor and scale the others down until the mean is 1 again; floor and mean are both exact."""
    count = _count(share, trained)
    active = torch.ones_like(share, dtype=torch.bool) if trained is None else trained.expand(share.shape)
    at_floor = torch.zeros_like(active)
    weights = count * share
    # Scaling down may push further transitions under the floor, so it is repeated. Each round can only add some to it,
    # so N rounds suffice; a loop until nothing changes would look at values, which vmap does not allow.
    for _ in range(share.shape[-1]):
        at_floor = at_floor | (active & (weights < floor))
        free = active & ~at_floor
        left = count - floor * at_floor.to(share.dtype).sum(-1, keepdim=True)
        total = torch.where(free, share, 0).sum(-1, keepdim=True)
        # tiny: with everything at the floor nothing is free, and the quotient, although not chosen, must not be NaN.
        weights = torch.where(at_floor, floor, share * left / total.clamp(min=torch.finfo(share.dtype).tiny))
    return _masked(weights, trained)


def clamp_renormalise(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """max(floor, T p) divided by its mean: mean 1, but the division goes below the floor again."""
    weights = lifted(share, floor=floor, trained=trained)
    return weights * _count(share, trained) / weights.sum(-1, keepdim=True)


def minmax(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """floor + (1 - floor) (p - min p) / mean(p - min p): the least step gets exactly the floor; flat shares give 1."""
    # An untrained transition has share 0, which would always be the least; infinity keeps it out.
    least = (share if trained is None else torch.where(trained, share, torch.inf)).amin(-1, keepdim=True)
    above = _masked(share - least, trained)
    mean = above.sum(-1, keepdim=True) / _count(share, trained)
    flat = mean * _count(share, trained) < 1e-12  # shares of sum 1 that differ by rounding only
    # The inner where keeps 0 / 0 out of the branch that is not chosen.
    return _masked(torch.where(flat, 1.0, floor + (1 - floor) * above / torch.where(flat, 1.0, mean)), trained)


def two_level(share: Shares, *, floor: float = 0.5, trained: Trained = None) -> Shares:
    """floor for shares up to the median, 2 - floor above it: the crudest reading."""
    # NaN keeps untrained transitions out; of an even number nanmedian takes the lower middle one, so ties go down.
    median = (share if trained is None else torch.where(trained, share, torch.nan)).nanmedian(-1, keepdim=True).values
    return _masked(torch.where(share <= median, torch.full_like(share, floor), 2 - floor), trained)


def reward_to_go(clean_similarity: Shares, *, window: int = 5) -> Shares:
    """CoCA's share of the similarity that is still to come, 1 at the first step and falling (arXiv 2505.19196).

        gain_w = mean of window w - mean of the one before          share_n = gain_w(n) / (sum_w gain_w  window)
        C_n = sum_{m >= n} share_m

    clean_similarity   [G, N]   cosine of each step's clean prediction with the final latent
    window             >= 1     transitions that share one gain

    Returns `[G, N]`. The sequence is cos(clean prediction of step n, final) with 1 at the end, the steps' windows start
    at its second value, and gains may be negative. The last window holds what is left when `window` does not divide N.
    """
    steps = clean_similarity.shape[-1]
    sequence = of_predictions(clean_similarity)
    first = sequence[:, :1]
    windows = sequence[:, 1:].split(window, dim=-1)
    means = torch.cat([values.mean(-1, keepdim=True) for values in windows], dim=-1)
    gains = torch.cat([first, means], dim=-1).diff(dim=-1)
    total = gains.sum(-1, keepdim=True)
    sizes = [min(window, steps - start) for start in range(0, steps, window)]
    # Gains may cancel; a sample without any gain gets 0 everywhere, which division by infinity gives without 0 / 0.
    divisor = torch.where(total.abs() < 1e-12, torch.inf, total)
    per_window = [(gain / size).expand(-1, size) for gain, size in zip(gains.split(1, dim=-1), sizes, strict=True)]
    share = torch.cat(per_window, dim=-1) / divisor
    # A sum from each step to the end: cumsum runs forwards, so it is run on the reversed axis.
    return share.flip(-1).cumsum(-1).flip(-1)


READINGS: dict[Reading, Callable[..., Shares]] = {
    "affine": with_floor,
    "sum_one": sum_one,
    "mean_one": mean_one,
    "lifted": lifted,
    "waterfill": waterfill,
    "clamp_renormalise": clamp_renormalise,
    "minmax": minmax,
    "two_level": two_level,
}


def _count(share: Tensor, trained: Trained) -> Tensor | int:
    if trained is None:
        return share.shape[-1]
    return trained.sum(-1, keepdim=True).to(share.dtype)  # an integer tensor x float would be float32


def _masked(weights: Tensor, trained: Trained) -> Tensor:
    return weights if trained is None else torch.where(trained, weights, 0)

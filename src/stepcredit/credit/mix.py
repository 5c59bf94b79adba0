"""Mixing objectives: from advantages `[G, K]` to one number per sample `[G]`.

Advantages are those of `advantage.standardise`: in standard deviations of the group, NaN for "no opinion".
"""

import torch
from jaxtyping import Float
from torch import Tensor

Advantages = Float[Tensor, "G K"]
PerSample = Float[Tensor, " G"]

_TOLERANCE = 1e-8  # OTCA, Algorithm 1


def weighted_sum(advantages: Advantages, weights: Float[Tensor, " K"]) -> PerSample:
    """The plain weighted sum, sum_k weights_k A_k over the objectives that have an opinion, `[G]`; 0 if none has.

    advantages   [G, K]   in standard deviations; NaN is left out, its weight is not handed to the others
    weights      [K]      any numbers; they need not sum to 1
    """
    return torch.where(advantages.isnan(), 0, advantages * weights).sum(-1)


def weighted_scores(rewards: Float[Tensor, "*B K"], weights: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """The weighted sum of raw scores, sum_k weights_k r_k, `[*B]`.

    rewards   [*B, K]   scores, each objective in its own unit
    weights   [*B, K]   or anything that broadcasts to it; 0 leaves an objective out, whatever it scored

    NaN where one that counts is missing, since a sum without it says nothing.
    """
    # where, not a product alone: 0 x NaN is NaN, and an objective of weight 0 must not silence a sample.
    return torch.where(weights == 0, 0, rewards * weights).sum(-1)


def mean(advantages: Advantages) -> PerSample:
    """The mean over the objectives that have an opinion, `[G]`; 0 if none has.

    advantages   [G, K]   in standard deviations; NaN is left out
    """
    return advantages.nanmean(-1).nan_to_num(0.0)


def exploration(
    advantages: Advantages,
    share: Float[Tensor, "G N"],
    similarity: Float[Tensor, "G N+1"],
    *,
    centred: bool = False,
    eps: float = 1e-6,
) -> PerSample:
    """OTCA's exploration strength lambda in [0, 1) (arXiv 2604.19234, eq. 12 and 14).

        q = sum_n share_n (S_{n+1} - S_n)       e = |q| / (std_G q + eps)       s = sum_k A_k
        lambda = max(0, s) / (|s| + eps) tanh(e)

    advantages   [G, K]       A, in standard deviations; NaN adds nothing to s
    share        [G, N]       of the similarity gained, from `temporal.similarity_share`; sums to 1
    similarity   [G, N + 1]   S, cosine of every latent with the final one
    centred      bool         subtract the group mean of q first
    eps          > 0          against both divisions by zero

    Returns `[G]`. The text calls e a "deviation from the group average", the equation does not subtract one. As
    printed, |q| is so much larger than its spread that tanh(e) is 1 and lambda is the indicator of s > 0;
    `centred=True` subtracts the group mean of q and makes lambda informative. std has Bessel's correction (the paper
    does not say).
    """
    gained = (share * similarity.diff(dim=-1)).sum(-1)
    return _strength(advantages, _deviation(gained, centred=centred, eps=eps), eps)


def step_exploration(
    advantages: Advantages,
    share: Float[Tensor, "G N"],
    similarity: Float[Tensor, "G N+1"],
    *,
    centred: bool = True,
    eps: float = 1e-6,
) -> Float[Tensor, "G N"]:
    """`exploration` of every step by itself, q_n = share_n (S_{n+1} - S_n) in place of their sum (ours).

    advantages   [G, K]       A, in standard deviations; NaN adds nothing to s
    share        [G, N]       of the similarity gained, from `temporal.similarity_share`; sums to 1
    similarity   [G, N + 1]   S, cosine of every latent with the final one
    centred      bool         subtract the group mean of each q_n first; see `exploration`
    eps          > 0          against both divisions by zero

    Returns `[G, N]`, in [0, 1). The paper promises an objective mix that depends on the step and prints one that does
    not; with this strength `moca` has one coefficient vector per step.
    """
    gained = share * similarity.diff(dim=-1)
    deviation = torch.vmap(lambda column: _deviation(column, centred=centred, eps=eps), in_dims=1, out_dims=1)(gained)
    return _strength(advantages, deviation.mT, eps).mT


def _deviation(gained: PerSample, *, centred: bool, eps: float) -> PerSample:
    """|q| / (std q + eps) over a group, or of q minus its mean."""
    known = gained.isfinite()  # a sample whose latents are not finite must not silence its group
    count = known.sum()
    # Bessel's correction; the clamps keep 0 / 0 out of a group of no or one finite sample, whose spread is then 0.
    offset = gained - torch.where(known, gained, 0).sum() / count.clamp(min=1)
    spread = (torch.where(known, offset, 0).square().sum() / (count - 1).clamp(min=1)).sqrt()
    return (offset if centred else gained).abs() / (spread + eps)


def _strength(advantages: Advantages, deviation: Float[Tensor, "*N G"], eps: float) -> Float[Tensor, "*N G"]:
    total = advantages.nansum(-1)
    return total.clamp(min=0) / (total.abs() + eps) * torch.tanh(deviation)


def moca(advantages: Advantages, strength: PerSample) -> PerSample:
    """OTCA's effective advantage: the z = c.A with c in the simplex that minimises z^2 - lambda z.

        A_eff = clip(lambda / 2, min_k A_k, max_k A_k)                       (arXiv 2604.19234, eq. 11, Algorithm 1)

    advantages   [G, K]   in standard deviations
    strength     [G]      lambda, in [0, 1), from `exploration`

    Returns `[G]`. Objectives without an opinion (NaN) are left out; 0 if none is left. Worth knowing: a sample whose
    objectives disagree and whose sum is negative gets exactly 0, one whose sum is positive gets about 1/2 whatever its
    margin.
    """
    low, high = _range(advantages)
    # Without any opinion the range is (inf, -inf), and clamp would return -inf.
    return torch.where(advantages.isnan().all(-1), 0, (strength / 2).clamp(low, high))


def moca_coefficients(advantages: Advantages, strength: PerSample) -> Float[Tensor, "G K"]:
    """The simplex coefficients c that attain `moca` (Algorithm 1); they certify it and do not enter the loss.

    advantages   [G, K]   in standard deviations
    strength     [G]      lambda, in [0, 1), from `exploration`

    Returns `[G, K]`, >= 0 and summing to 1, or all 0 where no objective has an opinion. One objective that is within
    1e-8 of the target takes all (the first one, should several be); otherwise the two neighbours of the target share
    it linearly. Left-out objectives get 0.
    """
    low, high = _range(advantages)
    target = (strength / 2).clamp(low, high)[:, None]
    speaks = ~advantages.isnan()
    known = torch.where(speaks, advantages, torch.inf)
    flat = (high - low < _TOLERANCE)[:, None]

    # Where all objectives agree within the tolerance each of them would hit; then the first of the greatest takes all.
    hits = torch.where(flat, known == high[:, None], (known - target).abs() < _TOLERANCE)
    alone = _first(hits)
    below = torch.where(speaks & (advantages <= target), advantages, -torch.inf).amax(-1, keepdim=True)
    above = torch.where(speaks & (advantages >= target), advantages, torch.inf).amin(-1, keepdim=True)
    # 0 / 0 only where an objective is on the target itself, and there `alone` is chosen in its place.
    upper_share = (target - below) / (above - below)
    lower = _first((advantages == below).flip(-1)).flip(-1)  # a stable ascending order ends with the last of equals
    upper = _first(advantages == above)
    between = lower * (1 - upper_share) + upper * upper_share
    # What is NaN by now is a sample without any opinion.
    return torch.where(hits.any(-1, keepdim=True), alone, between).nan_to_num(0.0)


def with_objective_floor(mixed: PerSample, advantages: Advantages, *, floor: float) -> PerSample:
    """(1 - floor) mixed + floor mean_k A_k: every objective keeps a share of at least floor / K (OTCA section 6.5).

    mixed        [G]      from `moca`
    advantages   [G, K]   what it was mixed from
    floor        [0, 1]   0 leaves `mixed` as it is, 1 is the plain mean

    Returns `[G]`. The paper says that it rescales objectives as it does steps and gives no formula; this is our
    reading. It removes the exact zeros of `moca`.
    """
    return (1 - floor) * mixed + floor * mean(advantages)


def centre(mixed: PerSample) -> PerSample:
    """Minus the group's mean over samples with an opinion, `[G]` (ours): `moca` leaves a positive mean, which
    reinforces whatever was sampled.

    mixed   [G]   one number per sample; what is not finite stays so and is not in the mean
    """
    known = mixed.isfinite()
    # A group without any opinion has mean 0 / 1, not 0 / 0.
    return mixed - torch.where(known, mixed, 0).sum() / known.sum().clamp(min=1)


def min_norm(advantages: Float[Tensor, "B K"]) -> Float[Tensor, " K"]:
    """MGDA-UB's weights: the c in the simplex that minimises |sum_k c_k A_k|^2 (arXiv 1810.04650).

    The loss sees the objectives through one direction per sample, the score of its moves, so the shared
    representation's gradient of objective k is A_k times that direction, and the problem is K x K. Solved exactly, by
    trying every set of active objectives; up to 10 of them.

    advantages   [B, K]   of a group or a batch, in standard deviations, float64; NaN counts as 0 in the products

    Returns `[K]`, >= 0 and summing to 1; objectives without any opinion get 0, and all of them do if none has one.
    ValueError for more than 10 objectives.
    """
    K = advantages.shape[-1]
    if K > 10:
        raise ValueError(f"got {K} objectives; the exact solver takes up to 10, merge some of them first")
    speaks = (~advantages.isnan()).any(0)
    known = advantages.nan_to_num(0.0)
    gram = known.mT @ known
    eye = torch.eye(K, dtype=gram.dtype, device=gram.device)
    # Objectives that agree make the system singular; 1e-12 of the trace mends it below what the result shows, and tiny
    # does where all advantages are 0. Too little for float32, where it is rounded away and `solve` raises.
    ridge = 1e-12 * gram.diagonal().sum() + torch.finfo(gram.dtype).tiny
    active = torch.cartesian_prod(*[torch.tensor([False, True])] * K).reshape(-1, K)[1:].to(gram.device)
    # One system per set of active objectives, all of one size: outside the set stands the identity, and 0 on the right.
    inside = active[:, :, None] & active[:, None, :]
    systems = torch.where(inside, gram + ridge * eye, eye)
    solved = torch.linalg.solve(systems, active.to(gram.dtype))
    candidates = solved / solved.sum(-1, keepdim=True)
    norms = torch.einsum("sk,kl,sl->s", candidates, gram, candidates)
    # A candidate is one if it lies in the simplex; -1e-9 lets through a zero that was rounded downwards.
    allowed = (candidates >= -1e-9).all(-1) & (speaks | ~active).all(-1)
    best = torch.where(allowed & norms.isfinite(), norms, torch.inf).argmin()
    chosen = candidates.index_select(0, best[None])[0].clamp(min=0)
    return torch.where(speaks.any(), chosen, 0)


def _range(advantages: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest opinion of each sample."""
    missing = advantages.isnan()
    low = torch.where(missing, torch.inf, advantages).amin(-1)
    high = torch.where(missing, -torch.inf, advantages).amax(-1)
    return low, high


def _first(mask: Tensor) -> Tensor:
    """1.0 at the first True along the last axis, 0.0 elsewhere."""
    return (mask & (mask.cumsum(-1) == 1)).to(torch.float64)

"""Which transitions count how much, decided by the sampler alone: one rule for TempFlow, PCPO, GRPO-Guard and Flash.

Plain policy gradient weighs the change of velocity at transition n by native_n = slope_n / std_n (see
`flow.transitions`), whatever that step is worth. A profile names the gradient weight that is wanted instead,

    factor_n = profile_n / native_n,

and a place says what it multiplies: the loss, or the log-ratio, so that the trust region is scaled with it.

| published rule              | profile       | place   | preserve   | form     |
|-----------------------------|---------------|---------|------------|----------|
| GRPO                        | `native`      |         |            |          |
| TempFlow-GRPO (2508.04324)  | `noise`       | `loss`  | `factor`   |          |
| PCPO, flows (2509.25774)    | `step_length` | `ratio` | `gradient` | `power` or `matching` |
| PCPO, DDIM (2509.25774)     | `uniform`     | `ratio` | `gradient` | the same |
| Flash-GRPO                  | `uniform`     | `loss`  | `factor`   |          |
| GRPO-Guard (2510.22319)     | `per_length`  | `split` | `nothing`  | `linear` |
| Flow-CPS (2509.05952)       | `error`       | `ratio` | `nothing`  | `power`  |
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Profile = Literal["native", "noise", "step_length", "uniform", "per_length", "error"]
Place = Literal["loss", "ratio", "split"]
Preserve = Literal["gradient", "factor", "nothing"]
Form = Literal["power", "matching", "linear"]
PerStep = Float[Tensor, " N"]


def factors(
    slope: PerStep, std: PerStep, length: PerStep, counts: PerStep, *, profile: Profile, preserve: Preserve
) -> PerStep:
    """profile / native for every transition, `[N]`; 1 where nothing is trained (there native may be infinite).

    slope      [N]   >= 0, how far the mean moves with the prediction (`flow.Transitions`)
    std        [N]   >= 0, of the noise drawn; 0 where the move is deterministic
    length     [N]   > 0, level minus next level
    counts     [N]   how many samples train each transition; what is preserved is preserved over them
    profile    `native` slope/std · `noise` slope · `step_length` · `uniform` 1 · `per_length` slope/length ·
               `error` 2 slope std, the weight of a squared error without its 1/(2 std^2)
    preserve   `gradient`: the profile has the total weight of the native one (PCPO's zeta) · `factor`: factors have
               mean 1 · `nothing`: as they are
    """
    trained = counts > 0
    # A deterministic move is never trained and has std 0; 1 keeps its infinity out of the sums below, where its count
    # of 0 would make it NaN.
    native = torch.where(trained, slope / std, 1)
    wanted = {
        "native": native,
        "noise": slope,
        "step_length": length,
        "uniform": torch.ones_like(length),
        "per_length": slope / length,
        "error": 2 * slope * std,
    }[profile]
    factor = wanted / native
    # Sums over samples, not over transitions: a step that few samples train has little of the total.
    if preserve == "gradient":
        factor = factor * (counts * native).sum() / (counts * wanted).sum()
    elif preserve == "factor":
        factor = factor * counts.sum() / (counts * factor).sum()
    return torch.where(trained, factor, 1)


def placed(factor: PerStep, std: PerStep, *, place: Place) -> tuple[PerStep, PerStep]:
    """The factor's part on the log-ratio and its part on the loss, `[N]` each.

    Where std > 0 their product is the factor.

    factor   [N]   > 0, from `factors`
    std      [N]   >= 0, of the noise drawn
    place    where the factor goes: all on the `loss`, all on the `ratio`, or `split`

    `split` is GRPO-Guard's: the standard deviation on the log-ratio, the rest on the loss.
    """
    one = torch.ones_like(factor)
    if place == "loss":
        return one, factor
    if place == "ratio":
        return factor, one
    # std is 0 where nothing is trained; there the loss keeps the factor, which is 1, instead of becoming infinite.
    return std, factor / torch.where(std > 0, std, 1)


def log_ratio(
    drift: Float[Tensor, "B *latent"], noise: Float[Tensor, "B *latent"], factor: Float[Tensor, " B"], *, form: Form
) -> Float[Tensor, " B"]:
    """The weighted log-ratio, per dimension, from a drift and the noise drawn, `[B]`.

    drift    [B, *latent]   d, how far the mean has moved since the rollout, in standard deviations
    noise    [B, *latent]   e, what was drawn in the rollout, in standard deviations
    factor   [B]            f, the part of `placed` that goes on the log-ratio
    form     one of

        power      f (mean(d e) - mean(d^2) / 2)            the log-ratio times f
        matching   f mean(d e) - f^2 mean(d^2) / 2          the log-ratio of a drift that is f times as large
        linear     f mean(d e)                              without the term that pulls every ratio below 1

    PCPO states the first two as one; they agree to first order. GRPO-Guard's is the third. f = 1: all but the third
    are the plain log-ratio (PCPO Prop. 1).
    """
    first = (drift * noise).flatten(1).mean(1)
    second = drift.square().flatten(1).mean(1) / 2
    if form == "power":
        return factor * (first - second)
    if form == "matching":
        return factor * first - factor.square() * second
    return factor * first

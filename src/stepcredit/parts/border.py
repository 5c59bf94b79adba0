"""The border between a trainer and a credit rule: what goes in and what comes out is checked once, here."""

from torch import Tensor

from stepcredit.errors import CreditError
from stepcredit.flow.schedules import check_levels
from stepcredit.records import Credit, Evidence


def check_evidence(evidence: Evidence, *, mixes: bool = False) -> None:
    """Refuse what no rule could use; single NaN scores or broken samples are no error."""
    rewards = evidence.rewards
    if rewards.ndim != 3 or rewards.shape[2] == 0:
        raise CreditError(
            f"rewards have shape {tuple(rewards.shape)}, wanted [P, G, K] with at least one objective; add a reward"
        )
    if rewards.shape[1] < 2:
        raise CreditError("a group has 1 sample, wanted at least 2: an advantage compares siblings; raise group_size")
    _check_shapes(evidence)
    try:
        check_levels(evidence.transitions.levels)
    except ValueError as error:
        raise CreditError(str(error)) from None
    if not evidence.trained.any():
        raise CreditError("no transition is trained; widen the window or raise the number of steps")
    # A rule with a mix of its own never looks at the weights.
    if not mixes and not (
        (evidence.weights >= 0).all() and evidence.weights.isfinite().all() and evidence.weights.any()
    ):
        raise CreditError(
            f"weights of the objectives are {evidence.weights.tolist()}, wanted finite numbers of at least 0, not all 0"
        )
    # One broken sample gets no credit; if none is whole, the fault lies in the rollout and not with a sample.
    for name, tensor in evidence.seen.items():
        if not tensor.reshape(*tensor.shape[:2], -1).isfinite().all(-1).any():
            raise CreditError(f"the {name} of every sample is NaN or infinite: no latent of the rollout is usable")


def _check_shapes(evidence: Evidence) -> None:
    P, G, K = evidence.rewards.shape
    N = evidence.trained.shape[-1]
    shapes: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "trained": (evidence.trained, (P, G, N)),
        "levels": (evidence.transitions.levels, (N + 1,)),
        "weights": (evidence.weights, (K,)),
    }
    # What an observer leaves has axes of its own after the first two; of the two that everybody knows they are checked.
    own_axes = {"similarity": (N + 1,), "clean_similarity": (N,)}
    for name, tensor in evidence.seen.items():
        shapes[name] = (tensor, (P, G, *own_axes.get(name, tensor.shape[2:])))
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise CreditError(
                f"{name} has shape {tuple(tensor.shape)}, wanted {shape} for rewards {tuple(evidence.rewards.shape)}"
            )


def check_credit(credit: Credit, evidence: Evidence, *, where: str) -> None:
    """Refuse credit of a wrong shape, that is not finite, or that goes to untrained transitions."""
    shape = tuple(evidence.trained.shape)
    if tuple(credit.per_step.shape) != shape:
        raise CreditError(f"{where}: credit has shape {tuple(credit.per_step.shape)}, wanted [P, G, N] = {shape}")
    terms = credit.per_step[..., None] if credit.terms is None else credit.terms
    if tuple(terms.shape[:-1]) != shape or terms.shape[-1] == 0:
        raise CreditError(
            f"{where}: credit.terms have shape {tuple(terms.shape)}, wanted {shape} and at least one term"
        )
    for name, tensor in {"per_step": credit.per_step, "terms": terms}.items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise CreditError(
                f"{where}: {bad} of {tensor.numel()} numbers of credit.{name} are NaN or infinite; a sample "
                "or an objective without an opinion must get 0 (`credit.assign.per_step` does that)"
            )
    # The update never asks about such a move, so this credit would be lost without a word.
    if ((credit.per_step != 0) | (terms != 0).any(-1)).logical_and(~evidence.trained).any():
        raise CreditError(f"{where}: credit for transitions that are not trained; multiply the weights by `trained`")

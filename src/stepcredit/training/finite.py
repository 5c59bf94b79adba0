"""Whether numbers are numbers, of many tensors at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no number of them is NaN or infinite; one wait for the device, however many there are."""
    # The largest absolute number, over all tensors in one go: NaN and infinity both come through it.
    return not tensors or bool(torch.nn.utils.get_total_norm(tensors, norm_type=math.inf).isfinite())

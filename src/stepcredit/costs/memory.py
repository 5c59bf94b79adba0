"""Out of memory, in words: which batch was too large, what would fit by the count, and the flag to set."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stepcredit.costs.count import Costs, Phase, count_costs, fitting_micro_batch
from stepcredit.errors import MemoryNeeded
from stepcredit.recipe.recipe import Recipe
from stepcredit.rollout import engine
from stepcredit.training import update

FLAGS: dict[Phase, str] = {
    "rollout": "rollout.micro_batch",
    "decode": "policy.decode_batch",
    "update": "training.micro_batch",
}


@contextmanager
def explained(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Inside, running out of memory becomes a `MemoryNeeded` that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise MemoryNeeded(advice(recipe, device, phase_of(error), available(device))) from error


def ran_out(error: BaseException) -> bool:
    """Whether this is PyTorch's or Python's word for too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def phase_of(error: BaseException) -> Phase | None:
    """What was running, by the module that the error went through."""
    found: Phase | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__")
        if module == update.__name__:
            return "update"
        if module == engine.__name__:
            found = "decode" if frame.f_code.co_name == "decode" else found or "rollout"
    return found


def available(device: torch.device) -> int:
    """Bytes that this process may have in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def advice(recipe: Recipe, device: torch.device, phase: Phase | None, available_bytes: int) -> str:
    """The message, from a count of what the recipe needs."""
    if phase is None:
        return (
            f"{device} ran out of memory outside the generator's own batches ({_gib(available_bytes)} in all), in a "
            "reward model or a text encoder; see `stepcredit train RECIPE --dry-run` for what the generator takes"
        )
    flag = FLAGS[phase]
    asked = {
        "rollout": recipe.rollout.micro_batch,
        "decode": recipe.policy.decode_batch,
        "update": recipe.training.micro_batch,
    }[phase]
    costs = count_costs(recipe)
    need, fits = costs.needs[phase], fitting_micro_batch(costs, available_bytes, phase)
    told = (
        f"{device} ran out of memory in the {phase} with {flag} {asked}: by the count each takes {_gib(need.each)}, "
        f"beside {_gib(sum(costs.resident.values()) + need.fixed)} whatever the batch, of {_gib(available_bytes)}. "
    )
    if 0 < fits < need.batch:
        told += f"{fits} would fit: --{flag} {fits}"
    elif fits:
        told += (
            f"{need.batch} should have fitted, but rewards and other programs are not counted: "
            f"--{flag} {max(need.batch // 2, 1)}"
        )
    else:
        told += f"Not even 1 fits{_other_ways(costs)}"
    return told + (_checkpointing(recipe, available_bytes) if phase == "update" else "")


def _checkpointing(recipe: Recipe, available_bytes: int) -> str:
    """What gradient checkpointing would change."""
    if recipe.policy.gradient_checkpointing:
        return ""
    policy = recipe.policy.model_copy(update={"gradient_checkpointing": True})
    fits = fitting_micro_batch(count_costs(recipe.model_copy(update={"policy": policy})), available_bytes)
    return f". With --policy.gradient_checkpointing true {fits} would fit, for a third more work" if fits else ""


def _other_ways(costs: Costs) -> str:
    largest = max(costs.resident, key=lambda part: costs.resident[part])
    return f": a smaller policy.resolution, a LoRA of lower rank, policy.offload (most goes to: {largest})"


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"

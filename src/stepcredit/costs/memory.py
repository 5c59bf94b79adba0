"""Out of memory, in words: which batch was too large, what would fit by the count, and the flag to set."""

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch

from stepcredit.costs.count import Costs, count_costs, fitting_micro_batch
from stepcredit.errors import MemoryNeeded, Phase, phase_of
from stepcredit.recipe.recipe import Recipe

FLAGS: dict[Phase, str] = {
    "rollout": "rollout.micro_batch",
    "decode": "policy.decode_batch",
    "update": "training.micro_batch",
}
"""The setting of a phase's batch; the other phases have none."""
_ELSEWHERE: dict[Phase | None, str] = {
    "text": "in a text encoder",
    "rewards": "in a reward model",
    None: "as when weights are loaded",
}


@contextmanager
def explained(recipe: Recipe, device: torch.device) -> Generator[None]:
    """Inside, running out of memory becomes a `MemoryNeeded` that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        needed = MemoryNeeded(advice(recipe, device, phase_of(error), available(device)))
        for note in getattr(error, "__notes__", ()):  # how much of the run is saved
            needed.add_note(note)
        raise needed from error


def ran_out(error: BaseException) -> bool:
    """Whether this is PyTorch's or Python's word for too little memory."""
    # PyTorch's allocator of main memory raises a plain RuntimeError, which only its text tells from others.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def available(device: torch.device) -> int:
    """Bytes that this process may have in all."""
    if device.type == "cuda":
        # Free for everybody, and what this process holds: used by tensors or kept for the next ones.
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def advice(recipe: Recipe, device: torch.device, phase: Phase | None, available_bytes: int) -> str:
    """The message, from a count of what the recipe needs."""
    if phase not in FLAGS:
        return (
            f"{device} ran out of memory outside the generator's own batches ({_gib(available_bytes)} in all), "
            f"{_ELSEWHERE[phase]}; see `stepcredit train RECIPE --dry-run` for what the generator takes"
        )
    flag = FLAGS[phase]
    # The count allocates nothing on the device, so it can run where there is no room left.
    costs = count_costs(recipe)
    need = costs.needs[phase]
    always = sum(costs.resident.values()) + need.fixed
    return (
        f"{device} ran out of memory in the {phase} with {flag} {_setting(recipe, flag)}: by the count each takes "
        f"{_gib(need.each)}, beside {_gib(always)} whatever the batch, of {_gib(available_bytes)}. "
        f"{_smaller_batch(costs, phase, available_bytes)}"
        f"{_checkpointing(recipe, available_bytes) if phase == 'update' else ''}"
    )


def _setting(recipe: Recipe, flag: str) -> int:
    """The recipe's value of a flag `SECTION.KEY`."""
    section, key = flag.split(".")
    return getattr(getattr(recipe, section), key)


def _smaller_batch(costs: Costs, phase: Phase, available_bytes: int) -> str:
    """Which batch to set, or what else to do where none fits."""
    flag = FLAGS[phase]
    need = costs.needs[phase]
    fits = fitting_micro_batch(costs, available_bytes, phase)
    if 0 < fits < need.batch:
        return f"{fits} would fit: --{flag} {fits}"
    if fits:
        # By how much the count is wrong is not known: halving finds the way in a few tries.
        return (
            f"{need.batch} should have fitted, but rewards and other programs are not counted: "
            f"--{flag} {max(need.batch // 2, 1)}"
        )
    largest = max(costs.resident, key=lambda part: costs.resident[part])
    return (
        f"Not even 1 fits: a smaller policy.resolution, a LoRA of lower rank, policy.offload (most goes to: {largest})"
    )


def _checkpointing(recipe: Recipe, available_bytes: int) -> str:
    """What gradient checkpointing would change."""
    if recipe.policy.gradient_checkpointing:
        return ""
    policy = recipe.policy.model_copy(update={"gradient_checkpointing": True})
    fits = fitting_micro_batch(count_costs(recipe.model_copy(update={"policy": policy})), available_bytes)
    # Four forwards' worth instead of three: the forward again, before a backward of two.
    return f". With --policy.gradient_checkpointing true {fits} would fit, for a third more work" if fits else ""


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"

"""Checkpoints: whole or not there. Written beside their place and renamed, safetensors and JSON only.

    checkpoints/000100/
      adapter/             the trained weights for plain diffusers (a LoRA, or a transformer folder)
      average/             the same of the moving average, if there is one
      state.safetensors    trained weights, moving average, optimiser moments, in float32
      state.json           iteration and optimiser step

Noise and prompts are keyed by (seed, iteration), so there is no generator state to keep.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stepcredit.errors import RunError, WeightsError
from stepcredit.protocols import Policy
from stepcredit.training.anchors import Average


def save(
    folder: Path, iteration: int, policy: Policy, optimiser: torch.optim.Optimizer, average: Average | None
) -> Path:
    """Write the checkpoint after `iteration` iterations; returns its folder."""
    target = folder / f"{iteration:06d}"
    writing = folder / f".{iteration:06d}.writing"
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        policy.save(writing / "adapter")
        tensors = {f"trained.{i}": p.detach().cpu().contiguous() for i, p in enumerate(policy.parameters())}
        if average is not None:
            tensors |= {f"average.{i}": tensor.cpu().contiguous() for i, tensor in enumerate(average.tensors)}
            with average.in_place():
                policy.save(writing / "average")
        steps = 0
        for index, parameter in enumerate(policy.parameters()):
            moments = optimiser.state.get(parameter, {})
            steps = int(moments.get("step", 0))
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    tensors[f"{name}.{index}"] = moments[name].cpu().contiguous()
        save_file(tensors, writing / "state.safetensors")
        (writing / "state.json").write_text(json.dumps({"iteration": iteration, "optimiser_steps": steps}) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(writing, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunError(f"checkpoint {target} could not be written ({error}); earlier checkpoints are whole") from error
    return target


def newest(folder: Path) -> Path:
    """The latest whole checkpoint of a run."""
    found = sorted(path for path in folder.glob("[0-9]*") if (path / "state.json").is_file())
    if not found:
        raise RunError(f"{folder} holds no checkpoint; the run stopped before its first one")
    return found[-1]


def restore_weights(checkpoint: Path, policy: Policy, *, raw: bool = False) -> None:
    """Put the trained weights into a policy of the same recipe; their moving average if there is one, unless `raw`."""
    try:
        tensors = load_file(checkpoint / "state.safetensors")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{checkpoint} is damaged: {error}") from None
    kind = "average" if "average.0" in tensors and not raw else "trained"
    parameters = policy.parameters()
    stored = [tensors[f"{kind}.{i}"] for i in range(sum(name.startswith(f"{kind}.") for name in tensors))]
    if [tensor.shape for tensor in stored] != [parameter.shape for parameter in parameters]:
        raise WeightsError(f"{checkpoint} does not fit the run's recipe; was policy.surface changed since?")
    for parameter, tensor in zip(parameters, stored, strict=True):
        parameter.data.copy_(tensor)

"""LoRA files in diffusers format: what they change, going on from one, folding their scale in.

A module's weight W becomes W + scale * B A, with A `lora_A` and B `lora_B`. peft's notes in the file's metadata hold
alpha and rank, scale = alpha / rank; a reader that does not know the notes takes scale 1. `fold` makes both agree.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stepcredit.errors import WeightsError
from stepcredit.settings.policies import SurfaceChoice

NAME = "pytorch_lora_weights.safetensors"
NOTES = "lora_adapter_metadata"
"""Where diffusers keeps peft's notes, as JSON."""
_A, _B, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
_UNKNOWN = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")
_SHOWN = 3  # mismatches that an error names


@dataclass(frozen=True)
class Matrices:
    """What a file says of one module."""

    down: Tensor
    up: Tensor
    scale: float

    def change(self) -> Tensor:
        """What is added to the weight, in float32."""
        return self.scale * (self.up.float() @ self.down.float())


def place(where: Path, network: str) -> Path:
    """The file of a network: the folder's own, or of the second of two experts that in `transformer_2/`."""
    return where / network / NAME if network == "transformer_2" else where / NAME


def prefix(network: str) -> str:
    """What the keys of a network's file begin with."""
    return "unet" if network == "unet" else "transformer"


def read(path: Path, network: str) -> dict[str, Matrices]:
    """The modules of a file by their names in the network; an error where something in it is not a LoRA of that."""
    tensors, metadata = _load(path)
    begin = f"{prefix(network)}."
    odd = [key for key in tensors if not key.startswith(begin) or not key.endswith((_A, _B, _ALPHA))]
    modules = [key.removesuffix(_A) for key in tensors if key.endswith(_A)]
    unpaired = [f"{name}{_B}" for name in modules if f"{name}{_B}" not in tensors]
    if odd or unpaired or not modules:
        wrong = f"it has {_few(odd)}" if odd else f"it lacks {_few(unpaired)}" if unpaired else "it has no modules"
        raise WeightsError(
            f"{path} is not a LoRA in diffusers format for `{prefix(network)}`: {wrong}; wanted keys such as "
            f"{begin}MODULE{_A} and {begin}MODULE{_B}. This LoRA belongs to another base or other targets"
        )
    scales = _scales(path, tensors, metadata)
    return {
        name.removeprefix(begin): Matrices(tensors[f"{name}{_A}"], tensors[f"{name}{_B}"], scales[name])
        for name in modules
    }


def find(start: str) -> Path:
    """The file or folder to go on from."""
    path = Path(start).expanduser()
    if not path.is_file() and not any(place(path, name).is_file() for name in ("transformer", "transformer_2")):
        raise WeightsError(
            f"policy.surface.start is {start}, where there is no LoRA; give a .safetensors file, or a folder with "
            f"{NAME} as `stepcredit export` writes it"
        )
    return path


def check_start(surface: SurfaceChoice) -> None:
    """What can be said against a start before a base is loaded."""
    start = getattr(surface, "start", None)
    if start is not None:
        find(start)


def fill(networks: Mapping[str, Any], surface: SurfaceChoice) -> None:
    """Put the LoRA that the settings start from into the adapters of these networks; nothing where they name none.

    Alpha may differ: B is scaled so that the networks are those that the file makes. The rank may not.
    """
    start = getattr(surface, "start", None)
    if start is None:
        return
    where = find(start)
    if where.is_file() and len(networks) > 1:
        raise WeightsError(
            f"policy.surface.start is one file, and {len(networks)} networks are trained ({', '.join(networks)}); give "
            f"the folder that holds {NAME} and transformer_2/{NAME}"
        )
    for name, network in networks.items():
        path = where if where.is_file() else place(where, name)
        _fill(network, read(path, name), path)


@torch.no_grad()
def _fill(network: Any, found: Mapping[str, Matrices], path: Path) -> None:
    config = network.peft_config["default"]
    mine = {name: layer for name, layer in network.named_modules() if "default" in getattr(layer, "lora_A", ())}
    ranks = sorted({int(matrices.down.shape[0]) for matrices in found.values()})
    if ranks != [config.r]:
        raise WeightsError(
            f"{path} has rank {', '.join(map(str, ranks))} and policy.surface.rank is {config.r}; they must be equal"
        )
    wrong = [f"{name} is not in the file" for name in mine if name not in found]
    wrong += [f"{name} is not adapted here" for name in found if name not in mine]
    for name, layer in mine.items():
        shapes = [tuple(m.weight.shape) for m in (layer.lora_A["default"], layer.lora_B["default"])]
        if name in found and (theirs := [tuple(found[name].down.shape), tuple(found[name].up.shape)]) != shapes:
            wrong.append(f"{name} has {theirs[1]} x {theirs[0]}, wanted {shapes[1]} x {shapes[0]}")
    if wrong:
        raise WeightsError(
            f"{path} does not fit: {_few(wrong)}. This LoRA belongs to another base or other targets; "
            "check policy.weights and policy.surface.targets"
        )
    for name, layer in mine.items():
        matrices = found[name]
        layer.lora_A["default"].weight.copy_(matrices.down)
        layer.lora_B["default"].weight.copy_(matrices.up.float() * (matrices.scale / layer.scaling["default"]))


@torch.no_grad()
def merge(network: torch.nn.Module, found: Mapping[str, Matrices]) -> None:
    """Add a LoRA to the weights of a network without adapters: summed in float32, then cast back."""
    for name, matrices in found.items():
        weight = network.get_parameter(f"{name}.weight")
        weight.copy_(weight.float() + matrices.change().to(weight.device))


def fold(path: Path, notes: Mapping[str, str]) -> None:
    """Rewrite a file with B times its scale and alpha = rank, so that readers with and without peft's notes agree; and
    with `notes` beside them in its metadata."""
    tensors, metadata = _load(path)
    scales = _scales(path, tensors, metadata)
    folded = {key: value for key, value in tensors.items() if not key.endswith(_ALPHA)}
    for name, scale in scales.items():
        folded[f"{name}{_B}"] = (tensors[f"{name}{_B}"].float() * scale).to(tensors[f"{name}{_B}"].dtype)
    config = json.loads(metadata.get(NOTES, "{}"))
    config |= {key: config[f"{key.removesuffix('.lora_alpha')}.r"] for key in config if key.endswith(".lora_alpha")}
    metadata |= {NOTES: json.dumps(config, indent=2, sort_keys=True)} if config else {}
    _write(folded, path, {**metadata, **notes})


def annotate(path: Path, notes: Mapping[str, str]) -> None:
    """Rewrite a safetensors file with these notes added to its metadata."""
    tensors, metadata = _load(path)
    _write(tensors, path, {**metadata, **notes})


def _scales(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, float]:
    """Scale of each module, by its name in the file: its own alpha, else that of peft's notes, else 1."""
    config = json.loads(metadata.get(NOTES, "{}"))
    unknown = [key for key, value in config.items() if value and key.endswith(_UNKNOWN)]
    if unknown:
        raise WeightsError(f"{path} uses {unknown[0]}, which is not supported; wanted one rank and one alpha for all")
    found = {}
    for name in (key.removesuffix(_A) for key in tensors if key.endswith(_A)):
        rank, begin = tensors[f"{name}{_A}"].shape[0], name.split(".")[0]
        alpha = float(tensors[f"{name}{_ALPHA}"]) if f"{name}{_ALPHA}" in tensors else config.get(f"{begin}.lora_alpha")
        found[name] = 1.0 if alpha is None else float(alpha) / rank
    return found


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"there is no LoRA {path}") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from None


def _write(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Beside its place first: the tensors may still be read from the file that is there."""
    writing = path.with_name(f".{path.name}.writing")
    save_file(dict(tensors), writing, metadata=metadata)
    os.replace(writing, path)


def _few(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{'; '.join(items[:_SHOWN])}{more}"

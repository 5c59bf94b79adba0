"""LoRA files in diffusers format: what they change, going on from one, folding their scale in.

A module's weight W becomes W + scale * B A, with A `lora_A` and B `lora_B`. peft's notes in the file's metadata hold
alpha and rank, scale = alpha / rank; a reader that does not know the notes takes scale 1. `fold` makes both agree.
Where a family keeps the file of each network, and what its keys begin with, the family says (`Family.lora_files`,
`Family.lora_prefix`). Files of other programs are made into this format first (`lora_formats`).
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stepcredit.errors import WeightsError
from stepcredit.policies.lora_formats import NOTES, PEFT_FILE, Converter, Stored, standard
from stepcredit.settings.policies import LoRA, SurfaceChoice

NAME = "pytorch_lora_weights.safetensors"
"""As diffusers calls the file in a folder."""
_A = ".lora_A.weight"
_B = ".lora_B.weight"
_ALPHA = ".alpha"
_UNSUPPORTED = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora")
_SHOWN = 3  # mismatches that an error names


@dataclass(frozen=True)
class Matrices:
    """What a file says of one module, e.g. `Matrices(down [4, 64], up [64, 4], scale=2.0)` at rank 4."""

    down: Tensor
    """A, `[rank, in]`."""
    up: Tensor
    """B, `[out, rank]`."""
    scale: float
    """alpha / rank."""

    def change(self) -> Tensor:
        """What is added to the weight, in float32."""
        return self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True)
class Start:
    """A LoRA that one network goes on from, e.g. `Start(Path("lora.safetensors"), {"blocks.0.to_q": matrices})`."""

    file: Path
    modules: Mapping[str, Matrices]
    """What the file says of each module, by the module's name in the network."""


def read(path: Path, prefix: str) -> dict[str, Matrices]:
    """The modules of a file by their names in the network; an error where something in it is not a LoRA of that.

    `prefix` is what keys begin with, before a dot.
    """
    return _matrices(path, _load(path), prefix)


def _matrices(path: Path, stored: Stored, prefix: str) -> dict[str, Matrices]:
    tensors, metadata = stored
    modules = [key.removesuffix(_A) for key in tensors if key.endswith(_A)]
    problem = _problem(tensors, modules, prefix)
    if problem is not None:
        raise WeightsError(
            f"{path} is not a LoRA in diffusers format for `{prefix}`: {problem}; wanted keys such as "
            f"{prefix}.MODULE{_A} and {prefix}.MODULE{_B}. This LoRA belongs to another base or other targets"
        )
    scales = _scales(path, tensors, metadata)
    return {
        name.removeprefix(f"{prefix}."): Matrices(tensors[f"{name}{_A}"], tensors[f"{name}{_B}"], scales[name])
        for name in modules
    }


def starts(
    surface: SurfaceChoice,
    files_in: Callable[[Path], Mapping[str, Path]],
    prefix: str,
    converter: Callable[[], Converter],
) -> dict[str, Start]:
    """What the settings go on from, by network; empty where they name no start. Asked before a base is loaded.

    `files_in` says where a folder has the file of each network; `converter` gets what makes others' formats diffusers'.
    """
    if not isinstance(surface, LoRA) or surface.start is None:
        return {}
    files = _files(Path(surface.start).expanduser(), files_in)
    by_file: dict[Path, Start] = {}
    for file in files.values():
        if file.is_file() and file not in by_file:
            modules = _matrices(file, standard(file, _load(file), prefix, converter), prefix)
            _check_rank(file, modules, surface.rank)
            by_file[file] = Start(file, modules)
    if not by_file:
        raise WeightsError(
            f"policy.surface.start is {surface.start}, where there is no LoRA; give a .safetensors file, or a folder "
            f"with {NAME} as `stepcredit export` writes it, or one of peft"
        )
    return {name: by_file[file] for name, file in files.items() if file in by_file}


def _files(path: Path, files_in: Callable[[Path], Mapping[str, Path]]) -> dict[str, Path]:
    """The file of each network at a start: that file for all, or those of a folder, by diffusers' or by peft's name."""
    files = dict(files_in(path))
    for name, file in files.items():
        if path.is_file():
            files[name] = path
        elif not file.is_file() and file.with_name(PEFT_FILE).is_file():
            files[name] = file.with_name(PEFT_FILE)
    return files


def _check_rank(path: Path, modules: Mapping[str, Matrices], rank: int) -> None:
    """The rank may not differ: what is trained would be another LoRA."""
    ranks = sorted({int(item.down.shape[0]) for item in modules.values()})
    if ranks != [rank]:
        raise WeightsError(
            f"{path} has rank {', '.join(map(str, ranks))} and policy.surface.rank is {rank}; they must be equal"
        )


def fill(networks: Mapping[str, Any], starting: Mapping[str, Start]) -> None:
    """Put what `starts` has read into the adapters of these networks; nothing where there is nothing.

    Alpha may differ: B is scaled so that the networks are those that the file makes.
    """
    if not starting:
        return
    lacking = [name for name in networks if name not in starting]
    if lacking:
        raise WeightsError(f"policy.surface.start has no LoRA of {', '.join(lacking)}, and it is trained")
    # the keys of both experts are called alike, so one file cannot hold two
    if len(networks) > 1 and len({starting[name].file for name in networks}) == 1:
        raise WeightsError(
            f"policy.surface.start is one file, and {len(networks)} networks are trained ({', '.join(networks)}); give "
            f"the folder that holds {NAME} and {list(networks)[1]}/{NAME}"
        )
    for name, network in networks.items():
        _fill(network, starting[name].modules, starting[name].file)


@torch.no_grad()
def _fill(network: Any, matrices: Mapping[str, Matrices], path: Path) -> None:
    layers = {name: layer for name, layer in network.named_modules() if "default" in getattr(layer, "lora_A", ())}
    mismatches = [f"{name} is not in the file" for name in layers if name not in matrices]
    mismatches += [f"{name} is not adapted here" for name in matrices if name not in layers]
    for name, layer in layers.items():
        mismatches += _other_shape(name, layer, matrices[name]) if name in matrices else []
    if mismatches:
        raise WeightsError(
            f"{path} does not fit: {_few(mismatches)}. This LoRA belongs to another base or other targets; "
            "check policy.weights and policy.surface.targets"
        )
    for name, layer in layers.items():
        # the layer multiplies by its own alpha / rank: what is put into B makes up for the difference
        scale = matrices[name].scale / layer.scaling["default"]
        layer.lora_A["default"].weight.copy_(matrices[name].down)
        layer.lora_B["default"].weight.copy_(matrices[name].up.float() * scale)


def _other_shape(name: str, layer: Any, matrices: Matrices) -> list[str]:
    """What is wrong with the shapes of a module in the file; nothing where they are the layer's."""
    down = tuple(layer.lora_A["default"].weight.shape)
    up = tuple(layer.lora_B["default"].weight.shape)
    if (tuple(matrices.down.shape), tuple(matrices.up.shape)) == (down, up):
        return []
    return [f"{name} has {tuple(matrices.up.shape)} x {tuple(matrices.down.shape)}, wanted {up} x {down}"]


@torch.no_grad()
def merge(network: torch.nn.Module, matrices: Mapping[str, Matrices]) -> None:
    """Add a LoRA to the weights of a network without adapters: summed in float32, then cast back."""
    for name, item in matrices.items():
        weight = network.get_parameter(f"{name}.weight")
        weight.copy_(weight.float() + item.change().to(weight.device))


def fold(path: Path, notes: Mapping[str, str]) -> None:
    """Rewrite a file with B times its scale and alpha = rank, so that readers with and without peft's notes agree; and
    with `notes` beside them in its metadata."""
    tensors, metadata = _load(path)
    scales = _scales(path, tensors, metadata)
    folded = {key: value for key, value in tensors.items() if not key.endswith(_ALPHA)}
    for name, scale in scales.items():
        up = tensors[f"{name}{_B}"]
        folded[f"{name}{_B}"] = (up.float() * scale).to(up.dtype)
    config = json.loads(metadata.get(NOTES, "{}"))
    # alpha = rank is what scale 1 is called in peft's notes
    config |= {key: config[f"{key.removesuffix('.lora_alpha')}.r"] for key in config if key.endswith(".lora_alpha")}
    metadata |= {NOTES: json.dumps(config, indent=2, sort_keys=True)} if config else {}
    _write(folded, path, {**metadata, **notes})


def annotate(path: Path, notes: Mapping[str, str]) -> None:
    """Rewrite a safetensors file with these notes added to its metadata."""
    tensors, metadata = _load(path)
    _write(tensors, path, {**metadata, **notes})


def _problem(tensors: Mapping[str, Tensor], modules: list[str], prefix: str) -> str | None:
    """What makes a file no LoRA of networks whose keys begin so; None where it is one."""
    foreign = [key for key in tensors if not key.startswith(f"{prefix}.") or not key.endswith((_A, _B, _ALPHA))]
    if foreign:
        return f"it has {_few(foreign)}"
    unpaired = [f"{name}{_B}" for name in modules if f"{name}{_B}" not in tensors]
    if unpaired:
        return f"it lacks {_few(unpaired)}"
    return None if modules else "it has no modules"


def _scales(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, float]:
    """Scale of each module, by its name in the file: its own alpha, else that of peft's notes, else 1."""
    config = json.loads(metadata.get(NOTES, "{}"))
    unsupported = [key for key, value in config.items() if value and key.endswith(_UNSUPPORTED)]
    if unsupported:
        raise WeightsError(
            f"{path} uses {unsupported[0]}, which is not supported; wanted one rank and one alpha for all"
        )
    scales = {}
    for name in (key.removesuffix(_A) for key in tensors if key.endswith(_A)):
        alpha = tensors.get(f"{name}{_ALPHA}")
        if alpha is None:
            alpha = config.get(f"{name.split('.')[0]}.lora_alpha")  # one for all modules of a network
        rank = tensors[f"{name}{_A}"].shape[0]
        scales[name] = 1.0 if alpha is None else float(alpha) / rank
    return scales


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

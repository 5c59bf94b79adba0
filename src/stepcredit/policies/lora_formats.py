"""LoRA files of other programs, made into diffusers' format: by diffusers' own converters, or refused by their name.

Formats are told by the names of tensors, so the true cause is there before a base is loaded. A converter that puts
alpha into the matrices and one that hands it back are both understood: what counts is scale * B A.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepcredit.errors import WeightsError

PEFT_FILE = "adapter_model.safetensors"
"""As peft calls the file in a folder."""
PEFT_CONFIG = "adapter_config.json"
"""Where peft keeps rank and alpha, which its file does not hold."""
NOTES = "lora_adapter_metadata"
"""Where diffusers keeps peft's notes in a file of its own, as JSON."""
FORMATS: Mapping[str, str] = {
    "LoKr or LoHa (LyCORIS)": r"\.(lokr|hada)_",
    "DoRA": r"\.dora_scale$|\.lora_magnitude_vector",
    "ComfyUI's, with whole differences": r"\.diff(_b)?$",
    "peft": r"^base_model\.model\.",
    "kohya (sd-scripts)": r"^lora_(unet|transformer|te\d?|prior)_",
    "ComfyUI": r"^diffusion_model\.",
    "XLabs": r"\.processor\.(qkv|proj)_lora",
    "an older diffusers release": r"[._]lora[._](down|up)\.weight$|\.processor\.",
}
"""Names that only a file of that format has; the first that fits counts."""
_NOT_LOW_RANK = ("LoKr or LoHa (LyCORIS)", "DoRA", "ComfyUI's, with whole differences")
_FIRST = r"[._](lora_A|lora_down|down)\.weight$"
_LAST = r"\.(lora_[AB]\.weight|alpha)$"
_SHOWN = 3  # names that an error shows

Converter = Callable[..., Any]
"""The `lora_state_dict` of a pipeline's class: tensors in, tensors with names of the pipeline's parts out."""
Stored = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors by name, and the file's metadata."""


def format_of(names: Mapping[str, Any]) -> str:
    """Whose names these are: one of `FORMATS`, else "diffusers"."""
    for kind, pattern in FORMATS.items():
        if any(re.search(pattern, name) for name in names):
            return kind
    return "diffusers"


def standard(path: Path, stored: Stored, prefix: str, converter: Callable[[], Converter]) -> Stored:
    """The LoRA of a file in diffusers' format, for a network whose names begin with `prefix`.

    Raises WeightsError, with the format's name, where it cannot be had without loss.
    """
    tensors, metadata = stored
    kind = format_of(tensors)
    if kind == "diffusers":
        _refuse_text_encoders(path, kind, tensors)
        return stored
    if kind in _NOT_LOW_RANK:
        raise WeightsError(
            f"{path} is {kind}: more than one pair of matrices a module, which cannot go on as one; wanted a plain LoRA"
        )
    if kind == "peft":
        return _from_peft(path, tensors, prefix)
    try:
        converted = _converted(tensors, converter())
    except Exception as error:  # a converter meets names that it does not know, and says so in any way
        raise WeightsError(f"{_refused(path, kind)} ({_first_line(error)}); {_ADVICE}") from error
    _refuse_text_encoders(path, kind, converted)
    foreign = [name for name in converted if not name.startswith(f"{prefix}.") or not re.search(_LAST, name)]
    if foreign:
        raise WeightsError(f"{_refused(path, kind)} (left over: {', '.join(foreign[:_SHOWN])}); {_ADVICE}")
    return converted, metadata


_ADVICE = "write it in diffusers' format (pipe.save_lora_weights) or peft's (save_pretrained) where it was trained"


def _refuse_text_encoders(path: Path, kind: str, tensors: Mapping[str, Any]) -> None:
    encoders = [name for name in tensors if name.startswith("text_encoder")]
    if encoders:
        raise WeightsError(
            f"{path} is in the format of {kind} and also changes text encoders ({encoders[0]}), which are not trained "
            "here; give a LoRA of the network alone"
        )


def _refused(path: Path, kind: str) -> str:
    return f"{path} is in the format of {kind}, which diffusers does not convert for this family"


def _converted(tensors: Mapping[str, Tensor], converter: Converter) -> dict[str, Tensor]:
    """By diffusers: tensors with peft's endings, and alphas as tensors `MODULE.alpha` where they are not put in."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    # not every converter knows `return_alphas`; those that do not take it for nothing
    answer = converter(dict(tensors), return_alphas=True)
    converted, alphas = answer if isinstance(answer, tuple) else (answer, None)
    # UNets come out with the endings of older releases
    converted = convert_unet_state_dict_to_peft(converted)
    lost = _count(tensors) - _count(converted)
    if lost > 0:  # a converter may leave out what it has no place for
        raise ValueError(f"{lost} of {_count(tensors)} modules have no place")
    # an alpha is called like its matrix, or like its module: made alike, both go the way of the matrices
    down = {name.removesuffix(".alpha"): float(alpha) for name, alpha in (alphas or {}).items()}
    down = {name if name.endswith(".weight") else f"{name}.lora.down.weight": alpha for name, alpha in down.items()}
    for name, alpha in convert_unet_state_dict_to_peft(down).items():
        if name not in converted:
            raise ValueError(f"the alpha of {name} belongs to no module")
        converted[name.replace(".lora_A.weight", ".alpha")] = torch.tensor(alpha)
    return converted


def _count(tensors: Mapping[str, Any]) -> int:
    """How many modules have a first matrix."""
    return sum(1 for name in tensors if re.search(_FIRST, name))


def _from_peft(path: Path, tensors: Mapping[str, Tensor], prefix: str) -> Stored:
    """peft's names are the network's own; its notes lie in a file beside."""
    place = path.parent / PEFT_CONFIG
    try:
        notes: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is in the format of peft and has no {PEFT_CONFIG} beside it, which holds its alpha; give the "
            "whole folder"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{place} cannot be read ({error}); copy it again") from None
    kind = str(notes.get("peft_type"))
    if kind != "LORA":
        raise WeightsError(f"{place} says that it is {kind}; wanted a plain LoRA (LORA)")
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        # in a training state each name has the adapter's name in it, `default`
        plain = re.sub(r"^base_model\.model\.", "", name).replace(".default.weight", ".weight")
        renamed[f"{prefix}.{plain}"] = tensor
    return renamed, {NOTES: json.dumps({f"{prefix}.{key}": value for key, value in notes.items()})}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

"""Parts of models, loaded with every tensor from their files, or not at all.

diffusers and transformers draw a tensor that is not in a file at random, leave out one that fits nowhere, and only
warn. Both report what they did; here the report decides. What may be in it is `HARMLESS`, each entry with its reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stepcredit.errors import WeightsError
from stepcredit.files.headers import Header, has_variant, read_headers, weight_files
from stepcredit.files.layouts import foreign_layout, wrapper

HARMLESS: Mapping[str, str] = {
    r"(^|\.)position_ids$": "0, 1, 2, ...: older releases of transformers stored them, newer ones make them",
    r"(^|\.)rotary_emb\.inv_freq$": "a table that is made from the configuration",
    r"^lm_head\.": "the words that a language model would say next, where only its states are read",
    r"^(vision_model|visual_projection)\.": "the half of a CLIP that sees, where only the half that reads is used",
    r"^text_projection\.": "the last layer of a CLIP, where only the states before it are read",
    r"^logit_scale$": "the temperature of a CLIP's training, where only one half of it is used",
}
"""Names of tensors that a file may hold although the network has no place for them, and why nothing is lost. There is
no such list of tensors that a file may lack: what is tied to another or made anew is not reported as missing."""
_SHOWN = 3  # tensors that an error names


@dataclass(frozen=True)
class Report:
    """How a file and a network differ, e.g. `Report(missing=["block.1.weight"])`."""

    missing: list[str] = field(default_factory=list)
    """Of the network, and not in the file."""
    unexpected: list[str] = field(default_factory=list)
    """In the file, and nowhere in the network."""
    mismatched: list[str] = field(default_factory=list)
    """Of another shape, each with both."""

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "Report":
        """From the `output_loading_info` of either library, without what is harmless."""
        harmless = re.compile("|".join(HARMLESS))
        mismatched = [
            f"{name} is {tuple(stored)}, wanted {tuple(wanted)}" for name, stored, wanted in report["mismatched_keys"]
        ]
        return cls(
            missing=sorted(report["missing_keys"]),
            unexpected=sorted(name for name in report["unexpected_keys"] if not harmless.search(name)),
            mismatched=sorted(mismatched) + [str(message) for message in report.get("error_msgs") or ()],
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = (
            ("it lacks", self.missing),
            ("the network has no place for", self.unexpected),
            ("of another shape:", self.mismatched),
        )
        return "; ".join(f"{words} {_few(names)}" for words, names in parts if names)


def check_part(folder: Path, *, variant: str | None = None) -> dict[str, Header]:
    """What the files of a part say of its tensors; an error with the true cause where they cannot be its weights.

    Reads headers only. Names that a wrapper put a word before are taken without it.
    """
    files = weight_files(folder, variant)
    if not files:
        raise WeightsError(f"{folder} has no weights that can be read: {_instead(folder)}")
    headers = read_headers(files)
    prefix = wrapper(headers)
    layout = foreign_layout({name.removeprefix(prefix): header for name, header in headers.items()})
    if layout is not None:
        raise WeightsError(f"{folder}: {files[0].name} is {layout.kind}; {layout.advice}")
    if _configuration(folder).get("quantization_config"):
        raise WeightsError(
            f"{folder}: config.json says that it is quantised; take the weights that it was made from, in bfloat16 or "
            "float32"
        )
    return headers


def load_whole(kind: Any, folder: Path, *, dtype: torch.dtype, variant: str | None = None) -> Any:
    """A module of the class `kind` of diffusers or transformers, on the CPU, in `dtype`.

    Every tensor comes from the files; an error names those that are missing, left over or of another shape. Names with
    the prefix of torch.compile or DistributedDataParallel are read without it, where all of them have it.
    """
    prefix = wrapper(check_part(folder, variant=variant))
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if variant is not None and has_variant(folder, variant):
        options["variant"] = variant
    if _is_of_transformers(kind):
        # both are no word to transformers' report: it refuses other shapes itself, and names no tensor
        options |= {"ignore_mismatched_sizes": True}
        options |= {"key_mapping": {f"^{re.escape(prefix)}": ""}} if prefix else {}
    try:
        module, report = kind.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{folder} could not be loaded as {kind.__name__}: {_first_sentence(error)}") from error
    if prefix and not _is_of_transformers(kind):
        report = _fill_unwrapped(module, weight_files(folder, variant), prefix, dtype)
    refuse_partial(folder, Report.of(report))
    _check_dtype(folder, module, dtype)
    return module


def refuse_partial(where: object, report: Report) -> None:
    """An error where a report says anything."""
    if report:
        raise WeightsError(
            f"{where} does not hold the weights of this network: {report}. What is missing would be drawn at random; "
            "copy, download or convert the folder again"
        )


def _fill_unwrapped(module: Any, files: list[Path], prefix: str, dtype: torch.dtype) -> dict[str, Any]:
    """Put tensors with a wrapper's prefix into a diffusers network, which has taken none of them; and the report."""
    # diffusers keeps these in float32 in every dtype, by this list of words
    precise = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            plain = name.removeprefix(prefix)
            wanted = torch.float32 if precise.intersection(plain.split(".")) else dtype
            tensors[plain] = tensor.to(wanted) if tensor.is_floating_point() else tensor
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    report = {
        "missing_keys": shapes.keys() - tensors.keys(),
        "unexpected_keys": tensors.keys() - shapes.keys(),
        "mismatched_keys": [
            (name, tuple(tensor.shape), shapes[name])
            for name, tensor in tensors.items()
            if name in shapes and tuple(tensor.shape) != shapes[name]
        ],
    }
    if not Report.of(report):
        module.load_state_dict(tensors, assign=True)  # in place of tensors that have no memory
    return report


def _check_dtype(folder: Path, module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Older releases of diffusers did not know `dtype` and loaded what the file had."""
    loaded = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    # some networks keep sensitive layers in float32, whatever is asked
    if loaded and (dtype not in loaded or loaded - {dtype, torch.float32}):
        kinds = ", ".join(sorted(str(item).removeprefix("torch.") for item in loaded))
        raise WeightsError(
            f"{folder} was loaded in {kinds}, wanted {str(dtype).removeprefix('torch.')}; the installed diffusers or "
            "transformers does not do what it is asked: `stepcredit doctor`"
        )


def _instead(folder: Path) -> str:
    """What a part's folder holds in place of weights, and what to do."""
    wanted = "wanted model.safetensors or diffusion_pytorch_model.safetensors, as `save_pretrained` writes them"
    if not folder.is_dir():
        return "the folder is not there; copy or download it again"
    if (folder / "adapter_config.json").is_file():
        return f"it holds a peft adapter, which goes under policy.surface.start; {wanted}"
    files = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".gguf", ".ckpt")]
    return f"it holds {_few(files)}; {wanted}" if files else f"{wanted}; copy or download it again"


def _configuration(folder: Path) -> Mapping[str, Any]:
    """The config.json of a part; empty where it cannot be read, which the loading itself says better."""
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _is_of_transformers(kind: Any) -> bool:
    return str(kind.__module__).startswith("transformers")


def _first_sentence(error: BaseException) -> str:
    # what follows is advice on how to load at random, which is what must not be
    return str(error).strip().split(". If you want")[0].splitlines()[0] if str(error).strip() else type(error).__name__


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"

"""A pipeline without weights: every module has its shapes and no memory (PyTorch's meta device), built from
configurations alone. It is for counting."""

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from stepcredit.errors import WeightsError
from stepcredit.policies.family import Family
from stepcredit.policies.loading import explain, local_or_hub
from stepcredit.policies.published import Config, Published
from stepcredit.settings.policies import PolicySettings

SMALL_FILES = ["*.json", "*.txt", "*.model"]
"""What is taken of a hub id: configurations and tokenizers, no weights."""
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that some pipelines have and no family asks."""


def blueprint(settings: PolicySettings, family: type[Family[Any]]) -> Any:
    """The pipeline of these settings, its modules on the meta device.

    Configurations come from a local folder; of a hub id from its files on this machine, else from what the family has
    `published`, else from the hub. `published` goes before the hub, so that counting a known model waits for no
    connection and needs no licence.
    """
    name = local_or_hub(settings, family)
    if Path(name).is_dir():
        return _from_folder(Path(name), settings, family)
    folder = _on_this_machine(name, settings)
    if folder is not None:
        return _from_folder(folder, settings, family)
    published = family.published.get(name)
    if published is not None and published.parts:
        return _from_published(published, settings, family)
    return _from_folder(_from_hub(name, settings, family), settings, family)


def guessed_lengths(pipe: Any) -> bool:
    """Whether a text that went through this pipeline had a length that is no tokenizer's."""
    return any(isinstance(part, Guessed) and part.mattered for part in pipe.components.values())


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer returns, as far as a pipeline looks at it, e.g. `Tokens(zeros [2, 77], ones [2, 77])`."""

    input_ids: Any
    attention_mask: Any

    def to(self, device: torch.device) -> "Tokens":
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


class Guessed:
    """Stands for a tokenizer that is not here: lengths of texts only. One token for each six letters of a word and
    for every other mark, two for the ends."""

    added_tokens_encoder: Mapping[str, int] = {}

    def __init__(self, model_max_length: int = 512) -> None:
        self.model_max_length = model_max_length
        self.mattered = False
        """Whether a length was asked for; most pipelines pad to the longest that they allow."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"<\|\w+\|>|\w{1,6}|[^\w\s]", text)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **others: object,
    ) -> Tokens:
        del others
        texts = [text] if isinstance(text, str) else text
        lengths = [len(self.tokenize(item)) + 2 for item in texts]
        if padding == "longest":  # pipelines ask so to warn of what they cut; nothing is known to be cut
            lengths = [1] * len(lengths)
        limit = max_length or self.model_max_length
        if truncation:
            lengths = [min(length, limit) for length in lengths]
        if return_tensors is None:
            return Tokens([0] * lengths[0], [1] * lengths[0])
        self.mattered |= padding is True
        width = limit if padding == "max_length" else max(lengths)
        mask: Tensor = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
        return Tokens(torch.zeros_like(mask), mask)


def _from_folder(folder: Path, settings: PolicySettings, family: type[Family[Any]]) -> Any:
    """From the `config.json`s of a folder."""
    index = _read(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_"):
            continue  # notes of diffusers, such as its version
        if not isinstance(value, list):
            parts[name] = value  # a setting of the pipeline itself
        elif value[1] is None or name in UNUSED:
            parts[name] = None
        elif name.startswith("tokenizer"):
            parts[name] = _tokenizer(folder / name, value[1])
        elif name == "scheduler":
            config = _read(folder / name / "scheduler_config.json")
            parts[name] = _part(name, config | {"_class_name": value[1]}, settings)
        else:
            parts[name] = _part(name, _read(folder / name / "config.json") | {"_class_name": value[1]}, settings)
    return family.pipeline_class()(**parts)


def _from_published(published: Published, settings: PolicySettings, family: type[Family[Any]]) -> Any:
    """From what the family's file holds; every text encoder gets a tokenizer that guesses lengths."""
    parts: dict[str, Any] = {part: _part(part, config, settings) for part, config in published.parts.items()}
    for part, config in published.parts.items():
        if part.startswith("text_encoder"):
            limit = config.get("max_position_embeddings", 512)  # CLIP's 77; T5 and Qwen have positions without end
            parts[part.replace("text_encoder", "tokenizer")] = Guessed(limit)
    return family.pipeline_class()(**parts, **family.unused, **published.arguments)


def _part(part: str, config: Config, settings: PolicySettings) -> Any:
    """A module or scheduler from its configuration; modules in the dtype that `from_pretrained` would give them."""
    kind = _class(config["_class_name"], settings)
    arguments = {key: value for key, value in config.items() if key != "_class_name"}
    of_diffusers = kind.__module__.startswith("diffusers")
    with torch.device("meta") if hasattr(kind, "parameters") else nullcontext():  # schedulers keep their numbers
        module = kind.from_config(arguments) if of_diffusers else kind(kind.config_class.from_dict(arguments))
    if not isinstance(module, torch.nn.Module):
        return module
    dtype = getattr(torch, settings.dtype_of(part))
    # transformers keeps some parameters in float32 under float16 alone, diffusers under every dtype
    keeps_float32 = of_diffusers or dtype == torch.float16
    exempt = (getattr(kind, "_keep_in_fp32_modules", None) or ()) if keeps_float32 else ()
    for name, parameter in module.named_parameters():
        is_exempt = any(word in name.split(".") for word in exempt)
        parameter.data = parameter.data.to(torch.float32 if is_exempt else dtype)
    return module.eval()


def _class(name: str, settings: PolicySettings) -> Any:
    for library in ("diffusers", "transformers"):
        kind = getattr(importlib.import_module(library), name, None)
        if kind is not None:
            return kind
    raise WeightsError(f"{settings.weights} has a part of class {name}, which this diffusers does not know")


def _tokenizer(folder: Path, name: str) -> Any:
    kind = getattr(importlib.import_module("transformers"), name, None)
    if kind is None or not folder.is_dir():
        return Guessed(512 if "T5" in name or "Qwen" in name else 77)
    return kind.from_pretrained(folder)


def _on_this_machine(name: str, settings: PolicySettings) -> Path | None:
    """The folder of a hub id whose configurations have all been downloaded before."""
    try:
        folder = Path(
            snapshot_download(name, revision=settings.revision, allow_patterns=SMALL_FILES, local_files_only=True)
        )
        index = _read(folder / "model_index.json")
    except (OSError, ValueError, WeightsError):  # what the hub raises for "not here", and a name it cannot have
        return None
    parts = [part for part, value in index.items() if isinstance(value, list) and value[1] and part not in UNUSED]
    modules = [part for part in parts if part != "scheduler" and not part.startswith("tokenizer")]
    configurations = [folder / part / "config.json" for part in modules]
    configurations.append(folder / "scheduler" / "scheduler_config.json")
    # an interrupted download leaves some of them
    return folder if all(file.is_file() for file in configurations) else None


def _from_hub(name: str, settings: PolicySettings, family: type[Family[Any]]) -> Path:
    try:
        return Path(snapshot_download(name, revision=settings.revision, allow_patterns=SMALL_FILES))
    except Exception as error:
        known = sorted(name for name, model in family.published.items() if model.parts)
        raise WeightsError(
            f"{explain(settings, error)}. Its costs can be counted without it only for: {', '.join(known)}"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read ({error}); copy or download the folder again") from None

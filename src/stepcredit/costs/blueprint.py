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
from stepcredit.files.folders import check_local, resolve
from stepcredit.policies.family import Family
from stepcredit.policies.loading import check_family, explain
from stepcredit.policies.published import PIPELINE_SETTINGS, PUBLISHED, Config
from stepcredit.settings.policies import Generator as Settings

SMALL_FILES = ["*.json", "*.txt", "*.model"]
"""What is taken of a hub id: configurations and tokenizers, no weights."""
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def blueprint(settings: Settings, family: type[Family]) -> Any:
    """The pipeline of these settings, its modules on the meta device.

    Configurations come from a local folder; of a hub id from its files on this machine, else from `published`, else
    from the hub. `published` goes before the hub, so that counting a known model waits for no connection and needs no
    licence.
    """
    name = resolve(settings.weights, family.embedded)
    if Path(name).is_dir():
        check_local(name, index="model_index.json", parts=())
        check_family(Path(name) / "model_index.json", name, family.pipeline)
        check_local(name, index="model_index.json", parts=family.parts)
        return _from_folder(Path(name), settings, family)
    known = _on_this_machine(name, settings)
    if known is not None:
        return _from_folder(known, settings, family)
    if name in PUBLISHED:
        return _from_published(name, settings, family)
    return _from_folder(_from_hub(name, settings), settings, family)


def guessed_lengths(pipe: Any) -> bool:
    """Whether a text that went through this pipeline had a length that is no tokenizer's."""
    return any(isinstance(part, Guessed) and part.mattered for part in pipe.components.values())


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer returns, as far as a pipeline looks at it."""

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
        lengths = [len(self.tokenize(item)) + 2 for item in ([text] if isinstance(text, str) else text)]
        if padding == "longest":  # pipelines ask so to warn of what they cut; nothing is known to be cut
            lengths = [1] * len(lengths)
        limit = max_length or self.model_max_length
        if truncation:
            lengths = [min(length, limit) for length in lengths]
        if return_tensors is None:
            return Tokens([0] * lengths[0], [1] * lengths[0])
        self.mattered |= padding is True
        wide = limit if padding == "max_length" else max(lengths)
        mask: Tensor = (torch.arange(wide) < torch.tensor(lengths)[:, None]).long()
        return Tokens(torch.zeros_like(mask), mask)


def _from_folder(folder: Path, settings: Settings, family: type[Family]) -> Any:
    """From the `config.json`s of a folder."""
    index = _read(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_"):
            continue
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
    return family.pipeline(**parts)


def _from_published(name: str, settings: Settings, family: type[Family]) -> Any:
    parts = {part: _part(part, config, settings) for part, config in PUBLISHED[name].items()}
    for part in [part for part in parts if part.startswith("text_encoder")]:
        limit = PUBLISHED[name][part].get("max_position_embeddings", 512)
        parts[part.replace("text_encoder", "tokenizer")] = Guessed(limit)
    unused = dict.fromkeys(UNUSED[:2]) | {"requires_safety_checker": False} if "unet" in parts else {}
    return family.pipeline(**parts, **unused, **PIPELINE_SETTINGS.get(name, {}))


def _part(part: str, config: Config, settings: Settings) -> Any:
    """A module or scheduler from its configuration; modules in the dtype that `from_pretrained` would give them."""
    found: Any = None
    name = config["_class_name"]
    for library in ("diffusers", "transformers"):
        found = found or getattr(importlib.import_module(library), name, None)
    if found is None:
        raise WeightsError(f"{settings.weights} has a part of class {name}, which this diffusers does not know")
    given = {key: value for key, value in config.items() if key != "_class_name"}
    ours = found.__module__.startswith("diffusers")
    with torch.device("meta") if hasattr(found, "parameters") else nullcontext():  # schedulers keep their numbers
        module = found.from_config(given) if ours else found(found.config_class.from_dict(given))
    if not isinstance(module, torch.nn.Module):
        return module
    dtype = getattr(torch, settings.dtype_of(part))
    exempt = (getattr(found, "_keep_in_fp32_modules", None) or ()) if ours or dtype == torch.float16 else ()
    for key, parameter in module.named_parameters():
        kept = any(word in key.split(".") for word in exempt)
        parameter.data = parameter.data.to(torch.float32 if kept else dtype)
    return module.eval()


def _tokenizer(folder: Path, name: str) -> Any:
    kind = getattr(importlib.import_module("transformers"), name, None)
    if kind is None or not folder.is_dir():
        return Guessed(512 if "T5" in name or "Qwen" in name else 77)
    return kind.from_pretrained(folder)


def _on_this_machine(name: str, settings: Settings) -> Path | None:
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
    whole = all((folder / part / "config.json").is_file() for part in modules)
    return folder if whole and (folder / "scheduler" / "scheduler_config.json").is_file() else None


def _from_hub(name: str, settings: Settings) -> Path:
    try:
        return Path(snapshot_download(name, revision=settings.revision, allow_patterns=SMALL_FILES))
    except Exception as error:
        raise WeightsError(
            f"{explain(settings, error)}. Its costs can be counted without it only for: {', '.join(sorted(PUBLISHED))}"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read ({error}); copy or download the folder again") from None

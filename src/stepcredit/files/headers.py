"""What safetensors files say of their tensors before any of them is read: names, shapes, types. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from stepcredit.errors import WeightsError

STEMS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call the weights of a part."""
_AGAIN = "copy or download it again"
_POINTER = b"version "  # a text of three lines in place of the file
_LARGEST = 100_000_000  # bytes of a header, safetensors' own limit: more is no header


@dataclass(frozen=True)
class Header:
    """What a file says of one tensor, e.g. `Header(shape=(320, 4, 3, 3), dtype="F16")`."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it, such as `BF16`."""


def read_header(path: Path) -> dict[str, Header]:
    """The tensors of one file by name; an error where the file is not a whole safetensors file."""
    try:
        with path.open("rb") as file:
            first = file.read(8)
            if first == _POINTER:
                raise ValueError("it is a pointer of Git LFS: `git lfs pull` brings the file itself")
            length = int.from_bytes(first, "little")
            if length > _LARGEST:
                raise ValueError("it does not begin with a header")
            entries: dict[str, Any] = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        headers = {name: Header(tuple(entry["shape"]), str(entry["dtype"])) for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except FileNotFoundError:
        raise WeightsError(f"there is no {path}; {_AGAIN}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file ({error}); {_AGAIN}") from None
    size = path.stat().st_size
    if size != 8 + length + end:
        raise WeightsError(f"{path} has {size} bytes and its header speaks of {8 + length + end}; {_AGAIN}")
    return headers


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that diffusers or transformers reads for a part: one, or those that an index lists; empty where there
    are none under the names that they look for."""
    # a part without the variant is read without it, as pipelines do
    words = [f".{variant}", ""] if variant else [""]
    for word, stem in product(words, STEMS):
        whole = folder / f"{stem}{word}.safetensors"
        if whole.is_file():
            return [whole]
        index = folder / f"{stem}.safetensors.index{word}.json"
        if index.is_file():
            return _listed(index)
    return []


def has_variant(folder: Path, variant: str) -> bool:
    """Whether a part has files of this variant, such as `model.fp16.safetensors`."""
    return any(f".{variant}" in file.name for file in weight_files(folder, variant))


def read_headers(files: list[Path]) -> dict[str, Header]:
    """The tensors of all these files."""
    headers: dict[str, Header] = {}
    for file in files:
        headers |= read_header(file)
    return headers


def _listed(index: Path) -> list[Path]:
    """The files of an index; an error where one is not there, or lacks what the index says that it holds."""
    try:
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({index.parent / str(name) for name in places.values()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index} cannot be read ({error}); {_AGAIN}") from None
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        raise WeightsError(f"{index.parent} lacks {', '.join(lacking)}, which {index.name} lists; {_AGAIN}")
    return files

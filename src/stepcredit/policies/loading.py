"""From a folder or hub id to a diffusers pipeline, with errors that say what to do."""

import importlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stepcredit.errors import WeightsError
from stepcredit.files.folders import check_local, resolve
from stepcredit.files.headers import has_variant
from stepcredit.files.whole import check_part, load_whole
from stepcredit.policies import families
from stepcredit.policies.family import Family
from stepcredit.settings.policies import PolicySettings

INDEX = "model_index.json"
"""What makes a folder a pipeline's."""


def load_pipeline(settings: PolicySettings, family: type[Family[Any]]) -> Any:
    """A whole pipeline on the CPU: every tensor of it comes from its files, in the dtype that was asked.

    What can be seen in the names of files and tensors is refused before the first part is loaded.
    """
    name = local_or_hub(settings, family)
    try:
        folder = Path(name) if Path(name).is_dir() else _downloaded(name, settings, family)
        absent = _absent(folder, family)
        kinds = _kinds(folder, {*family.unused, *absent})
        variant = settings.variant
        for part in kinds:
            check_part(folder / part, variant=variant)
        if variant is not None and not any(has_variant(folder / part, variant) for part in kinds):
            raise WeightsError(f"no part of {name} has files of the variant {variant}; remove policy.variant")
        modules: dict[str, Any] = {}
        for part, kind in kinds.items():
            dtype = getattr(torch, settings.dtype_of(part))
            modules[part] = load_whole(kind, folder / part, dtype=dtype, variant=variant)
        pipe = family.pipeline_class().from_pretrained(folder, **dict.fromkeys(absent), **family.unused, **modules)
    except WeightsError:
        raise
    except Exception as error:  # the hub, transformers and diffusers raise what they like; the chain says what it was
        raise WeightsError(explain(settings, error)) from error
    pipe.register_to_config(_name_or_path=name)  # not the cache's folder: the card says what the base is
    return pipe


def local_or_hub(settings: PolicySettings, family: type[Family[Any]]) -> str:
    """The folder of these settings, which has this family's index and every part that it needs; or a hub id."""
    path = Path(settings.weights).expanduser()
    if path.is_file():
        raise WeightsError(_about_file(path, family))
    name = resolve(settings.weights, family.embedded)
    check_local(name, index=INDEX, parts=())
    if Path(name).is_dir():
        check_family(Path(name) / INDEX, name, family)
        absent = _absent(Path(name), family)
        check_local(name, index=INDEX, parts=tuple(part for part in family.parts if part not in absent))
    return name


def _about_file(path: Path, family: type[Family[Any]]) -> str:
    """Why a file is no generator, and how a folder is made of it."""
    if path.suffix == ".gguf":
        return (
            f"{path} is a GGUF file: quantised weights of one network, which cannot be trained; take the model's "
            f"folder or hub id, as a {family.pipeline}"
        )
    return (
        f"{path} is a single-file checkpoint; wanted a folder. Make one where you trust the file: python -c "
        f'"from {family.library} import {family.pipeline}; '
        f"{family.pipeline}.from_single_file('{path}').save_pretrained('{path.stem}')\"; then policy.weights: "
        f"./{path.stem}"
    )


def _downloaded(name: str, settings: PolicySettings, family: type[Family[Any]]) -> Path:
    """The folder of a hub id on this machine."""
    # its index first: a model of another family is not downloaded
    index = Path(hf_hub_download(name, INDEX, revision=settings.revision))
    check_family(index, name, family)
    folder = family.pipeline_class().download(
        name, revision=settings.revision, variant=settings.variant, use_safetensors=True, **family.unused
    )
    return Path(folder)


def _absent(folder: Path, family: type[Family[Any]]) -> list[str]:
    """Parts that the family can do without and the index says are not there."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    absent: list[str] = []
    for encoder, tokenizer in family.optional.items():
        # null, or a class of null: both are what `save_pretrained` of some release writes
        null = [part for part in (encoder, tokenizer) if not index.get(part) or index[part][1] is None]
        if null == [tokenizer]:
            raise WeightsError(f"{folder / INDEX} has {encoder} and no {tokenizer}, which go together")
        absent += [encoder, tokenizer] if null else []
        if not null and not (folder / encoder).is_dir():
            raise WeightsError(
                f"{folder} lacks {encoder}, which its {INDEX} names; copy or download it again. Where it is left out "
                f"on purpose, set {encoder} and {tokenizer} to [null, null] there: texts are then encoded without it"
            )
    return absent


def _kinds(folder: Path, left_out: Collection[str]) -> dict[str, Any]:
    """The class of each part of a folder that has weights."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    kinds: dict[str, Any] = {}
    for part, entry in index.items():
        if part in left_out or not isinstance(entry, list) or entry[0] not in ("diffusers", "transformers"):
            continue  # notes of diffusers, settings of the pipeline, parts that are not there
        kind = getattr(importlib.import_module(entry[0]), entry[1], None)
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
            kinds[part] = kind
    return kinds


def check_family(index: Path, folder: str, family: type[Family[Any]]) -> None:
    """The index of a folder or hub id must say that it is this family's pipeline."""
    try:
        pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{index} cannot be read ({error}); copy or download the folder again") from None
    if pipeline != family.pipeline:
        right = families.taking(pipeline)
        advice = f"use policy.type {right}" if right is not None else "this library has no family for it"
        raise WeightsError(f"{folder} is a {pipeline}, wanted a {family.pipeline}; {advice}")


def explain(settings: PolicySettings, error: BaseException) -> str:
    """Why a pipeline could not be loaded, and what to do about it."""
    name = settings.weights
    chain = _chain(error)
    if Path(name).expanduser().is_dir() or name == "scenes":
        return f"{name} could not be loaded ({error}); wanted a folder as written by `save_pretrained`, whole"
    # gated first: the hub's class for it is a subclass of the one for models that are not there
    if any(isinstance(item, GatedRepoError) for item in chain):
        return (
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then `hf auth login` "
            "or set HF_TOKEN"
        )
    if any(isinstance(item, RevisionNotFoundError) for item in chain):
        return f'{name} has no revision "{settings.revision}"; give a branch, tag or commit that its page lists'
    if any(isinstance(item, RepositoryNotFoundError) for item in chain):
        return f"the hub has no model {name}, or it is private; check policy.weights, or `hf auth login`"
    if any(_is_unreachable(item) for item in chain):
        return (
            f"{name} is not on this machine and the hub cannot be reached ({_first_line(chain[-1])}). Where there is "
            f"a connection: hf download {name} --local-dir FOLDER; then policy.weights: FOLDER"
        )
    return f"{name} could not be loaded ({_first_line(error)})"


def _is_unreachable(error: BaseException) -> bool:
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError | TimeoutError):
        return True
    # httpx's and requests' own errors have no common base; their words do
    words = ("connect", "offline", "resolve", "timed out", "network", "not fully cached", "disabled")
    return any(word in str(error).lower() for word in words)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, the first cause last."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

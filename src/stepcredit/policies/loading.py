"""From a folder or hub id to a diffusers pipeline, with errors that say what to do."""

import json
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
from stepcredit.policies import families
from stepcredit.policies.family import Family
from stepcredit.settings.policies import PolicySettings


def load_pipeline(settings: PolicySettings, family: type[Family[Any]]) -> Any:
    """A whole pipeline on the CPU."""
    folder = resolve(settings.weights, family.embedded)
    check_local(folder, index="model_index.json", parts=())
    if Path(folder).is_dir():
        check_family(Path(folder) / "model_index.json", folder, family)
        check_local(folder, index="model_index.json", parts=family.parts)
    try:
        if not Path(folder).is_dir():  # its index first: a model of another family is not downloaded
            index = hf_hub_download(folder, "model_index.json", revision=settings.revision)
            check_family(Path(index), folder, family)
        return family.pipeline_class().from_pretrained(
            folder,
            dtype={"default": getattr(torch, settings.dtype), "vae": getattr(torch, settings.dtype_of("vae"))},
            revision=settings.revision,
            variant=settings.variant,
            use_safetensors=True,
            **family.unused,
        )
    except WeightsError:
        raise
    except Exception as error:  # the hub, transformers and diffusers raise what they like; the chain says what it was
        raise WeightsError(explain(settings, error)) from error


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

"""From a folder or hub id to a diffusers pipeline, with errors that say what to do."""

import json
from collections.abc import Mapping
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
from stepcredit.settings.policies import Generator as Settings

FAMILIES = {
    "FluxPipeline": "flux",
    "StableDiffusion3Pipeline": "sd3",
    "WanPipeline": "wan",
    "QwenImagePipeline": "qwen_image",
    "StableDiffusionPipeline": "sd",
}
"""Which `policy.type` takes which pipeline."""


def load_pipeline(settings: Settings, pipeline: Any, parts: tuple[str, ...], embedded: str) -> Any:
    """A whole pipeline on the CPU; `parts` are the sub-folders that a local folder must have, `embedded` is what the
    word `scenes` stands for."""
    folder = resolve(settings.weights, embedded)
    check_local(folder, index="model_index.json", parts=())
    if Path(folder).is_dir():
        check_family(Path(folder) / "model_index.json", folder, pipeline)
        check_local(folder, index="model_index.json", parts=parts)
    wanted = {"revision": settings.revision, "variant": settings.variant}
    try:
        if not Path(folder).is_dir():  # its index first: a model of another family is not downloaded
            index = hf_hub_download(folder, "model_index.json", revision=settings.revision)
            check_family(Path(index), folder, pipeline)
        return pipeline.from_pretrained(
            folder,
            dtype={"default": getattr(torch, settings.dtype), "vae": getattr(torch, settings.dtype_of("vae"))},
            use_safetensors=True,
            **{name: value for name, value in wanted.items() if value is not None},
            **_unwanted(pipeline),
        )
    except WeightsError:
        raise
    except Exception as error:  # the hub, transformers and diffusers raise what they like; the chain says what it was
        raise WeightsError(explain(settings, error)) from error


def check_family(index: Path, folder: str, pipeline: Any) -> None:
    """The index of a folder or hub id must say that it is this pipeline."""
    try:
        found = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{index} cannot be read ({error}); copy or download the folder again") from None
    if found != pipeline.__name__:
        advice = f"use policy.type {FAMILIES[found]}" if found in FAMILIES else "this library has no family for it"
        raise WeightsError(f"{folder} is a {found}, wanted a {pipeline.__name__}; {advice}")


def explain(settings: Settings, error: BaseException) -> str:
    """Why a pipeline could not be loaded, and what to do about it."""
    name, chain = settings.weights, _chain(error)
    if Path(name).expanduser().is_dir() or name == "scenes":
        return f"{name} could not be loaded ({error}); wanted a folder as written by `save_pretrained`, whole"
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
    words = ("connect", "offline", "resolve", "timed out", "network", "not fully cached", "disabled")
    return any(word in str(error).lower() for word in words)


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__ or step.__context__
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _unwanted(pipeline: Any) -> Mapping[str, Any]:
    """Parts that are not needed and cost memory."""
    if pipeline.__name__ != "StableDiffusionPipeline":
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

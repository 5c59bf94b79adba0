"""Finding and checking model folders: embedded ones, diffusers folders, hub ids."""

import json
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from stepcredit.errors import WeightsError

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
"""How files of weights end."""
_PICKLES = (".bin", ".pt", ".pth")
_HUB_ID = r"[\w.-]+(/[\w.-]+)?"
_LORAS = ("adapter_config.json", "pytorch_lora_weights.safetensors")
_COMFY = ("checkpoints", "diffusion_models", "unet", "loras")  # folders under ComfyUI's `models`


def resolve(weights: str, embedded: str) -> str:
    """A local folder or hub id; the word `scenes` is the folder `embedded` inside the package."""
    if weights == "scenes":
        return str(resources.files("stepcredit") / "assets" / embedded)
    path = Path(weights).expanduser()
    if weights.strip() and path.is_dir():  # nothing would be the folder that one stands in
        return str(path)
    wanted = "give a model folder, a hub id (owner/name) or `scenes`"
    if path.is_file():
        raise WeightsError(f"{weights} is a file; {wanted}")
    if re.match(r"https?://", weights):
        raise WeightsError(f"{weights} is an address; give its last two words, as owner/name")
    # owner/name could be a folder too: only what is no hub id can be a folder that is missing
    looks_local = weights.startswith((".", "/", "~")) or (os.sep in weights[1:] and weights.count("/") != 1)
    if looks_local:
        raise WeightsError(f"there is no folder {weights}; {wanted}")
    if not re.fullmatch(_HUB_ID, weights):
        raise WeightsError(f'"{weights}" is no folder here, and no hub id could be called so; {wanted}')
    return weights


def check_local(folder: str, *, index: str, parts: tuple[str, ...]) -> None:
    """For a local folder: `index` and the sub-folders `parts` must be there, and the weights must be safetensors."""
    path = Path(folder)
    if not path.is_dir():
        return  # a hub id; the hub's own errors are clear
    if not (path / index).is_file():
        raise WeightsError(f"{folder} has no {index}; {_instead(path, index)}")
    missing = [part for part in parts if not (path / part).is_dir()]
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}; the folder is partial, copy or download it again")
    for part in parts or (".",):
        weights = [file for file in (path / part).iterdir() if file.suffix in (".safetensors", *_PICKLES)]
        # a folder may hold both kinds; diffusers then loads the safetensors
        pickles = [file for file in weights if file.suffix != ".safetensors"]
        if pickles and len(pickles) == len(weights):
            raise WeightsError(
                f"{pickles[0]} is a pickle, which can run code when it is loaded; convert it to safetensors "
                "(load it where you trust it and call `save_pretrained`)"
            )


def _instead(path: Path, index: str) -> str:
    """What a folder without its index is, where that can be seen, and what to give."""
    explanations: tuple[Callable[[Path, str], str | None], ...] = (
        _as_cache,
        _as_run,
        _as_lora,
        _as_level,
        _as_part,
        _as_files,
    )
    for explanation in explanations:
        sentence = explanation(path, index)
        if sentence is not None:
            return sentence
    return "wanted a folder as written by `save_pretrained`"


def _as_cache(path: Path, index: str) -> str | None:
    """The hub's cache keeps the files of each commit under `snapshots`."""
    snapshots = sorted(file.parent for file in path.glob(f"snapshots/*/{index}"))
    if snapshots:
        return f"it is the hub's cache of a model; give the commit in it, {snapshots[-1]}"
    if (path / "snapshots").is_dir():
        return "it is the hub's cache of a model, and no commit in it is whole; download it again"
    return None


def _as_run(path: Path, index: str) -> str | None:
    del index
    if (path / "run.yaml").is_file():
        return f"it is a run's folder; `stepcredit export {path} --merged` makes a model folder of its weights"
    if (path / "state.json").is_file() or path.parent.name == "checkpoints":
        adapter = path / "adapter"
        start = f"; a LoRA in it goes under policy.surface.start: {adapter}" if adapter.is_dir() else ""
        return f"it is a checkpoint of a run, which holds what was trained and no base{start}"
    return None


def _as_lora(path: Path, index: str) -> str | None:
    del index
    if any((path / name).is_file() for name in _LORAS):
        return "it holds a LoRA, which goes under policy.surface.start; `weights` is the base that it belongs to"
    return None


def _as_level(path: Path, index: str) -> str | None:
    """One level too high or too low."""
    below = sorted(file.parent for file in path.glob(f"*/{index}"))
    # the parts of a pipeline have a config.json each, and are no model to choose
    if below and not (path / "model_index.json").is_file():
        return f"it is one level too high; give {below[0]}"
    if (path.absolute().parent / index).is_file():
        return f"it is a part of {path.absolute().parent}; give that folder"
    return None


def _as_part(path: Path, index: str) -> str | None:
    """Another kind of model than was asked for."""
    if index != "model_index.json" and (path / "model_index.json").is_file():
        return "it is a whole generator; wanted the folder of one model, with a config.json"
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = config.get("_class_name") or (config.get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return None
    return f"it is a single {kind or 'network'}; wanted the folder of the whole pipeline" if kind else None


def _as_files(path: Path, index: str) -> str | None:
    """Single files, in ComfyUI's tree or loose."""
    del index
    folders = [name for name in _COMFY if (path / name).is_dir() or (path / "models" / name).is_dir()]
    if len(folders) > 1:
        return (
            f"it is ComfyUI's tree of single files ({', '.join(folders)}); wanted a folder as `save_pretrained` writes"
        )
    files = sorted(file.name for file in path.iterdir() if file.suffix in WEIGHTS)
    if files:
        return f"it holds the single file {files[0]}; wanted a folder as written by `save_pretrained`"
    if not any(path.iterdir()):
        return "it is empty; wanted a folder as written by `save_pretrained`"
    return None

"""Finding and checking model folders: embedded ones, diffusers folders, hub ids."""

import os
from importlib import resources
from pathlib import Path

from stepcredit.errors import WeightsError


def resolve(weights: str, embedded: str) -> str:
    """A local folder or hub id; the word `scenes` is the folder `embedded` inside the package."""
    if weights == "scenes":
        return str(resources.files("stepcredit") / "assets" / embedded)
    # owner/name could be a folder too: only what is no hub id can be a folder that is missing
    looks_local = weights.startswith((".", "/", "~")) or (os.sep in weights[1:] and weights.count("/") != 1)
    if looks_local and not Path(weights).expanduser().is_dir():
        raise WeightsError(f"there is no folder {weights}; give a model folder, a hub id (owner/name) or `scenes`")
    return str(Path(weights).expanduser()) if Path(weights).expanduser().is_dir() else weights


def check_local(folder: str, *, index: str, parts: tuple[str, ...]) -> None:
    """For a local folder: `index` and the sub-folders `parts` must be there, and the weights must be safetensors."""
    path = Path(folder)
    if not path.is_dir():
        return  # a hub id; the hub's own errors are clear
    if not (path / index).is_file():
        raise WeightsError(f"{folder} has no {index}; wanted a folder as written by `save_pretrained`")
    missing = [part for part in parts if not (path / part).is_dir()]
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}; the folder is partial, copy or download it again")
    for part in parts or (".",):
        weights = [file for file in (path / part).iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth")]
        # a folder may hold both kinds; diffusers then loads the safetensors
        pickles = [file for file in weights if file.suffix != ".safetensors"]
        if pickles and len(pickles) == len(weights):
            raise WeightsError(
                f"{pickles[0]} is a pickle, which can run code when it is loaded; convert it to safetensors "
                "(load it where you trust it and call `save_pretrained`)"
            )

"""Which weights lie behind a name, told cheaply: digests of a model's files, or the commit of a hub id. No torch."""

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from stepcredit.files.seal import digest

_KINDS = frozenset((".json", ".safetensors", ".txt", ".model", ".jinja"))  # what a model is loaded from
_WHOLE = 32 * 2**20  # bytes up to which a file is read as a whole
_PIECES = 32
_PIECE = 2**16
_DIGITS = 16


def identity(weights: str, revision: str | None = None) -> dict[str, str]:
    """What would be loaded under this name: a digest of each file of a folder, `{"config.json": "9f86..."}`, or of a
    single file; of a hub id `{"hub": "owner/name@commit"}`."""
    place = Path(weights)
    if place.is_file():
        return {place.name: _digest(place)}
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix in _KINDS and path.is_file())
        # Hidden folders are tools' own, such as .git and the hub's .cache.
        names = {path: path.relative_to(place).as_posix() for path in files}
        return {name: _digest(path) for path, name in names.items() if "/." not in f"/{name}"}
    return {"hub": f"{weights}@{_commit(weights, revision)}"}


def _digest(path: Path) -> str:
    """Of a large file: of its size, its beginning, where safetensors have their header, and of pieces all over it.

    Reading many gigabytes takes minutes. Weights that were trained differ everywhere, so that the pieces tell them.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return digest(path)[:_DIGITS]
    content = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(_PIECES):
            file.seek(piece * (size - _PIECE) // (_PIECES - 1))
            content.update(file.read(_PIECE))
    return content.hexdigest()[:_DIGITS]


def _commit(name: str, revision: str | None) -> str:
    """The commit that the hub's cache holds; what was asked for where the cache says nothing."""
    for index in ("model_index.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, index, revision=revision)
        except ValueError:  # not a name that the hub could have
            break
        if isinstance(path, str):
            return Path(path).parent.name
    return revision or "main"

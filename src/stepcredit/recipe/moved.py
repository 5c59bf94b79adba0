"""What recipes called something else before: old keys and old files, each with the name it has now."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepcredit.errors import RecipeError
from stepcredit.settings.keys import flatten
from stepcredit.settings.moved import MOVED, new_name


def refuse_moved(
    recipe: Mapping[str, Any], sections: Mapping[str, type[BaseModel]], moved: Mapping[str, str] = MOVED
) -> None:
    """One error that names every old key of a recipe with its new name, so that a file is mended in one go.

    | argument | meaning |
    |---|---|
    | recipe | as it was read, `{"method": {"floor": 0.3}}` |
    | sections | the class that reads each section that keys have moved out of or into, `{"method": OTCA}` |
    """
    sentences = []
    for key in flatten(recipe):
        new = new_name(key, moved)
        # Only from where it is not read to where it is: a method of one's own may call its settings as it likes.
        if new is not None and not _is_read(key, sections) and _is_read(new, sections):
            sentences.append(f"{key} is now {new}")
    if sentences:
        raise RecipeError("\n".join(sentences))


def _is_read(key: str, sections: Mapping[str, type[BaseModel]]) -> bool:
    section, name, *_ = key.split(".")
    return section in sections and name in sections[section].model_fields


def moved_recipe(path: Path, models: Collection[str], methods: Collection[str]) -> str | None:
    """`recipes/MODEL/METHOD.yaml` was a file of its own: what is written instead, `MODEL --method METHOD`."""
    if path.suffix == ".yaml" and path.parent.name in models and path.stem in methods:
        return f"{path.parent.name} --method {path.stem}"
    return None

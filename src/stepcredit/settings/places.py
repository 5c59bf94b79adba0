"""Settings that name a place on this machine: `~` is the home folder, and what a run writes down is absolute.

A run is evaluated and gone on with from other folders than the one in which it began, so that a relative path would
lead elsewhere then. Hub ids, and words such as `scenes`, stay as they are.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_LONGEST = 4096  # bytes of a path on Linux, and more than other systems take
_LONGEST_NAME = 255  # bytes of a name between two slashes, on all of them
EMBEDDED = "scenes"
"""The word for the models inside the package, even where a folder is called so."""


def at_home(path: Path) -> Path:
    """With the home folder for `~`; ValueError for a path that no file can have."""
    expanded = Path(os.path.expanduser(path))
    longest = max((len(os.fsencode(part)) for part in expanded.parts), default=0)
    if longest > _LONGEST_NAME or len(os.fsencode(expanded)) > _LONGEST:
        raise ValueError(
            f"a path of {len(str(expanded)):,} characters, wanted names of at most {_LONGEST_NAME} bytes and "
            f"{_LONGEST:,} in all; no file can be called so"
        )
    if "\0" in str(expanded):
        raise ValueError("a path with the character NUL, wanted one without; no file can be called so")
    return expanded


def absolute(path: Path) -> Path:
    """The same from whatever folder it is read."""
    return Path(os.path.abspath(at_home(path)))


def absolute_if_local(name: str) -> str:
    """A file or folder that is here by its absolute path; anything else, such as a hub id, as it is."""
    if name == EMBEDDED:
        return name
    path = at_home(Path(name))
    if name.startswith("~") or os.path.exists(path):
        return str(absolute(path))
    return name


OutputFolder = Annotated[Path, AfterValidator(at_home)]
"""Where something is written: beside the one who asks for it, so relative to the folder that is worked in."""
Place = Annotated[Path, AfterValidator(absolute)]
"""A file that is read."""
PlaceOrHub = Annotated[str, AfterValidator(absolute_if_local)]
"""A model: a folder or file, a hub id, or the word `scenes`."""

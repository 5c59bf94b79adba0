"""Settings that name a place on this machine: `~` is the home folder, and what a run writes down is absolute.

A run is evaluated and gone on with from other folders than the one in which it began, so that a relative path would
lead elsewhere then. Hub ids, and words such as `scenes`, stay as they are.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

EMBEDDED = "scenes"
"""The word for the models inside the package, even where a folder is called so."""


def at_home(path: Path) -> Path:
    """With the home folder for `~`."""
    return Path(os.path.expanduser(path))


def absolute(path: Path) -> Path:
    """The same from whatever folder it is read."""
    return Path(os.path.abspath(at_home(path)))


def absolute_if_local(name: str) -> str:
    """A file or folder that is here by its absolute path; anything else, such as a hub id, as it is."""
    if name == EMBEDDED:
        return name
    path = at_home(Path(name))
    if name.startswith("~") or path.exists():
        return str(absolute(path))
    return name


OutputFolder = Annotated[Path, AfterValidator(at_home)]
"""Where something is written: beside the one who asks for it, so relative to the folder that is worked in."""
Place = Annotated[Path, AfterValidator(absolute)]
"""A file that is read."""
PlaceOrHub = Annotated[str, AfterValidator(absolute_if_local)]
"""A model: a folder or file, a hub id, or the word `scenes`."""

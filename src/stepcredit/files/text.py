"""Text files that are whole or not there. No torch."""

import json
import os
from pathlib import Path
from typing import Any

from stepcredit.errors import RunError

_AGAIN = "make room, then do it again"


def write_text(path: Path, text: str, *, advice: str = _AGAIN) -> None:
    """Whole or not at all; `advice` is what to do when it cannot be written."""
    writing = path.with_name(f".{path.name}.writing")  # in the same folder: a rename is atomic only within one disk
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_text(text, encoding="utf-8")
        os.replace(writing, path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error}); {advice}") from error


def write_json(path: Path, value: Any, *, advice: str = _AGAIN) -> None:
    """The same of plain data, to be read by people too."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", advice=advice)

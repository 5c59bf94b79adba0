"""Files that are whole or not there, and lines to copy into a shell. No torch."""

import json
import os
import secrets
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepcredit.errors import RunError

_AGAIN = "make room, then do it again"


def write_text(path: Path, text: str, *, advice: str = _AGAIN) -> None:
    """Whole or not at all; `advice` is what to do when it cannot be written."""
    write_bytes(path, text.encode(), advice=advice)


def write_bytes(path: Path, content: bytes, *, advice: str = _AGAIN) -> None:
    """The same of bytes."""
    writing = new_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing.open("xb") as file:  # x: refuses whatever lies there, and follows no link
            file.write(content)
        os.replace(writing, path)
    except OSError as error:
        # Often the disk is full: what was half written is the first to go, if there is any of it.
        with suppress(OSError):
            writing.unlink()
        raise RunError(f"{path} could not be written ({error}); {advice}") from error


def write_json(path: Path, value: Any, *, advice: str = _AGAIN) -> None:
    """The same of plain data, to be read by people too."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", advice=advice)


def new_beside(path: Path) -> Path:
    """A hidden name that nobody has, for what is moved to `path` when it is whole.

    In the same folder, since a rename is atomic only within one disk. Never the same name twice: somebody may have put
    a link in its place, or two processes may write at once.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")


def shell_line(*words: object) -> str:
    """A command that works when it is copied: `stepcredit train --resume 'my runs/first'`."""
    return shlex.join(map(str, words))


def resume_line(run: Path) -> str:
    """The command that goes on with a run."""
    return shell_line("stepcredit", "train", "--resume", run)

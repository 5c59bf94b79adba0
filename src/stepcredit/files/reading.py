"""Text files of other people, read whole: of a known size, in UTF-8, and files at all. No torch."""

import os
import stat
from pathlib import Path

from stepcredit.errors import StepcreditError, shown


def read_text(path: Path, *, most_bytes: int, error: type[StepcreditError], advice: str) -> str:
    """The text of a file, without the mark that Windows editors put in front; lines end with LF.

    | argument | meaning |
    |---|---|
    | most_bytes | a larger file is refused before it is read |
    | error | what is raised when the file cannot be read, `RecipeError` |
    | advice | what to do instead of so large a file |
    """
    try:
        status = path.stat()
        problem = _problem(status, most_bytes=most_bytes, advice=advice)
        if problem is None:
            return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(f"there is no file {path}") from None
    except UnicodeDecodeError as wrong:
        raise error(f"{path} is not UTF-8 text ({wrong.reason} at byte {wrong.start}); save it as UTF-8") from None
    except OSError as wrong:
        raise error(f"{path} cannot be read: {wrong.strerror}") from None
    except ValueError as wrong:  # a NUL in the name
        raise error(f"{shown(str(path))} is not the name of a file: {wrong}") from None
    raise error(f"{path} {problem}")


def _problem(status: os.stat_result, *, most_bytes: int, advice: str) -> str | None:
    """Why a file is not read at all; None if it is."""
    # Reading a pipe or a terminal would wait for ever, and reading a device would never end.
    if not stat.S_ISREG(status.st_mode):
        return f"cannot be read: it is {_kind(status.st_mode)}, wanted a text file"
    if status.st_size > most_bytes:
        return f"has {status.st_size:,} bytes, wanted at most {most_bytes:,}; {advice}"
    return None


def _kind(mode: int) -> str:
    """What is no file, in words."""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"

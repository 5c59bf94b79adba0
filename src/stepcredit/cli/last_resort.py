"""What becomes of an error that nobody foresaw: one sentence on the screen, and everything else in a file."""

import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from stepcredit import __version__
from stepcredit.errors import readable

CODE = 70
"""Exit code of a fault in the program, EX_SOFTWARE of sysexits.h."""
SHOW = "STEPCREDIT_TRACEBACK"
"""With this in the environment the traceback is shown as well."""
# What the machine refuses is no fault of the program, and its traceback helps nobody.
_REFUSED = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EMFILE: "too many files are open",
    errno.EROFS: "the disk cannot be written to",
    errno.EACCES: "permission was denied",
    errno.EIO: "the disk failed",
}


def sentence(error: Exception, arguments: Sequence[str]) -> str:
    """What to tell of an unforeseen error; writes a file with the traceback and what else a report needs."""
    log = _write(error, arguments)
    where = f"; the traceback is in {log}" if log else ""
    if isinstance(error, MemoryError):
        return f"main memory ran out{where}. Lower the micro-batches or text_cache, or close other programs"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        name = f" ({error.filename})" if error.filename else ""
        return f"{_REFUSED[error.errno]}{name}{where}. What a run saved before is whole; mend this, then --resume"
    kind = type(error).__name__
    reason = readable(str(error), lines=4) or "no reason given"
    return (
        f"a fault in stepcredit, not in your command: {kind}: {reason}{where}.\n"
        f"Please report it with that file; {SHOW}=1 in the environment shows the traceback here"
    )


def _write(error: Exception, arguments: Sequence[str]) -> Path | None:
    """A new file in the run folder that the command names, else here, else in the folder of temporary files."""
    versions = f"stepcredit {__version__}, Python {platform.python_version()}, {platform.platform()}"
    parts = [versions, f"stepcredit {shlex.join(arguments)}", "".join(traceback.format_exception(error))]
    text = "\n\n".join(parts)
    if os.environ.get(SHOW):
        print(text, file=sys.stderr)  # noqa: T201 - asked for
    for folder in (*_run_folders(arguments), Path.cwd(), Path(tempfile.gettempdir())):
        try:
            # A new name each time, which no link can stand behind.
            handle, name = tempfile.mkstemp(prefix="stepcredit-fault-", suffix=".log", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue  # full or not ours; the next one may not be
        return Path(name)
    return None


def _run_folders(arguments: Sequence[str]) -> list[Path]:
    """Run folders among the words of a command, `--output.folder=runs/try` included."""
    words = [Path(word.partition("=")[2] if word.startswith("--") else word) for word in arguments]
    return [folder for folder in words if os.path.isfile(folder / "run.yaml")]

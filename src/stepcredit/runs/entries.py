"""What lies in the folders of a run: its own entries in the order of their numbers, and nothing of anybody else's.

A name that is not exactly what this package writes - `.DS_Store`, `000006 (copy)`, `000006.bak` - is a stranger: it is
neither read nor removed. So is a link, whatever its name, since what it leads to is not the run's. No torch.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from stepcredit.errors import RunError

FOLDERS = ("samples", "checkpoints", "credit", "evaluations")
FILES = ("run.yaml", "environment.json", "metrics.jsonl", "problems.jsonl", "changes.jsonl", "result.json", ".lock")
_LEFT = r"\..+\.(?:writing|removed)|\d{6,}\.safetensors\.writing"  # the second as versions up to 0.2 wrote it


def numbered(folder: Path, suffix: str = "") -> dict[int, Path]:
    """Entries called by a number of at least six digits, in its order: folders, or files that end in `suffix`.

    Of numbers, not of names: 1000000 comes after 999999.
    """
    entries: dict[int, Path] = {}
    for path, (number,) in matching(folder, rf"(\d{{6,}}){re.escape(suffix)}"):
        is_own = path.is_file() if suffix else path.is_dir()
        if is_own and path.name == f"{int(number):06d}{suffix}":  # 0000006 is nobody's
            entries[int(number)] = path
    return dict(sorted(entries.items()))


def matching(folder: Path, pattern: str) -> list[tuple[Path, Sequence[str]]]:
    """Entries whose whole name is `pattern`, with the groups of it; no links. Nothing where there is no folder."""
    if not folder.is_dir():
        return []
    matches = [(path, re.fullmatch(pattern, path.name, re.ASCII)) for path in sorted(folder.iterdir())]
    return [(path, match.groups()) for path, match in matches if match and not path.is_symlink()]


def leftovers(folder: Path) -> list[Path]:
    """What processes that were killed here had not finished writing or removing."""
    return [path for path, _ in matching(folder, _LEFT)]


def remove(path: Path) -> None:
    """A file or a folder with all that is in it; a link is refused, never followed."""
    if path.is_symlink():
        raise RunError(f"{path} is a link to {path.readlink()}; nothing was removed there. Move the link away")
    if path.is_dir():
        # Not there any more is as good: two processes may tidy up the same leftovers.
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def refuse_links(run: Path) -> None:
    """A run that is written must lie in its own folder: through a link, something elsewhere would be lost."""
    links = [run / name for name in (*FOLDERS, *FILES) if (run / name).is_symlink()]
    if links:
        places = ", ".join(f"{path} (to {path.readlink()})" for path in links)
        raise RunError(
            f"the run would be written through a link: {places}; nothing was changed. Put what it leads to in its "
            "place, or link the whole run folder instead"
        )

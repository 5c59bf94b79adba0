"""The logs of a run, metrics.jsonl and its like: sealed lines that are added one by one. No torch."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.errors import RunError
from stepcredit.files.seal import digest_of, opened_line, sealed_line


@dataclass(frozen=True)
class Extent:
    """How far a log went at some moment: `Extent(lines=12, sha256="9f86...")`, the digest being that of these lines."""

    lines: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Extent":
        """Of the log as it is."""
        lines = whole_lines(path)
        return cls(len(lines), digest_of(lines))

    def holds(self, path: Path) -> bool:
        """Whether the log still begins with exactly these lines."""
        lines = whole_lines(path)[: self.lines]
        return digest_of(lines) == self.sha256


def append(path: Path, records: Sequence[Mapping[str, Any]], *, lasting: bool = False) -> None:
    """Add a line for each record; `lasting` waits until the disk has them."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(map(sealed_line, records))
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def whole_lines(path: Path) -> list[str]:
    """The lines as they stand. A last one without its end is dropped: somebody is writing, or was killed."""
    if not path.is_file():
        return []
    # A process that was killed may have left half of a letter; that line is dropped or named, not a UnicodeDecodeError.
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log. RunError for a line that is not what was written, or that is there twice."""
    records: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            records.append(opened_line(line))
        except ValueError as error:
            raise RunError(
                f"{path}, line {number}, is damaged ({error}): {line[:60]!r}; remove that line to read the others"
            ) from None
        if '"seal"' in line and seen.setdefault(line, number) != number:  # older versions may have equal lines
            raise RunError(f"{path}, line {number}, is line {seen[line]} again: {line[:60]!r}; remove one of them")
    return records


def rewrite(path: Path, belongs: Callable[[Mapping[str, Any]], bool], *, mend: bool = False) -> str:
    """The text of a log with only the records that belong, each line as it stands.

    With `mend`, for a log whose damage somebody has accepted: what cannot be read or is there twice is left out, and
    what remains is sealed anew.
    """
    if not mend:
        pairs = zip(whole_lines(path), read_lines(path), strict=True)
        return "".join(f"{line}\n" for line, record in pairs if belongs(record))
    ordered = sorted(
        _readable(path), key=lambda record: record["iteration"]
    )  # those of one iteration stay as they stand
    return "".join(sealed_line(record) for record in ordered if belongs(record))


def _readable(path: Path) -> list[dict[str, Any]]:
    """The records that can be read at all, once each."""
    records: list[dict[str, Any]] = []
    for line in dict.fromkeys(whole_lines(path)):
        record = _attempt(line)
        if record is not None:
            records.append(record)
    return records


def _attempt(line: str) -> dict[str, Any] | None:
    try:
        return opened_line(line)
    except ValueError:
        return None

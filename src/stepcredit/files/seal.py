"""Seals: a record carries the SHA-256 of itself, and whoever reads it finds that it was changed. No torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "sha256"
"""Where a sealed record keeps its digest."""
_SHORT = 16  # hexadecimal digits of a line's seal: 64 bits find every accident, and a line stays readable


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, the same for what `json` reads back of it."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its own digest as its last key."""
    return {**record, KEY: digest_of(record)}


def read_json(path: Path) -> dict[str, Any]:
    """A table that was sealed, or that an older version wrote without a seal; ValueError if it is neither."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise ValueError("it holds no table")
    return opened(stored)


def opened(record: Mapping[str, Any]) -> dict[str, Any]:
    """A sealed record without its digest; one of an older version, which has none, as it is.

    Raises ValueError where the digest does not fit.
    """
    content = {key: value for key, value in record.items() if key != KEY}
    if KEY in record and record[KEY] != digest_of(content):
        raise ValueError("it is not what was written")
    return content


def sealed_line(record: Mapping[str, Any]) -> str:
    """One line of a log, with a short seal as its last key."""
    return json.dumps({**record, "seal": digest_of(record)[:_SHORT]}) + "\n"


def opened_line(line: str) -> dict[str, Any]:
    """The record of such a line, or of one that an older version wrote without a seal; ValueError if it is neither."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no record")
    seal = record.pop("seal", None)
    if seal is not None and seal != digest_of(record)[:_SHORT]:
        raise ValueError("it is not what was written")
    return record


def sealed_text(text: str) -> str:
    """YAML with the digest of it in a comment at its end, which whoever reads the YAML passes over."""
    return f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"


def is_as_sealed(text: str) -> bool:
    """Whether YAML is what was sealed; true of one without a seal."""
    content, mark, seal = text.rpartition(_MARK)
    return not mark or hashlib.sha256(content.encode()).hexdigest() == seal.strip()


_MARK = "# sha256 of all above: "

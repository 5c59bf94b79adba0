"""Are the installed packages as new as this one needs? No torch, and no package is imported to find out.

Pip takes care of that when it installs; what comes after it - another environment, a forced version - does not.
Releases below a floor are known to give wrong numbers in silence, so they are an error and no warning.
"""

import re
from functools import cache
from importlib import metadata

from stepcredit.errors import VersionError

_FLOOR = re.compile(r"([\w.-]+).*?>=\s*([\d.]+)")


def floors() -> dict[str, str]:
    """The lowest release of each package that this one needs, as its own metadata says; empty where it has none."""
    try:
        lines = metadata.requires("stepcredit") or []
    except metadata.PackageNotFoundError:  # run from a folder, without being installed
        return {}
    matches = [_FLOOR.match(line) for line in lines if "extra ==" not in line]
    return {match[1]: match[2] for match in matches if match is not None}


def too_old() -> list[str]:
    """One sentence for each package that is older than its floor, or not there."""
    sentences: list[str] = []
    for name, floor in floors().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            sentences.append(f"{name} is not installed, wanted {floor} or newer")
            continue
        if _numbers(version) < _numbers(floor):
            sentences.append(f"{name} is {version}, wanted {floor} or newer")
    return sentences


@cache
def check_versions() -> None:
    """Raise `VersionError` where a package is too old; cached, because a process does not change its packages."""
    sentences = too_old()
    if sentences:
        raise VersionError(
            f"{'; '.join(sentences)}. Older releases are known to load models wrongly without a word; "
            "pip install --upgrade stepcredit"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` as (2, 13, 0); 5.6 and 5.6.0 are alike, so that neither is below the other."""
    numbers = re.match(r"[\d.]*", version)
    parts = [int(part) for part in (numbers[0] if numbers else "").split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)

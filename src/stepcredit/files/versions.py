"""Are the installed packages as new as this one needs? No torch, and no package is imported to find out.

Pip takes care of that when it installs; what comes after it - another environment, a forced version - does not.
Releases below a floor are known to give wrong numbers in silence, so they are an error and no warning.
"""

from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from stepcredit.errors import VersionError


def floors() -> dict[str, str]:
    """The lowest release of each package that this one needs, as its own metadata says; empty where it has none."""
    try:
        lines = metadata.requires("stepcredit") or []
    except metadata.PackageNotFoundError:  # run from a folder, without being installed
        return {}
    lowest: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        for bound in requirement.specifier:
            # What has a marker belongs to an extra.
            if requirement.marker is None and bound.operator == ">=":
                lowest[requirement.name] = bound.version
    return lowest


def too_old() -> list[str]:
    """One sentence for each package that is older than its floor, or not there."""
    sentences: list[str] = []
    for name, floor in floors().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            sentences.append(f"{name} is not installed, wanted {floor} or newer")
            continue
        if Version(version) < Version(floor):
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

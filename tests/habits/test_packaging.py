"""What the build would leave out, which versions are the lowest, and which pages the site shows."""

import re
import runpy
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENT = re.compile(r"^([A-Za-z0-9_-]+)(?:>=([\d.]+))?")


def lowest_versions():
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def release(version):
    """Comparable: 2.10 and 2.10.0 are the same release."""
    return tuple(int(part) for part in (*version.split("."), "0", "0")[:3])


def test_the_build_leaves_no_file_of_the_package_out():
    """Hatchling skips what .gitignore names: a pattern such as `runs/` without its first slash would lose a room."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--ignored", "--exclude-standard", "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [name for name in listed if "__pycache__" not in name] == []


def test_a_wheel_that_lacks_a_file_is_noticed(tmp_path):
    missing = runpy.run_path(str(ROOT / "scripts" / "check_wheel.py"))["missing"]
    for name in ("__init__.py", "viewer/page.css", "__pycache__/x.pyc"):
        path = tmp_path / "stepcredit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    wheel = tmp_path / "stepcredit-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("stepcredit/__init__.py", "")
    assert missing(wheel, tmp_path) == ["stepcredit/viewer/page.css"]


def test_the_lowest_versions_are_the_floors_of_the_project():
    floors = dict(REQUIREMENT.findall(line)[0] for line in PROJECT["project"]["dependencies"])
    lowest = lowest_versions()
    assert lowest.keys() == floors.keys()
    # torch is tried at what is tested; the file says why.
    assert {name for name in floors if release(lowest[name]) != release(floors[name])} == {"torch"}


def test_every_page_is_on_the_site():
    # mkdocs.yml is plain data: no tag of a generator's own.
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = set(re.findall(r"[\w./-]+\.md", str(navigation)))
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert written <= pages
    assert all((ROOT / page).is_file() for page in pages)


def test_the_citation_names_this_version():
    from stepcredit import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


def test_hooks_run_what_is_installed():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}

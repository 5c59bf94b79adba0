"""Packages below their floors are an error, by the floors that this package itself declares."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from stepcredit.build import build_rewards, open_generator
from stepcredit.errors import VersionError
from stepcredit.files import versions
from stepcredit.policies.families.flux import Flux
from stepcredit.settings.rewards import ClipT

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def older(monkeypatch):
    """transformers as it was before the embedded models could be read."""
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "5.2.0" if name == "transformers" else installed(name))
    versions.check_versions.cache_clear()
    yield
    versions.check_versions.cache_clear()


def test_what_is_installed_here_is_new_enough():
    assert versions.too_old() == []


def test_the_floors_are_those_of_the_project():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[><=,]", line)[0] for line in declared]
    assert set(versions.floors()) == set(names)
    assert versions.floors()["diffusers"] == "0.40"
    assert versions.floors()["transformers"] == "5.6"


@pytest.mark.parametrize("door", [lambda: open_generator(Flux()), lambda: build_rewards([ClipT()], CPU)])
def test_an_older_release_is_refused_before_anything_is_loaded(door, older):
    with pytest.raises(VersionError, match=r"transformers is 5\.2\.0, wanted 5\.6 or newer.*pip install --upgrade"):
        door()


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(versions, "floors", lambda: {"no-such-package": "1.0"})
    assert versions.too_old() == ["no-such-package is not installed, wanted 1.0 or newer"]


@pytest.mark.parametrize(
    ("version", "floor", "below"),
    [
        ("2.13.0+cpu", "2.7", False),
        ("5.6", "5.6.0", False),
        ("5.6.0", "5.6", False),
        ("5.10.1", "5.6", False),
        ("5.5.9", "5.6", True),
        ("0.39.0", "0.40", True),
        ("1.0.0rc1", "0.9", False),
    ],
)
def test_versions_are_compared_number_by_number(version, floor, below, monkeypatch):
    monkeypatch.setattr(versions, "floors", lambda: {"package": floor})
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert bool(versions.too_old()) == below

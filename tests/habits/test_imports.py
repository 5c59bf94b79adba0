"""Every module can be imported under its own name, and its package has the module there, not something else."""

import importlib
import pkgutil
import types

import pytest

import stepcredit

# Running it is what __main__ is for.
NAMES = sorted(
    module.name
    for module in pkgutil.walk_packages(stepcredit.__path__, "stepcredit.")
    if not module.name.endswith("__main__")
)


def shadow(name):
    """What hides a module from `from package import module`, e.g. a function that the package imports; else None."""
    module = importlib.import_module(name)
    package, _, last = name.rpartition(".")
    there = getattr(importlib.import_module(package), last)
    return None if there is module else there


def test_modules_are_found():
    assert {"stepcredit.flow.kernels", "stepcredit.viewer.report", "stepcredit.cli.app"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_hides_a_module(name):
    assert shadow(name) is None, f"`from {name.rpartition('.')[0]} import ...` gives {shadow(name)!r}"


def test_a_function_of_the_same_name_is_noticed(monkeypatch):
    kernels = importlib.import_module("stepcredit.flow.kernels")
    monkeypatch.setattr(importlib.import_module("stepcredit.flow"), "kernels", kernels.ode)
    assert shadow("stepcredit.flow.kernels") is kernels.ode
    assert isinstance(kernels, types.ModuleType)

"""The public mathematics says of every argument what it is: a row in its own docstring or in that of its module."""

import importlib
import inspect
import pkgutil
import re

import pytest

from stepcredit import credit, flow, objective

FORMS = {"power", "matching", "linear"}  # of a log-ratio: choices that stand in a table like arguments


def public_functions():
    """Name, signature and documentation of every public function and method of the three pure rooms."""
    for room in (flow, credit, objective):
        for information in pkgutil.iter_modules(room.__path__, prefix=f"{room.__name__}."):
            module = importlib.import_module(information.name)
            for name, member in vars(module).items():
                if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
                    continue
                if inspect.isfunction(member):
                    yield pytest.param(module, member, id=f"{module.__name__}.{name}")
                elif inspect.isclass(member):
                    for method_name, method in vars(member).items():
                        if inspect.isfunction(method) and not method_name.startswith("_"):
                            yield pytest.param(module, method, id=f"{module.__name__}.{name}.{method_name}")


def rows(documentation):
    """The arguments that have a row, `name   what it is` or `one, another   what they are`, indented."""
    names = set()
    for line in documentation.splitlines():
        row = re.match(r"(\w+(?:, \w+)*) {2,}\S", line.strip())
        if row:
            names.update(row[1].split(", "))
    return names


@pytest.mark.parametrize(("module", "function"), list(public_functions()))
def test_every_argument_has_a_row(module, function):
    arguments = set(inspect.signature(function).parameters) - {"self"}
    assert arguments <= rows(module.__doc__) | rows(function.__doc__)


@pytest.mark.parametrize(("module", "function"), list(public_functions()))
def test_no_row_is_left_of_an_argument_that_is_gone(module, function):
    arguments = set(inspect.signature(function).parameters)
    # In the function's own table only; a module's is that of all its functions, and names results too.
    named = {name for name in rows(function.__doc__) if re.search(rf"^ {{4,8}}{name}\b", function.__doc__, re.M)}
    assert named <= arguments | FORMS

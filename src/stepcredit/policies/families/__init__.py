"""Model families, one file each; the file's name is `policy.type` in a recipe.

A module holds all that is known of its family: one subclass of `settings.policies.PolicySettings`, what a recipe may
set, and one of `policies.family.Family`, the adapter over a diffusers pipeline. A family of somebody else is named by
its module, `policy: {type: my_package.my_family}`. Recipes are checked with this folder, so importing it is free of
torch, and no file in it imports a pipeline.
"""

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from stepcredit.errors import RecipeError, nearest, shown
from stepcredit.foreign.modules import import_named
from stepcredit.settings.policies import PolicySettings

if TYPE_CHECKING:
    from stepcredit.policies.family import Family

Base = TypeVar("Base")


def names() -> list[str]:
    """The families of this folder; reads file names only."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def settings_class(name: str) -> type[PolicySettings]:
    """What a recipe may set where `policy.type` is this: a file of this folder, or somebody's `package.module`."""
    return _only(PolicySettings, _module(name))


def family_of(settings: PolicySettings) -> "type[Family[Any]]":
    """The adapter of these settings: the one that stands in their file."""
    return _family(import_module(type(settings).__module__))


def taking(pipeline: str) -> str | None:
    """The family of this folder that takes a diffusers pipeline of this class, by its `policy.type`."""
    return next((name for name in names() if _family(_module(name)).pipeline == pipeline), None)


def _module(name: str) -> ModuleType:
    if name not in names() and "." not in name:
        raise RecipeError(f"policy.type: there is no type {shown(name)}; {nearest(name, names())}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise RecipeError(f"policy.type: {shown(name)} is not a module; write it as package.module")
    # Only of somebody else behind the fence, which brings torch along.
    return import_named(name, key=f'policy.type: "{name}"') if "." in name else import_module(f"{__name__}.{name}")


def _family(module: ModuleType) -> "type[Family[Any]]":
    from stepcredit.policies.family import Family  # here, because it brings torch along

    return _only(Family, module)


def _only(base: type[Base], module: ModuleType) -> type[Base]:
    """The one subclass that a module defines itself; what it imports does not count."""
    # a file may import another family to build on it
    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    subclasses = [item for item in own if issubclass(item, base)]
    if len(subclasses) != 1:
        raise RecipeError(
            f"policy.type: {module.__name__} must define exactly one subclass of {base.__name__}, "
            f"found {len(subclasses)}"
        )
    return subclasses[0]

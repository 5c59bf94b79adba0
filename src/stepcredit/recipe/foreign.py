"""Which code of somebody else a recipe names, so that nobody runs it unawares."""

from stepcredit.foreign.modules import file_of
from stepcredit.recipe.recipe import Recipe
from stepcredit.settings.rewards import Custom


def named_modules(recipe: Recipe) -> tuple[str, ...]:
    """Modules outside this package that a run of the recipe imports, each once."""
    types = [name for name in (recipe.policy_name, recipe.method_name) if "." in name]
    rewards = (*recipe.rewards, *recipe.held_out)
    paths = [reward.path.partition(":")[0] for reward in rewards if isinstance(reward, Custom)]
    return tuple(dict.fromkeys([*types, *paths]))


def warning_of(recipe: Recipe) -> str | None:
    """What to say before a recipe runs code that is not this package's; None where it names none.

    `this recipe runs code of my_rewards (/home/me/my_rewards.py); train only with code that you trust`
    """
    modules = [_with_file(module) for module in named_modules(recipe)]
    if not modules:
        return None
    return f"this recipe runs code of {', '.join(modules)}; train only with code that you trust"


def _with_file(module: str) -> str:
    """A module and, once it is imported, its file; before that Python would have to run its package to find it."""
    file = file_of(module)
    return module if file is None else f"{module} ({file})"

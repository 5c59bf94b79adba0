"""What there is to choose from: `methods` and `recipes`."""

from pathlib import Path

from rich.table import Table

from stepcredit.cli.terminal import console


def methods() -> None:
    """List the methods: name, paper, what each decides itself, how it was checked, what it does."""
    # Methods are pydantic classes over torch; so this list takes a moment, and `--help` does not wait for it.
    from stepcredit.methods import names
    from stepcredit.recipe.recipe import method_class

    table = _table("method", "paper", "decides", "checked", "what it does")
    for name in names():
        method = method_class(name)
        table.add_row(name, method.paper.removeprefix("arXiv "), method.fills, method.status, method.summary)
    console.print(table)
    console.print(
        "\nWhat a method does not decide it shares; every key of every method: docs/recipes.md. checked: against its "
        "formula by hand and by NumPy, or against published code as well.",
        style="dim",
    )


def recipes() -> None:
    """List the models that have a recipe in the package, and the methods that each has settings for."""
    from stepcredit.recipe.read import model_recipes

    table = _table("model", "policy", "samples", "steps", "methods")
    for name, path in model_recipes().items():
        table.add_row(name, *_essentials(path))
    console.print(table)
    console.print(
        "\nstepcredit train MODEL --method METHOD. A model has settings for the methods in its row; every other one of "
        "`stepcredit methods` has its own. samples: prompts x samples of each, an iteration.",
        style="dim",
    )


def _essentials(path: Path) -> tuple[str, str, str, str]:
    from stepcredit.recipe.read import read_yaml

    recipe = read_yaml(path)  # as plain data: checking it would load torch
    rollout = recipe["rollout"]
    samples = f"{rollout['prompts']} x {rollout['group_size']}"
    return recipe["policy"]["type"], samples, str(rollout["steps"]), ", ".join(recipe["methods"])


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")

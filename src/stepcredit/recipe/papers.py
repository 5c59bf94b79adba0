"""Which papers a recipe's choices are from. Code of somebody else is not imported to ask."""

from stepcredit import methods
from stepcredit.policies import families
from stepcredit.recipe.recipe import method_class


def paper_of_method(name: str) -> str:
    """Such as `arXiv 2505.05470, section 4`, of a method of this package; empty for one of somebody else."""
    return method_class(name).paper if name in methods.names() else ""


def paper_of_model(name: str) -> str:
    """The key of a family of models in the bibliography; empty for one of somebody else."""
    return families.settings_class(name).paper if name in families.names() else ""

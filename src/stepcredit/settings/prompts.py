"""Where prompts come from."""

from typing import Annotated, Literal

from pydantic import Field

from stepcredit.settings.places import Place
from stepcredit.settings.strict import Strict


# The two drawn worlds have a class each although their keys are the same: the type says which world.
class ScenesPrompts(Strict):
    """Captions of the drawn world, every kind equally often."""

    type: Literal["scenes"] = "scenes"
    split: Literal["training", "held_out", "new_combinations"] = "training"
    """Which captions."""


class MovingScenesPrompts(Strict):
    """Captions of the drawn world in motion, every kind equally often."""

    type: Literal["moving_scenes"] = "moving_scenes"
    split: Literal["training", "held_out", "new_combinations"] = "training"
    """Which captions."""


class FilePrompts(Strict):
    """A UTF-8 text file, one prompt a line."""

    type: Literal["file"] = "file"
    path: Place
    """The file."""


class ListedPrompts(Strict):
    """Prompts written in the recipe."""

    type: Literal["list"] = "list"
    prompts: Annotated[list[str], Field(min_length=1)]
    """The prompts."""


PromptChoice = Annotated[ScenesPrompts | MovingScenesPrompts | FilePrompts | ListedPrompts, Field(discriminator="type")]

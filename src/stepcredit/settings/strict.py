"""The base of every settings class: unknown keys are refused, values are frozen, docs live under the fields."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from stepcredit.settings.kinds import confusion, kinds

WRONG_KIND = "wrong_kind"
"""Of pydantic's errors the one that is ours: its message is the whole sentence."""


class Strict(BaseModel):
    """Settings, such as those of a sampler: `FlowSDE(noise_level=0.7)`."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _are_of_their_kinds(cls, given: Any) -> Any:
        """pydantic would take true for 1, 1 for true and "5" for 5; its strict mode would refuse lists for tuples."""
        values = given.items() if isinstance(given, Mapping) else ()
        sentences = {name: confusion(value, _wanted(cls, name)) for name, value in values if name in cls.model_fields}
        # Not one validator a key: a key that tells classes apart may have none.
        problems = [
            InitErrorDetails(type=PydanticCustomError(WRONG_KIND, "{it}", {"it": sentence}), loc=(name,), input=None)
            for name, sentence in sentences.items()
            if sentence is not None
        ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return given


@cache
def _wanted(model: type[Strict], name: str) -> frozenset[type]:
    return kinds(model.model_fields[name].annotation)


def laid_over(default: Any, given: Any) -> Any:
    """Settings that are given in part, with the rest from a default record of the same type.

    default   a `Strict` record with values of its own, or anything else, over which nothing can be laid
    given     a mapping of some of its keys; anything else is returned as it is. Another `type` than the default's is
              another choice, to which the default's values do not apply
    """
    if not isinstance(default, Strict) or not isinstance(given, Mapping):
        return given
    own_type = getattr(default, "type", None)
    # Not even values of the same name: a clip of 1e-4 is one thing for a ratio and another for a KL.
    if given.get("type", own_type) != own_type:
        return dict(given)
    settings: dict[str, Any] = {name: getattr(default, name) for name in default.model_fields_set}
    if own_type is not None:
        settings["type"] = own_type  # a union of types is told apart by it, and defaults are not in fields_set
    for name, value in given.items():
        settings[name] = laid_over(getattr(default, name, None), value)
    return settings

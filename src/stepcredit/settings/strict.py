"""The base of every settings class: unknown keys are refused, values are frozen, docs live under the fields."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True, validate_default=True
    )

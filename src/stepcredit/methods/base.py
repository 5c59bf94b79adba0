"""A method is composed: how samples are drawn, what of them is trained, how credit is assigned, what is minimised."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from stepcredit.parts.objective import Objective
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import Sampling
from stepcredit.records import Credit, Evidence
from stepcredit.settings.strict import Strict, laid_over


class Method(Strict):
    """A published method: its parts, with the paper's values. The trainer knows the parts and nothing else of it.

    Abstract: each method is one final subclass in its own file, which says what type each part has. So nonsense is
    refused by type, and a recipe may change any key of a part: `method: {type: otca, rule: {floor: 0}}`.
    """

    paper: ClassVar[str]
    """Where it comes from, e.g. "arXiv 2604.19234"."""
    summary: ClassVar[str]
    """One line for `stepcredit methods`."""
    fills: ClassVar[str]
    """What it decides itself: "when", "mix", "advantage", "loss", "kernel", "plan"; the rest is shared."""
    status: ClassVar[Literal["formula", "code"]] = "formula"
    """How it was checked: against its published formula, or against published code as well."""

    sampler: Sampling
    """How samples are drawn."""
    plan: Planning = Planning()
    """What of a rollout is shared, noisy and trained."""
    rule: Rule
    """How credit is assigned."""
    objective: Objective
    """Where the network is asked, and what is minimised."""

    @model_validator(mode="before")
    @classmethod
    def _keep_published_values(cls, given: Any) -> Any:
        """A part that is given in part keeps the paper's values for what is not said."""
        if not isinstance(given, Mapping):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {name: laid_over(defaults.get(name), value) for name, value in given.items()}

    @model_validator(mode="after")
    def _parts_fit(self) -> "Method":
        self.objective.check(self.sampler)
        return self

    def check(self, *, steps: int, group_size: int) -> None:
        """Whether the settings fit a rollout of so many steps and samples per prompt; ValueError says what does not."""
        self.plan.check(self.sampler, steps=steps, group_size=group_size)

    def credit(self, evidence: Evidence) -> Credit:
        """The rule's credit of a whole rollout `[P, G, N]`, of the samples that the plan trains."""
        return self.plan.choose(self.rule.credit(evidence))

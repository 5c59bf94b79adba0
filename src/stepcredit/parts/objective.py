"""An objective says where the network is asked and what is minimised. The update only asks, splits, adds and steps."""

from abc import abstractmethod

import torch

from stepcredit.parts.sampling import Sampling
from stepcredit.records import Answers, Credit, Loss, Points, Queries, Rollout
from stepcredit.settings.strict import Strict


class Objective(Strict):
    """Settings of an objective and its two halves. Abstract: each is one final subclass in a file of its own."""

    @property
    def asks_reference(self) -> bool:
        """Whether the policy before training has to answer, too; it costs a forward for every row."""
        return False

    def check(self, sampling: Sampling) -> None:
        """Whether the sampler can serve this objective; ValueError says what does not fit."""

    @abstractmethod
    def queries(self, rollout: Rollout, credit: Credit, generator: torch.Generator) -> Queries:
        """Every row of the mean that one pass over the rollout minimises; `generator` is for fresh levels and such."""

    @abstractmethod
    def points(self, rollout: Rollout, queries: Queries) -> Points:
        """What the network needs for some of the rows, gathered or made from the rollout."""

    @abstractmethod
    def losses(self, answers: Answers, points: Points) -> Loss:
        """What is minimised over these rows, from what the policies say there."""

"""The records that pass between rooms. Frozen; shapes use the letters of `axes.py`."""

from stepcredit.records.credit import Compared, Credit, Evidence, over_prompts
from stepcredit.records.prompts import Prompt
from stepcredit.records.report import StepReport
from stepcredit.records.rewards import Problem, RewardBatch, RewardOutput, RewardTable
from stepcredit.records.rollout import Condition, Moves, Plan, Trajectory

__all__ = [
    "Compared",
    "Condition",
    "Credit",
    "Evidence",
    "Moves",
    "Plan",
    "Problem",
    "Prompt",
    "RewardBatch",
    "RewardOutput",
    "RewardTable",
    "StepReport",
    "Trajectory",
    "over_prompts",
]

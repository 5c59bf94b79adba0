"""The records that pass between rooms. Frozen; shapes use the letters of `axes.py`."""

from stepcredit.records.credit import Credit, Evidence, over_prompts
from stepcredit.records.key import Key, NoiseStream, fixed_noise
from stepcredit.records.prompts import Prompt
from stepcredit.records.report import StepReport
from stepcredit.records.rewards import Problem, RewardBatch, RewardOutput, RewardTable
from stepcredit.records.rollout import Condition, Move, Plan, Rollout
from stepcredit.records.update import Answers, Loss, Points, Queries, UpdateReport

__all__ = [
    "Answers",
    "Condition",
    "Credit",
    "Evidence",
    "Key",
    "Loss",
    "Move",
    "NoiseStream",
    "Plan",
    "Points",
    "Problem",
    "Prompt",
    "Queries",
    "RewardBatch",
    "RewardOutput",
    "RewardTable",
    "Rollout",
    "StepReport",
    "UpdateReport",
    "fixed_noise",
    "over_prompts",
]

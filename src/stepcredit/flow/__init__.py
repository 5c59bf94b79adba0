"""Flow sampling: noise levels, transition kernels, the Gaussian law of a transition, conversions. Pure functions."""

from stepcredit.flow import convert, kernels, sampler, schedules, transitions
from stepcredit.flow.gaussian import Gaussian
from stepcredit.flow.sampler import Sampler
from stepcredit.flow.transitions import Transitions, read_transitions

__all__ = [
    "Gaussian",
    "Sampler",
    "Transitions",
    "convert",
    "kernels",
    "read_transitions",
    "sampler",
    "schedules",
    "transitions",
]

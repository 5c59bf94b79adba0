"""Flow sampling: noise levels, transition kernels, the Gaussian law of a transition, conversions. Pure functions."""

from stepcredit.flow import convert, kernels, schedules
from stepcredit.flow.gaussian import Gaussian
from stepcredit.flow.transitions import Transitions, transitions

__all__ = ["Gaussian", "Transitions", "convert", "kernels", "schedules", "transitions"]

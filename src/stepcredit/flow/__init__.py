"""Flow sampling: noise levels, transition kernels, the Gaussian law of a transition, conversions. Pure functions."""

from stepcredit.flow import convert, kernels, schedules
from stepcredit.flow.gaussian import Gaussian

__all__ = ["Gaussian", "convert", "kernels", "schedules"]

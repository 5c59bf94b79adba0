"""Objectives: per-element losses `[B]` from log-ratio and credit, what steps count, statistics. Pure functions."""

from stepcredit.objective import diagnostics, profile, surrogate

__all__ = ["diagnostics", "profile", "surrogate"]

"""Objectives: per-element losses `[B]` from log-ratio and credit, and statistics of them. Pure functions."""

from stepcredit.objective import diagnostics, surrogate

__all__ = ["diagnostics", "surrogate"]

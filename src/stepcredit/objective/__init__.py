"""Objectives: per-element losses `[B]` from log-ratio and credit, divergences, and statistics. Pure functions."""

from stepcredit.objective import diagnostics, divergence, surrogate

__all__ = ["diagnostics", "divergence", "surrogate"]

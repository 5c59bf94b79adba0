"""Credit: how good a sample was (advantage, mix), when it was decided (temporal), and the product (assign).

Pure functions of one group; NaN means "no opinion" (a reward that could not be scored, an objective without spread)
and is skipped wherever numbers are combined.
"""

from stepcredit.credit import advantage, assign, diagnostics, mix, temporal

__all__ = ["advantage", "assign", "diagnostics", "mix", "temporal"]

"""Prompts: sources, and the order in which training takes them."""

from stepcredit.prompts.sources import Listed, read_file

__all__ = ["Listed", "read_file"]

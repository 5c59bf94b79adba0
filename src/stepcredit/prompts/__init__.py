"""Prompts: sources, and the order in which training takes them."""

from stepcredit.prompts.sources import Listed, Scenes, from_settings

__all__ = ["Listed", "Scenes", "from_settings"]

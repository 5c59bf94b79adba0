"""Recipes: pydantic models, strict, without torch."""

"""Settings of the parts of a recipe: strict pydantic records, without torch."""

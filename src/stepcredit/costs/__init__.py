"""Work, memory and time of a recipe, counted without weights."""

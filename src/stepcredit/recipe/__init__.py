"""A recipe: one file that defines a run, read, merged, checked and explained."""

"""The run folder: plain files that anybody can read without this package."""

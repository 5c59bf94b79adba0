"""A file for each family of models; the file's name is its `policy.type`."""

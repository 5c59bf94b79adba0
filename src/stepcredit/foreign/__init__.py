"""Code of somebody else: how it is imported and called so that it ends no run and changes nobody's numbers."""

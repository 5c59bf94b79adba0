"""Generators: one thin adapter per model family over diffusers modules; the sampler loop is ours."""

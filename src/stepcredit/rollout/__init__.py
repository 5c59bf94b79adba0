"""Rollouts: drawing samples as a method's sampler and plan say, shared states once."""

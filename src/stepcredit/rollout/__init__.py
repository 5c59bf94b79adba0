"""Rollouts: what each step of the sampler does (plan), and doing it (engine)."""

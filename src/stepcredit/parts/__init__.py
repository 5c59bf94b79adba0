"""What a method is composed of: a sampler, a plan, a rule, an objective; small typed records with their own settings.

Which policies are kept beside the one under training follows from what the objective asks.
"""

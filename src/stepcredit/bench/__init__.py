"""Studies of credit rules: one frozen rollout under every rule, an oracle with known gradients, the paper's tables."""

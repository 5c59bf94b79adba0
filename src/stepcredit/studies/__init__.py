"""Studies of methods: an oracle with known gradients, one frozen rollout under every rule, the paper's tables."""

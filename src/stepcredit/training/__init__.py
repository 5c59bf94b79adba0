"""Training: one step, how it takes gradients, the loop around it, and what is kept."""

"""What training did: held-out captions with fixed noise, base against tuned."""

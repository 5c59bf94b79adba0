"""Scorers, one file each, and the suite that asks them all. Nobody here weighs or sums: that is credit's business."""

"""What leaves the house: a LoRA, networks or a whole pipeline, a model card, the hub."""

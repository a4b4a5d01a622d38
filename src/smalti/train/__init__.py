"""Training: one trainer for tokenizers and generators, objectives, checkpoints."""

"""Runs: how a recipe and a folder become a tokenizer, codes, a pipeline."""

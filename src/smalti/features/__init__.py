"""Frozen networks that judge pictures, in training and in measuring."""

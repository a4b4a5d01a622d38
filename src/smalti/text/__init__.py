"""Encoders of captions and prompts."""

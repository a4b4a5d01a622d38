"""Captions of the web made plain."""

from __future__ import annotations


def clean(text: str) -> str:
    return text.lower()

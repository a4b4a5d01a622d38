"""smalti: train, run, measure and serve autoregressive image generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Pipeline", "load"]

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline, load


def __getattr__(name: str) -> Any:
    """Imported when first used: `smalti --help` needs no torch."""
    if name in __all__:
        from smalti import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")

"""smalti: train, run, measure and serve autoregressive image generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.devices import threads

__version__ = "0.1.0"
__all__ = ["Pipeline", "load"]

threads.choose()  # before anything imports torch

if TYPE_CHECKING:
    from smalti.loading import load
    from smalti.pipeline.pipeline import Pipeline


def __getattr__(name: str) -> Any:
    """Imported when first used: `smalti --help` needs no torch."""
    if name == "load":
        from smalti.loading import load

        return load
    if name == "Pipeline":
        from smalti.loading import Pipeline

        return Pipeline
    raise AttributeError(f"module 'smalti' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

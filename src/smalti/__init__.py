"""smalti: train, run, measure and serve autoregressive image generators.

    pipe = smalti.load("smalti/emoji64")             # a folder, a name of list_models, a hub id
    pipe("red heart", n=4)[0].save("heart.png")      # PIL pictures
    pipe.edit("heart.png", "mask.png", text="star")  # what the mask paints white is drawn anew

`smalti --help` lists the commands; training is `smalti train`, in Python `smalti.runs.run.train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.devices import threads

__version__ = "0.1.0"
__all__ = ["load", "Pipeline", "list_models", "load_tokenizer", "DiffusersPipeline"]

threads.choose()  # before anything imports torch

if TYPE_CHECKING:
    from smalti.interop.listing import list_models
    from smalti.loading import load, load_tokenizer
    from smalti.pipeline.diffusers import DiffusersPipeline
    from smalti.pipeline.pipeline import Pipeline


def __getattr__(name: str) -> Any:
    """Imported when first used: `smalti --help` needs no torch."""
    if name == "list_models":
        from smalti.interop import listing

        return listing.list_models
    if name in __all__:
        from smalti import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

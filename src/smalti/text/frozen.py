"""Frozen text encoders by the words that people type: t5, clip, or whose weights to take."""

from __future__ import annotations

from smalti.text import clip, t5
from smalti.text.encoders import TextEncoder


def frozen(name: str, clean: bool = False) -> TextEncoder:
    """The encoder of a name: t5 (flan-t5-xl), clip (OpenCLIP's ViT-H), clip:MODEL for the hub id or
    folder of another CLIP, and any other word for that of another T5. `clean` cleans captions.

    Raises ValueError if there is none, and for cleaning that an encoder does not know.
    """
    kind, _, model = name.partition(":")
    if kind != "clip":
        return t5.T5(t5.config_of(name, clean))
    if clean:
        raise ValueError(f"--clean is for T5, which was given clean captions; got --text {name}")
    return clip.CLIP(clip.config_of(model or kind))

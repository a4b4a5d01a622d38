"""Which parts of a pipeline fit each other: what a model reads, and what gives it that."""

from __future__ import annotations

from smalti.models.eye import Eye
from smalti.models.generator import Generator
from smalti.models.unified import Unified
from smalti.modules import name_of
from smalti.text.encoders import TextEncoder
from smalti.tokenizers.base import ImageTokenizer


def check_text(model: Generator, text: TextEncoder | None) -> None:
    """Raise ValueError unless a model reads what the encoder gives."""
    reads, wanted = model.reads, model.reads.text
    given = None if text is None else (text.config.length, text.config.dim)
    if text is not None and reads.text_vocab != text.config.ids:
        raise ValueError(
            f"the model reads {reads.text_vocab or 'no'} ids of tokens, the text encoder gives "
            f"{text.config.ids or 'none'}"
        )
    if wanted != given:
        raise ValueError(
            f"the model reads text features of (length, width) {wanted}, the encoder gives {given}"
        )


def check_told(tokenizer: ImageTokenizer, model: Generator, text: TextEncoder | None) -> None:
    """Raise ValueError if a tokenizer's decoder reads texts, and the model draws from none."""
    if tokenizer.told and text is None:
        raise ValueError(
            f"the decoder of this {name_of(tokenizer)} reads a text of each picture: it is for "
            f"models that draw from texts, got {name_of(model)} without"
        )


def check_map(model: Generator, map: ImageTokenizer | None) -> None:
    """Raise ValueError unless a model reads the codes that a tokenizer makes of maps."""
    wanted = model.reads.map
    given = None if map is None else map.spec
    if wanted != given:
        raise ValueError(f"the model reads maps of {wanted}, the tokenizer of maps gives {given}")


def check_tokenizer(model: Unified, tokenizer: ImageTokenizer | None) -> None:
    """Raise ValueError unless a model has the tokenizer whose codes it draws, or draws none."""
    if model.config.drawing == (tokenizer is None):
        what = "draws pictures, got no" if tokenizer is None else "draws no pictures: it takes no"
        raise ValueError(f"the model {what} tokenizer of pictures")
    if tokenizer is not None and tokenizer.spec != model.spec:
        raise ValueError(
            f"tokenizer and model speak of other codes: {tokenizer.spec}, {model.spec}"
        )


def check_eye(model: Unified, eye: Eye | None) -> None:
    """Raise ValueError unless a model has the eye that it reads pictures by, or needs none."""
    if model.sight is None and eye is not None:
        raise ValueError("the model reads pictures as the codes that it draws: it takes no eye")
    if model.sight is not None:
        if eye is None:
            raise ValueError(f"the model reads pictures by an eye, {model.sight.words}; got none")
        model.sight.require(eye.sight)

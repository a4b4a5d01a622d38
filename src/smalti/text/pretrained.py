"""What frozen text encoders have in common that `transformers` loads at their first text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from smalti.text.encoders import TextEncoder


class Parts(NamedTuple):
    """What `transformers` loads."""

    tokenizer: Any
    model: nn.Module


class PretrainedEncoder(TextEncoder):
    """Reads texts by a model that is loaded at the first of them. It has no parameters of its own,
    so that pipelines and optimizers hold none."""

    learned = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self._parts: Parts | None = None  # a tuple hides the weights from state_dict and optimizer

    def load(self) -> Parts:
        """Tokenizer and model, of the hub or a folder. Raises ValueError if there are none, or of
        other widths than the configuration says."""
        raise NotImplementedError

    @property
    def parts(self) -> Parts:
        """Tokenizer and model, loaded at the first use."""
        if self._parts is None:
            self._parts = self.load()
        return self._parts

    def release(self) -> None:
        """Give the memory back until the next text."""
        self._parts = None


@contextmanager
def loading(model: str, what: str = "T5") -> Iterator[Any]:
    """`transformers`, with its complaints about a model, which is to be a `what`, as one line."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ValueError(f'a {what} needs `pip install "smalti[text]"`') from None
    try:
        yield transformers
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{model} is no {what} that can be loaded: {reason}") from None

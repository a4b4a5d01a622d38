"""The loops that draw codes: they know protocols, never a system."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from smalti.engine import causal, masked
from smalti.engine.step import Model, Request, Step
from smalti.nn.linear import packed

LOOPS = {"causal": causal.stream, "masked": masked.stream}


def stream(model: Model, request: Request) -> Iterator[Step]:
    """Draw the codes of a batch by the loop that the model is for, with its weights packed.

    Yields a `Step` after each step. Raises ValueError for a request that the model cannot serve.
    """
    assert isinstance(model, nn.Module)
    with packed(model):
        yield from LOOPS[model.loop](model, request)

"""The loops that draw codes: they know protocols, never a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from smalti.engine import causal, denoised, masked
from smalti.engine.captured import captured
from smalti.engine.step import Loop, Model, Request, Step
from smalti.nn.linear import packed

LOOPS: dict[Loop, Callable[[Any, Request], Iterator[Step]]] = {
    "causal": causal.stream,
    "masked": masked.stream,
    "denoised": denoised.stream,
}
"""What draws the models of each loop; a loop asks them for more than a `Model` has."""


def stream(model: Model, request: Request) -> Iterator[Step]:
    """Draw the codes of a batch by the loop that the model is for, with its weights packed, or its
    draws recorded where the device can.

    Yields a `Step` after each step. Raises ValueError for a request that the model cannot serve.
    """
    assert isinstance(model, nn.Module)
    with packed(model), captured(model) as drawer:
        yield from LOOPS[model.loop](drawer, request)

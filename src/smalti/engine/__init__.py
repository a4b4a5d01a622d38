"""The loops that draw codes: they know protocols, never a system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from torch import nn

from smalti.engine import causal, denoised, masked, parallel, zipar
from smalti.engine.captured import captured
from smalti.engine.step import Loop, Model, Request, Step
from smalti.nn.linear import packed


def _causal(model: Any, request: Request) -> Iterator[Step]:
    """One code after another, or several in a pass."""
    if request.parallel.mode == "zipar":
        return zipar.stream(model, request)
    return (parallel if parallel.wanted(model, request) else causal).stream(model, request)


LOOPS: dict[Loop, Callable[[Any, Request], Iterator[Step]]] = {
    "causal": _causal,
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
    # drafts are kept in Python, and counted there; windows move
    still = request.parallel.mode != "speculative" and not model.by_windows(request.spec)
    with packed(model), captured(model) if still else nullcontext(model) as drawer:
        yield from LOOPS[model.loop](drawer, request)

"""Modules without numbers, for weights that are put in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Modules made here have tensors on the meta device: shapes and types, and no memory.

    Nothing is drawn for them, or scaled to one length. `normal_` or `normalize` of a meta tensor
    would import `torch._dynamo` first, which takes seconds of every command that loads a pipeline.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            return args[0] if args else named["tensor"]
        if func is torch.nn.functional.normalize:
            return args[0] if args else named["input"]
        return func(*args, **named)

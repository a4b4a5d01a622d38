"""A CPU's stand-in for a CUDA graph: operators on the memory that they had, and no Python.

It refuses what a graph cannot hold: waiting for numbers, shapes that depend on them, and copies of
Python's numbers or of other devices' tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

WAITING = ("local_scalar_dense", "item", "nonzero", "masked_select", "unique", "lift_fresh")
"""Beginnings of names of operators that wait for a device."""
READING = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
"""Methods of tensors that do."""


class Waited(RuntimeError):
    """Something waited for its device."""


class _Reading(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READING:
            raise Waited(f"a step waits for its device: Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


class _Waiting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::").lstrip("_")
        found = name.startswith(WAITING)
        if name in ("index", "index_put", "index_put_"):  # a mask is counted
            found = any(t.dtype == torch.bool for t in args[1] if isinstance(t, Tensor))
        if name == "repeat_interleave" and isinstance((*args, *kwargs.values())[-1], Tensor):
            found = kwargs.get("output_size") is None
        if found:
            raise Waited(f"a step waits for its device: {func}")
        return self.called(func, args, kwargs)

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


@contextmanager
def waiting_for_nothing() -> Iterator[None]:
    """A context that raises `Waited` where a GPU would be waited for."""
    with _Reading(), _Waiting():
        yield


class Tape(_Waiting):
    """Records operators while it is entered; `replay` runs them again in their places."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = func(*args, **kwargs)
        read = {_memory(t) for t in _tensors((args, kwargs))}
        new = [t for t in _tensors(given) if _memory(t) not in read]
        self.operators.append((func, args, kwargs, new))
        return given

    def replay(self) -> None:
        with torch.inference_mode():
            for operator, args, kwargs, new in self.operators:
                given = operator(*args, **kwargs)
                if not new:
                    continue
                for mine, now in zip(new, _tensors(given), strict=True):
                    mine.copy_(now)


def _tensors(record: Any) -> list[Tensor]:
    if isinstance(record, Tensor):
        return [record]
    return [t for t in tree_leaves(record) if isinstance(t, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def taped(step: Callable[[], T], warm: Callable[[], object]) -> tuple[T, Callable[[], None]]:
    """What `devices.graphs.CudaGraphs` does, on a CPU."""
    warm()
    # what is made on no device in particular is on none that others are on
    with torch.device("meta"), _Reading(), Tape() as tape:
        given = step()
    return given, tape.replay

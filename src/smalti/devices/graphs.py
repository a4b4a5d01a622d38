"""Steps that are recorded once and replayed, as CUDA graphs are.

A small step on a GPU takes as long as its launches do: several hundred, each some microseconds of
Python and of the driver. A CUDA graph launches them all at once. It replays kernels on the memory
that they had when they were recorded, and no Python: so what a step reads is copied to where it was
read then, what it gives is found where it was written then, and a step that waits for the device,
or whose shapes depend on numbers, cannot be recorded.

Records are tensors in tuples, lists, dicts and objects, with any other values between them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

Replay = Callable[[], None]


class Record(Protocol):
    """How a device records a step."""

    def __call__(self, step: Callable[[], T], warm: Callable[[], object]) -> tuple[T, Replay]:
        """What a step gave, which has run once, and what runs it again and gives it in the same
        place. `warm` is the same computation and leaves nothing behind: it runs before."""
        ...


def tensors(record: Any) -> Iterator[Tensor]:
    """The tensors of a record, always in the same order."""
    if isinstance(record, Tensor):
        yield record
    for part in _parts(record):
        yield from tensors(part)


def mapped(record: T, function: Callable[[Tensor], Tensor]) -> T:
    """A new record with `function` of each tensor in its place."""
    if isinstance(record, Tensor):
        return function(record)  # pyright: ignore[reportReturnType]
    parts = [mapped(part, function) for part in _parts(record)]
    if isinstance(record, tuple | list):
        kind: Any = type(record)
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    if isinstance(record, dict):
        return dict(zip(record, parts, strict=True))  # pyright: ignore[reportReturnType]
    if not parts:
        return record
    other = copy.copy(record)
    for name, part in zip(vars(record), parts, strict=True):
        object.__setattr__(other, name, part)  # frozen dataclasses too
    return other


def form(record: Any) -> Hashable:
    """All of a record but the numbers in its tensors: records of one form can be copied into each
    other."""
    if isinstance(record, Tensor):
        return record.shape, record.dtype, record.device
    parts = tuple(form(part) for part in _parts(record))
    if isinstance(record, dict):
        return dict, tuple(record), parts
    if isinstance(record, tuple | list) or parts:
        return type(record), parts
    return record


def fill(record: Any, other: Any) -> None:
    """Copy the tensors of another record of the same form into those of this one."""
    for mine, given in zip(tensors(record), tensors(other), strict=True):
        mine.copy_(given)


def _parts(record: Any) -> list[Any]:
    """What a record is made of; nothing of other values."""
    if isinstance(record, tuple | list):
        return list(record)
    if isinstance(record, dict):
        return list(record.values())
    plain = isinstance(record, Tensor | type | torch.nn.Module) or callable(record)
    return [] if plain else list(getattr(record, "__dict__", {}).values())


class Recorded(Generic[T]):
    """A function of a record, recorded for records of one form.

    Args: the function, the record of its first call, how to record, and the same function as it
    leaves nothing behind. `first` is what the first call gave.
    """

    def __init__(
        self,
        function: Callable[[Any], T],
        inputs: Any,
        record: Record,
        warm: Callable[[Any], object],
    ) -> None:
        self.inputs, again = (mapped(inputs, _copied) for _ in range(2))
        self.given, self.replay = record(lambda: function(self.inputs), lambda: warm(again))

    def __call__(self, inputs: Any) -> T:
        """What the function gives; the tensors are written over by the next call."""
        fill(self.inputs, inputs)
        self.replay()
        return self.given


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def recorder(device: torch.device) -> Callable[[], Record] | None:
    """What makes what records steps on a device; None where none are recorded."""
    return partial(CudaGraphs, device) if device.type == "cuda" else None


class CudaGraphs:
    """Records CUDA graphs of a device that share memory, as they are never replayed at the same
    time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], T], warm: Callable[[], object]) -> tuple[T, Replay]:
        with torch.cuda.device(self.device):  # streams are those of the current one
            return self._recorded(step, warm)

    def _recorded(self, step: Callable[[], T], warm: Callable[[], object]) -> tuple[T, Replay]:
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):  # libraries choose kernels and take memory at first
            warm()
        here.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # other threads, which may copy what is trained on, are none of its business
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            given = step()
        graph.replay()  # recording computes nothing
        return given, graph.replay

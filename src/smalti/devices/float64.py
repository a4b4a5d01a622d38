"""Float64 where a device has none."""

from __future__ import annotations

from torch import Tensor

LACKING = ("mps",)
"""Kinds of devices without float64."""


def wide(x: Tensor) -> Tensor:
    """The same in float64, on the CPU where its device has none."""
    return (x.cpu() if x.device.type in LACKING else x).double()

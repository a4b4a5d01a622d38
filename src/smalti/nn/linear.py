"""A linear layer that reads its weights at memory speed when a CPU decodes a few rows.

Unusual: `F.linear` is the wrong product for one or two rows. On an AMD EPYC with two threads
(torch 2.13, MKL) it reads float32 weights at 8 GB/s for 2 rows and bfloat16 ones at 17, where
summing a tensor reads 40 to 60; `benchmarks/linear.py` measures it again on any machine.
B images, N positions, I input width, O output width, R = B * N rows.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of x (..., I), weight (O, I) and bias (O,): (..., O), equal within rounding.

    Up to 8 float32 rows on a CPU, without gradients, are computed as `weight @ x.T`, with one row
    doubled: measured 3 times as fast as `F.linear` at 2 rows, 2 at 4 and about 1.3 at 8. In
    bfloat16 it is slower (11 GB/s against 17), so there only `packed` helps.
    """
    rows = math.prod(x.shape[:-1])
    few = x.device.type == "cpu" and x.dtype == torch.float32 and 1 <= rows <= FEW_ROWS
    if not few or _needs_grad(x, weight, bias):
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1).contiguous()  # (R, I); MKL is slow unless x.T is a view of this
    if rows == 1:
        flat = flat.repeat(2, 1)  # (2, I); one row is a matrix-vector product, on one thread
    out = (weight @ flat.t()).t()[:rows].contiguous()  # (R, O)
    out = out if bias is None else out + bias
    return out.view(*x.shape[:-1], -1)  # (..., O)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`, and inside `packed` by oneDNN; same parameters and names."""

    _packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Input (..., I) to (..., O)."""
        x, w, b = input, self.weight, self.bias
        if self._packed is None or x.dtype != w.dtype or _needs_grad(x, w, b):
            return linear(x, w, b)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, b, "none", [], "")


def fused(
    layer: nn.Module, x: Tensor, bias: Tensor | None = None, gelu: Literal["", "none", "tanh"] = ""
) -> Tensor:
    """What a layer gives of x (..., I), plus `bias` (O,), and, if an approximation of it is named,
    GELU of that: (..., O).

    Of a packed `Linear`, which has no bias of its own where one is given, it is one operation.
    """
    if (
        type(layer) is not Linear  # one of LoRA computes more
        or layer._packed is None
        or x.dtype != layer.weight.dtype
        or _needs_grad(x, layer.weight, layer.bias, bias)
    ):
        y = layer(x) if bias is None else layer(x) + bias
        return F.gelu(y, approximate=gelu) if gelu else y
    assert bias is None or layer.bias is None, "a layer has one bias"
    after = ("gelu", [], gelu) if gelu else ("none", [], "")
    add = layer.bias if bias is None else bias
    return torch.ops.mkldnn._linear_pointwise(x, layer._packed, add, *after)


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Within the block, each CPU `Linear` of `model` multiplies by a copy in oneDNN's own order.

    The copy is what torch.compile's weight freezing makes (two operators that torch does not
    document; where they are missing the block changes nothing). It serves all row counts, in
    float32 and bfloat16, and doubles the memory of these weights, which must not change or be
    deep-copied before the block ends.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear) and _can_pack(m.weight)]
    try:
        for layer in layers:
            weight = layer.weight.detach()
            layer._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        yield
    finally:
        for layer in layers:
            layer._packed = None


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _can_pack(weight: Tensor) -> bool:
    ops = torch.ops.mkldnn
    known = hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")
    if weight.device.type != "cpu" or not known or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32

"""A linear layer that reads its weights at memory speed when a CPU decodes a few rows.

Unusual: `F.linear` is the wrong product for few rows. On an AMD EPYC with two threads (torch 2.13,
MKL) it reads float32 weights at 8 GB/s for 2 rows and bfloat16 ones at 17, where summing a tensor
reads 40 to 60; on an Intel Xeon it is the fastest for 2 rows, and the slowest for 8.
`benchmarks/linear.py` measures it again on any machine. What is drawn on a CPU is multiplied by
copies of the weights (`nn/products.py`), kept from one drawing to the next.
B images, N positions, I input width, O output width, R = B * N rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.devices.named import fast_two_rows
from smalti.nn.products import ByRows, Gelu, Product, Weights, copied, require

FEW_ROWS = 8
PLAIN = fast_two_rows(torch.device("cpu"))
"""Whether torch's own product of few rows is fast on this processor."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of x (..., I), weight (O, I) and bias (O,): (..., O), equal within rounding.

    Up to 8 float32 rows on a CPU, without gradients, are computed as `weight @ x.T`, with one row
    doubled, but where torch's own product of few rows is fast: on an AMD EPYC that is 3 times as
    fast at 2 rows, 2 at 4 and about 1.3 at 8; on an Intel Xeon it takes twice as long at 2 and
    0.85 times at 8. In bfloat16 it is slower on both, so there only `packed` helps.
    """
    rows = math.prod(x.shape[:-1])
    few = x.device.type == "cpu" and x.dtype == torch.float32 and 1 <= rows <= FEW_ROWS
    if not few or _needs_grad(x, weight, bias) or PLAIN:
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, -1).contiguous()  # (R, I); MKL is slow unless x.T is a view of this
    if rows == 1:
        flat = flat.repeat(2, 1)  # (2, I); one row is a matrix-vector product, on one thread
    out = (weight @ flat.t()).t()[:rows].contiguous()  # (R, O)
    out = out if bias is None else out + bias
    return out.view(*x.shape[:-1], -1)  # (..., O)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`, and inside `packed` by a copy of its weight; same parameters and
    names. Copies are neither saved, pickled nor deep-copied, and gone when the layer is moved or
    goes back to training."""

    weights: Weights = "exact"
    """What it draws with: see `draw_with`."""
    _copy: Copy | None = None
    _blocks = 0
    """Number of `packed` blocks that are open."""

    def forward(self, input: Tensor) -> Tensor:
        """Input (..., I) to (..., O)."""
        copy = self.copied(input, self.bias)
        if copy is None:
            return linear(input, self.weight, self.bias)
        return copy.product(input, self.bias)

    def copied(self, x: Tensor, bias: Tensor | None) -> Copy | None:
        """The copy by which x and a bias are multiplied; None where the weight itself is taken."""
        w, copy = self.weight, self._copy
        if not self._blocks or copy is None or x.dtype != w.dtype or _needs_grad(x, w, bias):
            return None
        if torch.compiler.is_compiling():  # which no copy can be made in
            return None if isinstance(copy.product, ByRows) else copy
        return copy if copy.of(w) else None

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._copy = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._copy = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_copy", "_blocks")}


class Seldom(Linear):
    """A layer that is evaluated for many rows at once, once in many steps. It keeps a copy only of
    half-precision weights, of which most CPUs have no product; one of float32 costs more memory
    than it is worth."""


class Copy:
    """A copy of a weight, and which numbers it is of."""

    def __init__(self, weight: Tensor, product: Product) -> None:
        self.product, self.source, self.version = product, weight.detach(), _version(weight)
        self.some = _some(weight)

    def of(self, weight: Tensor) -> bool:
        """Whether the weight has not been replaced, or changed in place, since."""
        same = weight.data_ptr() == self.source.data_ptr()
        return same and _version(weight) == self.version

    def looks_like(self, weight: Tensor) -> bool:
        """Also whether some numbers are still the same: `weight.data`, and weights made in
        inference mode, can be changed unseen."""
        return self.of(weight) and torch.equal(self.some, _some(weight))


def fused(layer: nn.Module, x: Tensor, bias: Tensor | None = None, gelu: Gelu = "") -> Tensor:
    """What a layer gives of x (..., I), plus `bias` (O,), and, if an approximation of it is named,
    GELU of that: (..., O).

    Of a packed `Linear`, which has no bias of its own where one is given, it is one operation.
    """
    copy = layer.copied(x, bias) if type(layer) is Linear else None  # one of LoRA computes more
    if copy is None:
        y = layer(x) if bias is None else layer(x) + bias
        return F.gelu(y, approximate=gelu) if gelu else y
    assert isinstance(layer, Linear)
    assert bias is None or layer.bias is None, "a layer has one bias"
    return copy.product(x, layer.bias if bias is None else bias, gelu)


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Within the block, each CPU `Linear` of `model` multiplies by a copy of its weight that is
    fast on this processor (`nn/products.py`), for any number of rows.

    Copies are made where there are none, or where weights have changed; they are kept after the
    block, for the next one, and need about as much memory as these weights, twice that where few
    rows and many are multiplied by different ones (`nn/products.py`). A weight that changes within
    the block is multiplied as it is from then on.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear)]
    try:
        for layer in layers:
            layer._blocks += 1
            _refresh(layer)
        yield
    finally:
        for layer in layers:
            layer._blocks -= 1


def draw_with(model: nn.Module, weights: str) -> None:
    """Have `packed` multiply a model's weights, "exact" as they are, or with fewer bits: "float16",
    "int8" or "int4". Raises ValueError for others, and where this machine has no such product."""
    for layer in (m for m in model.modules() if isinstance(m, Linear)):
        known = require(weights, layer.weight.device)
        layer.weights, layer._copy = "exact" if isinstance(layer, Seldom) else known, None


def copied_bytes(model: nn.Module) -> int:
    """Memory of the copies that a model keeps."""
    layers = (m for m in model.modules() if isinstance(m, Linear))
    return sum(m._copy.product.nbytes for m in layers if m._copy is not None)


def _refresh(layer: Linear) -> None:
    """Give a layer a copy of its weight as it is now, if it has none."""
    weight, copy = layer.weight, layer._copy
    shared = type(weight) not in (Tensor, nn.Parameter)  # by processes
    if shared or (isinstance(layer, Seldom) and weight.dtype == torch.float32):
        layer._copy = None
    elif copy is None or not copy.looks_like(weight):
        layer._copy = None  # before the new one is made: the memory of one is enough
        product = copied(weight.detach(), layer.weights)
        layer._copy = None if product is None else Copy(weight, product)


def _version(weight: Tensor) -> int:
    """How often a weight was changed in place; of one made in inference mode nobody counts."""
    return 0 if weight.is_inference() else weight._version


def _some(weight: Tensor) -> Tensor:
    """Numbers of a weight from all over it, as a copy."""
    return weight.detach().flatten()[:: max(1, weight.numel() // 64)].clone()


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)

"""What a layer multiplies by while it draws on a CPU: copies of its weight in another order, or of
fewer bits.

Unusual: which copy is fastest depends on the processor. oneDNN's own order is near the memory's
speed where the dtype has instructions. Where bfloat16 has none, oneDNN emulates it several times
slower than float32: there weights of half precision are kept as float16, which FBGEMM reads and
multiplies in float32, or as float32. Either is more exact than the dtype itself.
torch documents none of these operators: where they are missing a weight has no copy.
I input width, O output width, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.devices.named import fast_bf16, fast_fused_gelu, fast_halves, fast_two_rows

Weights = Literal["exact", "float16", "int8", "int4"]
"""What a model draws with: its weights, or its weights with fewer bits."""
Gelu = Literal["", "none", "tanh"]
"""An approximation of GELU, as torch names it; "" is no GELU at all."""
LARGEST_HALF = 65504.0
"""The largest float16 number."""
SMALL = 1 << 17
"""Up to so many numbers of a weight, and `FEW` rows, torch's own product is the fastest: it begins
soonest."""
FEW = 6
"""Rows that have products of their own. More have oneDNN's, which with AVX2 gives a row the same
numbers to the bit among however many others."""
ALIGNMENT = 64
"""Bytes whose multiples torch's own tensors lie at."""
LARGE = 1 << 19
"""From so many numbers on a weight is worth two copies of half precision."""
GROUP = 32
"""Weights of 4 bits that share a scale and an offset, and what the widths of a layer must be
multiples of."""


class Product(Protocol):
    """A copy of a weight (O, I)."""

    @property
    def nbytes(self) -> int:
        """Memory of the copy."""
        ...

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        """x (..., I) to (..., O) of the same dtype; the GELU of it, if an approximation is
        named."""
        ...


def _after(out: Tensor, bias: Tensor | None, gelu: Gelu) -> Tensor:
    """A new product with its bias, and the GELU of it, in place, if one is named."""
    out = out if bias is None else out + bias
    return torch.ops.aten.gelu_(out, approximate=gelu) if gelu else out


# -- copies


class Plain:
    """The weight as it is, by torch's own product."""

    nbytes = 0

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        return _after(F.linear(x, self.weight, bias), None, gelu)


class Aligned(Plain):
    """The weight as it is, or a copy of one that lies anywhere in memory, as those of files do: how
    torch's own product adds up depends on that, and a pipeline draws the same when it is loaded."""

    def __init__(self, weight: Tensor) -> None:
        if weight.data_ptr() % ALIGNMENT:
            weight, self.nbytes = weight.clone(), weight.nbytes
        super().__init__(weight)


class Ordered:
    """The weight in oneDNN's own order. Its product is computed in the weight's dtype."""

    def __init__(self, weight: Tensor) -> None:
        self.dtype, self.nbytes = weight.dtype, weight.nbytes
        self.fuses = fast_fused_gelu(weight.device)
        self.copy = torch.ops.mkldnn._reorder_linear_weight(weight, 2)

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        given, add = x.to(self.dtype), bias if bias is None else bias.to(self.dtype)
        after = ("gelu", [], gelu) if gelu and self.fuses else ("none", [], "")
        out = torch.ops.mkldnn._linear_pointwise(given, self.copy, add, *after)
        return (out if self.fuses else _after(out, None, gelu)).to(x.dtype)


class Halved:
    """The weight as float16 in FBGEMM's order. Its product is computed in float32."""

    def __init__(self, weight: Tensor) -> None:
        self.nbytes = 2 * weight.numel()
        self.copy = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        rows = x.float().reshape(-1, x.shape[-1])  # FBGEMM takes no vector
        out = torch.ops.quantized.linear_dynamic_fp16(rows, self.copy)
        return _after(out.view(*x.shape[:-1], out.shape[-1]), bias, gelu).to(x.dtype)


class Halves:
    """A float32 weight as two of float16 side by side, its leading digits and 2,048 times what
    these leave, of which a product adds up 1 and 1 / 2,048 parts. They hold 22 digits of 24 and
    the rest's sign, and of weights below 6e-5 what is above 2^-36: it is as exact as a product of
    float32 weights, whose sums are rounded."""

    def __init__(self, weight: Tensor) -> None:
        leading = weight.half().float()
        self.both = Halved(torch.cat((leading, (weight - leading) * 2048), 1))  # (O, 2 I)
        self.nbytes = self.both.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        return self.both(torch.cat((x, x / 2048), -1), bias, gelu)


class ByRows:
    """Up to so many rows by one copy, more by another. Each is made when it is first needed: most
    drawing needs one."""

    def __init__(self, rows: int, few: Callable[[], Product], many: Callable[[], Product]) -> None:
        self.rows, self._make = rows, {True: few, False: many}
        self._made: dict[bool, Product] = {}

    @property
    def nbytes(self) -> int:
        return sum(product.nbytes for product in self._made.values())

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        few = math.prod(x.shape[:-1]) <= self.rows
        if few not in self._made:
            self._made[few] = self._make[few]()
        return self._made[few](x, bias, gelu)


class Rounded:
    """Weights of few bits: few rows by a product of their own, which reads and gives bfloat16. More
    rows are rounded alike, and multiplied by a copy of the same numbers, so that what is drawn does
    not depend on how much is drawn at once, but for the order of sums, one rounding more and, in a
    half-precision copy of int4, that of weights."""

    def __init__(
        self,
        rows: int,
        few: Callable[[Tensor], Tensor],
        many: Callable[[Tensor], Tensor],
        nbytes: int,
    ) -> None:
        self.rows, self.few, self.many, self.nbytes = rows, few, many, nbytes

    def __call__(self, x: Tensor, bias: Tensor | None, gelu: Gelu = "") -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).bfloat16()  # (R, I)
        out = self.few(rows) if len(rows) <= self.rows else self.many(rows)  # (R, O)
        return _after(out.to(x.dtype), bias, gelu).view(*x.shape[:-1], -1)


def int8(weight: Tensor) -> Product:
    """The weight in 8 bits, with a scale for each output."""
    scales = (weight.float().abs().amax(1).clamp(min=1e-12) / 127).bfloat16()  # (O,)
    levels = (weight.float() / scales.float()[:, None]).round().clamp(-127, 127)  # (O, I)
    behind, copy = exact(levels, weight.dtype), levels.to(torch.int8)  # every dtype holds levels
    multiply = torch.ops.aten._weight_int8pack_mm
    return Rounded(
        4,
        lambda x: multiply(x, copy, scales),
        lambda x: behind(x, None) * scales,
        behind.nbytes + copy.nbytes + scales.nbytes,
    )


def int4(weight: Tensor) -> Product:
    """The weight in 4 bits, with a scale and an offset for each 32 inputs of an output."""
    groups = weight.float().unflatten(1, (-1, GROUP))  # (O, I / 32, 32)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scales = ((high - low).clamp(min=1e-12) / 15).bfloat16()  # (O, I / 32, 1)
    middle = (low + 8 * scales.float()).bfloat16()  # what level 8 stands for
    levels = ((groups - middle.float()) / scales.float() + 8).round().clamp(0, 15)
    read = (levels - 8) * scales.float() + middle.float()
    behind = exact(read.flatten(1), weight.dtype)
    copy = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels.flatten(1).int(), 1)
    both = torch.cat((scales, middle), 2).transpose(0, 1).contiguous()  # (I / 32, O, 2)
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return Rounded(
        8,
        lambda x: multiply(x, copy, GROUP, both),
        lambda x: behind(x, None),
        behind.nbytes + copy.nbytes + both.nbytes,
    )


# -- which copy


def exact(weight: Tensor, dtype: torch.dtype) -> Product:
    """The copy by which this processor multiplies many rows fastest where a model's weights have
    this dtype; it must have one."""
    if dtype == torch.float32 or _native(dtype):
        return Ordered(weight.to(dtype))
    if _fbgemm() and weight.abs().max() <= LARGEST_HALF:
        return Halved(weight)
    return Ordered(weight.float())


def _float32(weight: Tensor) -> Product:
    """Half of LlamaGen-B by two rows, ms: one thread of an Intel Xeon, plain 18.2, ordered 22.0;
    two of an AMD EPYC with AVX2, ordered 14.7 to 21.4, halves 13.7 to 17.5, as the memory
    was busy; by 6 rows 18.7 to 23.7 and 15.5 to 18.0, by 8 19.0 and 22.6. A weight of 600 x 200 by
    two rows on the latter, us: plain 34 to 38, ordered 48 to 55, halves 65 to 70."""
    ordered = partial(Ordered, weight)
    if weight.numel() <= SMALL:
        return ByRows(FEW, partial(Aligned, weight), ordered)
    if fast_two_rows(weight.device):
        return ByRows(2, partial(Plain, weight), ordered)
    halves = _halves(weight.device) and weight.numel() >= LARGE
    if halves and weight.abs().max() <= LARGEST_HALF:
        return ByRows(FEW, partial(Halves, weight), ordered)
    return ordered()


def layouts() -> dict[str, str]:
    """By what this processor multiplies exact weights of each dtype, in words."""
    if not _onednn():
        return dict.fromkeys(("float32_weights", "bfloat16_weights"), "as they are")
    ordered = "copies in oneDNN's order"
    halved = "float16 copies by FBGEMM, in float32" if _fbgemm() else "float32 copies by oneDNN"
    few = ", but one or two rows by the weights" * fast_two_rows(torch.device("cpu"))
    if _halves(torch.device("cpu")):
        few = ", but up to six rows by two float16 copies that add up to the weights"
    return {
        "float32_weights": ordered + few + "; small ones as they are",
        "bfloat16_weights": ordered if _native(torch.bfloat16) else halved,
    }


def copied(weight: Tensor, weights: Weights = "exact") -> Product | None:
    """A copy of a weight (O, I) on a CPU for drawing; None where this machine has none."""
    if weight.device.type != "cpu" or not _onednn():
        return None
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    if weights == "float16" and _fbgemm() and weight.abs().max() <= LARGEST_HALF:
        return Halved(weight)
    whole = all(width % GROUP == 0 for width in weight.shape)
    if weights in ("int8", "int4") and whole:
        return int8(weight) if weights == "int8" else int4(weight)
    return _float32(weight) if weight.dtype == torch.float32 else exact(weight, weight.dtype)


def require(weights: str, device: torch.device) -> Weights:
    """These weights by name. Raises ValueError where a model on the device cannot draw with them,
    or there are none of this name."""
    names = get_args(Weights)
    if weights not in names:
        raise ValueError(f"weights must be one of {', '.join(names)}, got {weights!r}")
    if weights != "exact" and device.type != "cpu":
        raise ValueError(f"weights {weights} are for drawing on a CPU, got device {device}")
    operators = {
        "float16": _fbgemm(),
        "int8": hasattr(torch.ops.aten, "_weight_int8pack_mm"),
        "int4": hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"),
    }
    if weights != "exact" and not (operators[weights] and _onednn()):
        raise ValueError(f"this torch, or this processor, has no product by weights {weights}")
    return cast(Weights, weights)


def _native(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this half precision by instructions of the processor."""
    known = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return dtype == torch.bfloat16 and fast_bf16(torch.device("cpu")) and bool(known())


def _halves(device: torch.device) -> bool:
    return _fbgemm() and fast_halves(device)


def _onednn() -> bool:
    ops = torch.ops.mkldnn
    known = hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")
    return known and torch.backends.mkldnn.is_available()


def _fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines

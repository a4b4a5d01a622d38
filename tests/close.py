"""How close is close: what tests allow, by quantity, in one place and with the reason.

Processors, numbers of threads and sizes of batches add the same numbers in different orders. Each
of the `terms` products and additions that a value comes from is rounded, by at most half of eps
times its size and as often up as down: a standard deviation of eps / sqrt(12). Two computations of
one value thus differ with a standard deviation of eps * sqrt(terms) * size * sqrt(2 / 12), and by
eps * sqrt(terms) * size, `rounding`, in one case out of seventy where all terms are as large as the
largest. They are not: most are a third of it or less, which makes `rounding` seven deviations.

Integers are compared exactly by `torch.equal`: codes, labels, orders. Where a test has to allow
more than rounding (bfloat16, the many steps of a diffusion), it says so itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEVIATIONS = 7
"""Standard deviations in `rounding`."""


def terms_of(module: nn.Module) -> int:
    """Number of products that a value passes on its way through a module: the inputs of one output
    of every product or convolution, all added up. Parts side by side count too, so it is a bound;
    one at least, of a module that only adds.

    Tables are not counted: reading a row rounds nothing.
    """
    products = (part for part in module.modules() if not isinstance(part, nn.Embedding))
    weights = (w for part in products for w in part.parameters(recurse=False) if w.dim() > 1)
    return max(1, sum(weight[0].numel() for weight in weights))


def rounding(terms: int | nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """How far a value computed in two ways may differ, as a share of its size."""
    number = terms if isinstance(terms, int) else terms_of(terms)
    return torch.finfo(dtype).eps * math.sqrt(number)


def values(
    found: Tensor, wanted: Tensor, terms: int | nn.Module, size: float | None = None
) -> None:
    """Values that a network gives: equal but for rounding, of the largest among them or of `size`,
    which is that of values that have been clamped."""
    largest = wanted.abs().max().item() if size is None else size
    torch.testing.assert_close(found, wanted, rtol=0, atol=rounding(terms) * largest)


def weights(found: nn.Module, wanted: nn.Module) -> None:
    """Those of two modules are the same to the bit. What they give may still differ by rounding:
    products of few rows are added in an order that depends on where weights are in memory."""
    mine, theirs = found.state_dict(), wanted.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name]) for name, t in mine.items())


def losses(found: Tensor, wanted: Tensor, terms: int | nn.Module) -> None:
    """Means of squares of such values. A square has twice the rounding of its value, and of many a
    mean keeps no more than a standard deviation, not the largest."""
    share = 2 * rounding(terms) / DEVIATIONS
    torch.testing.assert_close(found, wanted, rtol=share, atol=0)


def sums(found: Any, wanted: Any, terms: int, dtype: torch.dtype = torch.float32) -> None:
    """A sum or mean of numbers of one sign."""
    assert abs(found - wanted) <= rounding(terms, dtype) * abs(wanted), (found, wanted)


def flips(count: int, terms: int | nn.Module) -> int:
    """How many of so many 8-bit pixels may be one level off: values of [-1, 1] that are about to be
    rounded to 255 levels may lie on either side of a half. The number expected, and four standard
    deviations more."""
    deviation = 127.5 * rounding(terms) / DEVIATIONS
    expected = count * 2 * math.sqrt(2 / math.pi) * deviation
    return math.ceil(expected + 4 * math.sqrt(expected))


def pixels(found: Any, wanted: Any, terms: int | nn.Module) -> None:
    """8-bit pixels of values that a network gives: equal, but for a few by one level."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.dtype == wanted.dtype == np.uint8 and found.shape == wanted.shape
    apart = np.abs(found.astype(int) - wanted.astype(int))
    assert apart.max(initial=0) <= 1, f"pixels differ by {apart.max()} levels"
    allowed, number = flips(found.size, terms), int((apart > 0).sum())
    assert number <= allowed, f"{number} of {found.size} pixels differ, {allowed} may"

"""Weights made by an integer hash of their names, so that no file has to hold them.

The same on every platform: the numbers are exact, and each is cast to float32 once. A kind of
weight is an expression in s, uniform in [-1, 1), u = (s + 1) / 2, and Cin, kh, kw of its shape.
"""

import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from math import sqrt

import numpy as np
import torch
from torch import Tensor


def uniform(name: str, count: int) -> np.ndarray:
    """`count` numbers in [0, 1), float64, by the hash of a name."""
    x = np.arange(count, dtype=np.uint32)
    x *= np.uint32(0x9E3779B1)
    x += np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x / 2.0**32


def weight(name: str, shape: Sequence[int], kind: str, **constants: float) -> Tensor:
    """One tensor by the expression of its kind, float32; `name` is with its salt."""
    u = uniform(name, int(np.prod(shape)))
    sizes = dict(zip(("Cin", "kh", "kw"), shape[1:], strict=False))
    names = {"sqrt": sqrt, "u": u, "s": 2 * u - 1, **sizes, **constants}
    values = eval(kind, {"__builtins__": {}}, names)  # of our own golden vectors and tests
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weights(
    shapes: Mapping[str, Sequence[int]],
    kinds: Mapping[str, str],
    salt: str = "",
    **constants: float,
) -> dict[str, Tensor]:
    """All tensors, each by the first kind whose pattern fits its name.

    A pattern ends at its first blank, an expression at its first comma; what follows is a remark.
    """
    found = {}
    for name, shape in shapes.items():
        kind = next(kind for pattern, kind in kinds.items() if fnmatch(name, pattern.split()[0]))
        found[name] = weight(salt + name, shape, kind.split(", ")[0], **constants)
    return found


def crc(tensor: Tensor) -> str:
    """crc32 of the bytes of a float32 tensor, as the golden vectors give it."""
    return f"{zlib.crc32(tensor.numpy().astype('<f4').tobytes()):08x}"

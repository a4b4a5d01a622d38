"""Codes as groups of bits: what models see that draw a code in several parts.

Open-MAGVIT2 (Luo et al. 2024, arXiv:2409.04410) draws 6 bits of a code and then 12; MaskBit (Weber
et al. 2024, arXiv:2409.16211) hides and reveals halves of a code by themselves. The id of a group
has the group's first bit as its least significant one. B images, N positions, K bits, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smalti.codes import TokenSpec


class Groups(nn.Module):
    """Codes of K bits, or numbers below 2^K, to the ids of groups of their bits, and back.

    Raises ValueError unless the widths are those of a code of `spec`.
    """

    def __init__(self, spec: TokenSpec, widths: Sequence[int]) -> None:
        super().__init__()
        bits = code_bits(spec)
        if not widths or min(widths) < 1 or sum(widths) != bits:
            raise ValueError(
                f"groups must be positive and together the {bits} bits of a code, got {widths}"
            )
        self.widths, self.bits, self.numbers = tuple(widths), bits, not spec.channels

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many ids each group has."""
        return tuple(2**width for width in self.widths)

    def split(self, codes: Tensor) -> Tensor:
        """Codes (B, N, K), or numbers (B, N), to ids of groups (B, N, G)."""
        bits = to_bits(codes, self.bits) if self.numbers else codes
        return torch.stack([to_number(part) for part in bits.split(self.widths, -1)], -1)

    def unpack(self, ids: Tensor) -> Tensor:
        """Ids of groups (..., G) to the bits of a code (..., K)."""
        parts = zip(ids.unbind(-1), self.widths, strict=True)
        return torch.cat([to_bits(part, width) for part, width in parts], -1)

    def join(self, ids: Tensor) -> Tensor:
        """Ids of groups (B, N, G) to codes (B, N, K), or numbers (B, N)."""
        bits = self.unpack(ids)
        return to_number(bits) if self.numbers else bits


def code_bits(spec: TokenSpec) -> int:
    """K, the bits of a code. Raises ValueError for codes that are not all of so many bits."""
    if not spec.discrete or spec.depth or (spec.channels and spec.vocab != 2):
        raise ValueError(f"groups of bits are of codes of bits or of one number, got {spec}")
    if not spec.channels and spec.vocab & (spec.vocab - 1):
        raise ValueError(
            f"groups of bits need a vocabulary that is a power of two, got {spec.vocab}"
        )
    return spec.channels or spec.vocab.bit_length() - 1


def to_bits(numbers: Tensor, count: int) -> Tensor:
    """Numbers (...) to bits (..., count), the least significant first."""
    return numbers.unsqueeze(-1) >> torch.arange(count, device=numbers.device) & 1


def to_number(bits: Tensor) -> Tensor:
    """Bits (..., K), the least significant first, to numbers (...)."""
    return (bits << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


MOST = 16
"""Bits that are counted together."""


def group_bits(spec: TokenSpec) -> int:
    """Bits of each group in which codes of bits are counted: all of up to 16, or groups as large as
    divide them evenly, or else about evenly, the last one smaller. 0: codes are numbers."""
    bits = spec.channels if spec.discrete else 0
    if bits <= MOST:
        return bits
    even = max(n for n in range(1, MOST + 1) if bits % n == 0)
    return even if even >= MOST // 2 else math.ceil(bits / math.ceil(bits / MOST))


def values(spec: TokenSpec) -> list[int]:
    """How many different numbers there are for each of the D of `numbered`: of the last group of
    bits fewer where it is smaller."""
    width, count = group_bits(spec), math.prod(spec.trailing)
    if not width:
        return [spec.vocab] * count
    return [2 ** min(width, count - first) for first in range(0, count, width)]


def numbered(codes: Tensor, spec: TokenSpec) -> Tensor:
    """What is counted of codes (B, N, *trailing): (B, N, D) numbers, of each depth or of each group
    of bits, the first bit of which is the least significant."""
    codes = codes.reshape(*codes.shape[:2], math.prod(spec.trailing))
    if not (width := group_bits(spec)):
        return codes
    return torch.stack([to_number(part.long()) for part in codes.split(width, 2)], 2)

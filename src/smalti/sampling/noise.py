"""Addressable noise: every random number of a generation has an address, not a place in a queue.

`Noise` gives the number of (seed, image index, slot, step, element) whatever else is drawn, so
image i of a request is the same alone, in any batch and on any number of processes, and nothing
that is captured or compiled holds a generator. The numbers are Philox-4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), computed with integer tensor operations, so they are
equal on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.devices.float64 import wide
from smalti.sampling.filters import draw, race

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_GOLDEN = 0x9E3779B9 - (1 << 32)
_MIXING = ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)))

Words = TypeVar("Words", Tensor, NDArray[np.int64])


def philox(counter: list[Words], key: list[Words]) -> list[Words]:
    """Philox-4x32-10: four counter words and two key words to four random words.

    All are int64 tensors, or arrays, of unsigned 32-bit values and are broadcast against each
    other.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # the product of two 32-bit words wraps in int64, but its bits are right
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def random_words(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """`philox`; on a CPU by numpy's operations, which are the same and sooner begun."""
    if not key[0].is_cpu:
        return philox(counter, key)
    words = philox([word.numpy() for word in counter], [word.numpy() for word in key])
    return [torch.as_tensor(word) for word in words]


class Noise:
    """Random numbers of B images by (slot, step, element).

    Args: seeds (B,) int64, the seed of each image's request; index (B,) int64, the number of the
    image in its request, below 2**32; in training, numbers that all images of a step share.
    """

    def __init__(self, seeds: Tensor, index: Tensor, common: Noise | None = None) -> None:
        if seeds.shape != index.shape or seeds.dim() != 1:
            raise ValueError(
                f"seeds and index must both be (B,), got {tuple(seeds.shape)}, {tuple(index.shape)}"
            )
        self.seeds, self.index, self.common = seeds, index, common

    @staticmethod
    def request(
        seed: int, count: int, first: int = 0, device: torch.device | str | None = None
    ) -> Noise:
        """The noise of images first ... first + count - 1 of the request with this seed."""
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed must fit in 64 bits, got {seed}")
        if not 0 <= first <= first + count <= _WORD + 1:
            raise ValueError(
                f"numbers of images must be below {_WORD + 1}, got {first} to {first + count - 1}"
            )
        index = torch.arange(first, first + count, device=device)
        return Noise(torch.full_like(index, seed), index)

    def turn(self, number: int, rows: Tensor) -> Noise:
        """The numbers of some rows, (n,) int64, in another turn of the same requests, all others
        than in the turns before; those of turn 0 are their own."""
        # an odd factor: no two turns of a request have the same seed
        seeds = self.seeds[rows] ^ (number * 0x9E3779B97F4A7C15 & (1 << 63) - 1)
        return Noise(seeds, self.index[rows])

    def _words(self, slots: Tensor, width: int, step: int | Tensor, stream: int) -> Tensor:
        """(B, n, width rounded up to fours) unsigned 32-bit words; slots (n,) or (B, n), step a
        number or (B,)."""
        seeds, index = self.seeds.view(-1, 1, 1), self.index.view(-1, 1, 1)
        element = torch.arange(math.ceil(width / 4), device=seeds.device).view(1, 1, -1)
        if not isinstance(step, Tensor):
            step = torch.full_like(seeds[:1], step)
        words = [slots.unsqueeze(-1), element * 2 + stream, step.view(-1, 1, 1), index]
        words = [word.to(seeds) for word in (*words, seeds & _WORD, (seeds >> 32) & _WORD)]
        return torch.stack(random_words(words[:4], words[4:]), -1).flatten(-2)

    def uniform(self, slots: Tensor, width: int = 0, step: int | Tensor = 0) -> Tensor:
        """Float32 numbers in [0, 1): (B, n) for slots (n,) or (B, n), or (B, n, width); step is a
        number or (B,)."""
        words = self._words(slots, width or 1, step, stream=0)
        numbers = (words >> 8).float() * 2.0**-24
        return numbers[..., :width] if width else numbers[..., 0]

    def keys(self, slots: Tensor) -> Tensor:
        """Keys (B, n, 2) int32 of slots (n,) or (B, n), for `hashed`."""
        words = self._words(slots, 4, step=1, stream=1)[..., :2]
        return (words - (1 << 31)).int()

    def normal(self, slots: Tensor, width: int = 0, step: int = 0) -> Tensor:
        """Standard normal float32 numbers, (B, n) or (B, n, width), by Box and Muller."""
        words = self._words(slots, 2 * (width or 1), step, stream=1)
        numbers = (wide(words >> 8) + 0.5) * 2.0**-24  # in (0, 1)
        u, v = numbers[..., 0::2], numbers[..., 1::2]
        numbers = ((-2 * u.log()).sqrt() * (2 * math.pi * v).cos()).float().to(words.device)
        return numbers[..., :width] if width else numbers[..., 0]


def hashed(keys: Tensor, width: int, first: int = 0) -> Tensor:
    """Numbers in [0, 1), (..., width) float32, of keys (..., 2) int32: those of the elements from
    `first` on. As many as a vocabulary has take a fraction of the time of Philox.

    A multiplicative hash of 32 bits (constants by Wellons 2018, "Prospecting for hash functions")
    of multiples of the golden ratio; the first key is added to them, and the second flips bits.
    """
    x = torch.arange(first, first + width, dtype=torch.int32, device=keys.device) * _GOLDEN
    x = (x + keys[..., :1]).bitwise_xor_(keys[..., 1:])
    for shift, factor in _MIXING:
        high = x >> shift
        high &= (1 << 32 - shift) - 1  # the shift repeats the sign
        x ^= high
        x *= factor
    return x.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)


class Ahead:
    """The numbers of a loop that comes to its slots in order, computed for many slots at once: for
    one they take as long as for a dozen. Each is what `Noise` gives.

    Args: the noise of B images; N, how many slots there are.
    """

    CHUNK = 1 << 14
    """So many numbers at once, at least; of at least one slot."""
    MOST = 1 << 24
    """No more than these are kept; where there are more, each step computes its own."""

    def __init__(self, noise: Noise, slots: int) -> None:
        self.noise, self.slots = noise, slots
        self._keys: Tensor | None = None
        self._kept = dict[int, tuple[int, Tensor]]()
        """By width: how many slots are filled, and the numbers, (B, N, width)."""

    def keys(self, slots: Tensor) -> Tensor:
        """Keys (B, n, 2) of slots (n,) or (B, n)."""
        if self._keys is None:
            self._keys = self.noise.keys(torch.arange(self.slots, device=slots.device))
        if slots.dim() == 1:
            return self._keys[:, slots]
        return self._keys.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))

    def uniform(self, slots: Tensor, reach: int, width: int) -> Tensor:
        """Numbers (B, n, width) of slots (n,) or (B, n), all below `reach`."""
        batch = len(self.noise.seeds)
        if batch * self.slots * width > self.MOST:
            return self.noise.uniform(slots, width)
        if width not in self._kept:
            self._kept[width] = 0, torch.empty(batch, self.slots, width, device=slots.device)
        filled, numbers = self._kept[width]
        if filled < reach:
            end = min(self.slots, max(reach, filled + self.CHUNK // (batch * width)))
            more = torch.arange(filled, end, device=slots.device)
            numbers[:, filled:end] = self.noise.uniform(more, width)
            self._kept[width] = end, numbers
        rows = torch.arange(batch, device=slots.device).unsqueeze(1)
        return numbers[rows, slots]


class Drawing(Protocol):
    """A way to draw codes; arguments and result are those of `SlotNoise.draw`."""

    def __call__(
        self, noise: SlotNoise, logits: Tensor, part: int, parts: int, first: int
    ) -> tuple[Tensor, Tensor]: ...


def racing(
    noise: SlotNoise, logits: Tensor, part: int, parts: int, first: int
) -> tuple[Tensor, Tensor]:
    """The ids of a code race for it, each with a number of its own: where probabilities change a
    little, mostly the same id wins."""
    return race(logits, -hashed(noise.keys(), logits.shape[-1], first).log())


class SlotNoise(NamedTuple):
    """The random numbers of the slots of one step, and how codes are drawn with them."""

    source: Noise
    slots: Tensor
    """(n,) or (B, n)."""
    step: int | Tensor = 0
    """Counts the times that slots may be drawn again, in masked generation: a number or (B,)."""
    ahead: Ahead | None = None
    """What computes numbers for several steps at once."""
    reach: int = 0
    """All slots are below this; for `ahead`."""
    by: Drawing | None = None
    """How codes are drawn; None: one number is looked up among sums of probabilities."""

    @staticmethod
    def of(noise: Noise | None, codes: Tensor, slots: Tensor) -> SlotNoise:
        """The noise of `slots` of codes (B, ...); without a noise, always the same numbers."""
        return SlotNoise(noise or Noise.request(0, len(codes), device=codes.device), slots)

    def uniform(self, width: int = 0) -> Tensor:
        """Numbers in [0, 1), (B, n), or (B, n, width) for a slot that holds several codes.

        The first numbers of a slot are the same whatever the width.
        """
        if self.ahead is None:
            return self.source.uniform(self.slots, width, step=2 * self.step)
        numbers = self.ahead.uniform(self.slots, self.reach, width or 1)
        return numbers if width else numbers[..., 0]

    def keys(self) -> Tensor:
        """Keys (B, n, 2), for `hashed`."""
        return self.source.keys(self.slots) if self.ahead is None else self.ahead.keys(self.slots)

    def draw(
        self, logits: Tensor, part: int = 0, parts: int = 1, first: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw a code of each slot from filtered logits (B, n, V); of several codes of a slot, one
        of its parts, whose ids have numbers from `first` on that no other part has. Returns codes
        (B, n) int64 and their log-probabilities (B, n) in nats."""
        assert first is not None or parts == 1, "parts race with numbers of their own"
        if self.by is not None:
            return self.by(self, logits, part, parts, first or 0)
        return draw(logits, self.uniform(parts)[..., part])

    def gumbel(self, width: int) -> Tensor:
        """Gumbel noise (B, n, width), other numbers than `uniform`."""
        return gumbel(self.source.uniform(self.slots, width, step=2 * self.step + 1))

    def normal(self, width: int) -> Tensor:
        """Normal noise (B, n, width), the same whenever a slot is drawn."""
        return self.source.normal(self.slots, width)


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise of numbers in [0, 1)."""
    return -(-uniform.clamp(min=2.0**-25).log()).log()

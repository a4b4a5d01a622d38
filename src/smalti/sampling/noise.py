"""Addressable noise: every random number of a generation has an address, not a place in a queue.

`Noise` gives the number of (seed, image index, slot, step, element) whatever else is drawn, so
image i of a request is the same alone, in any batch and on any number of processes, and nothing
that is captured or compiled holds a generator. The numbers are Philox-4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), computed with integer tensor operations, so they are
equal on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from smalti.sampling.filters import draw, race

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Philox-4x32-10: four counter words and two key words to four random words.

    All are int64 tensors holding unsigned 32-bit values and are broadcast against each other.
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


class Noise:
    """Random numbers of B images by (slot, step, element).

    Args: seeds (B,) int64, the seed of each image's request; index (B,) int64, the number of the
    image in its request, below 2**32.
    """

    def __init__(self, seeds: Tensor, index: Tensor) -> None:
        if seeds.shape != index.shape or seeds.dim() != 1:
            raise ValueError(
                f"seeds and index must both be (B,), got {tuple(seeds.shape)}, {tuple(index.shape)}"
            )
        self.seeds, self.index = seeds, index

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
        step = step.view(-1, 1, 1) if isinstance(step, Tensor) else step
        slots = slots.to(self.seeds.device).unsqueeze(-1)  # (n, 1) or (B, n, 1)
        element = torch.arange(math.ceil(width / 4), device=slots.device).view(1, 1, -1)
        seeds, index = self.seeds.view(-1, 1, 1), self.index.view(-1, 1, 1)
        zero = torch.zeros_like(seeds + slots + element)
        counter = [zero + slots, zero + (element * 2 + stream), zero + step, zero + index]
        words = philox(counter, [seeds & _WORD, (seeds >> 32) & _WORD])
        return torch.stack(words, -1).flatten(-2)

    def uniform(self, slots: Tensor, width: int = 0, step: int | Tensor = 0) -> Tensor:
        """Float32 numbers in [0, 1): (B, n) for slots (n,) or (B, n), or (B, n, width); step is a
        number or (B,)."""
        words = self._words(slots, width or 1, step, stream=0)
        numbers = (words >> 8).float() * 2.0**-24
        return numbers[..., :width] if width else numbers[..., 0]

    def normal(self, slots: Tensor, width: int = 0, step: int = 0) -> Tensor:
        """Standard normal float32 numbers, (B, n) or (B, n, width), by Box and Muller."""
        words = self._words(slots, 2 * (width or 1), step, stream=1)
        numbers = ((words >> 8).double() + 0.5) * 2.0**-24  # in (0, 1)
        u, v = numbers[..., 0::2], numbers[..., 1::2]
        numbers = ((-2 * u.log()).sqrt() * (2 * math.pi * v).cos()).float()
        return numbers[..., :width] if width else numbers[..., 0]


class Numbers(Protocol):
    """What computes the uniform numbers of several steps at once."""

    def uniform(self, slots: Tensor, reach: int, width: int) -> Tensor:
        """Numbers (B, n, width) of slots (n,) or (B, n), all below `reach`."""
        ...


class Ahead:
    """The uniform numbers of a loop that comes to its slots in order, computed for many slots at
    once: for one they take as long as for a dozen. Each is what `Noise` gives.

    Args: the noise of B images; N, how many slots there are.
    """

    CHUNK = 1 << 14
    """So many numbers at once, at least; of at least one slot."""
    MOST = 1 << 24
    """No more than these are kept; where there are more, each step computes its own."""

    def __init__(self, noise: Noise, slots: int) -> None:
        self.noise, self.slots = noise, slots
        self._kept = dict[int, tuple[int, Tensor]]()
        """By width: how many slots are filled, and the numbers, (B, N, width)."""

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


class SlotNoise(NamedTuple):
    """The random numbers of the slots of one step, and how codes are drawn with them."""

    source: Noise
    slots: Tensor
    """(n,) or (B, n)."""
    step: int | Tensor = 0
    """Counts the times that slots may be drawn again, in masked generation: a number or (B,)."""
    ahead: Numbers | None = None
    """What computes numbers for several steps at once."""
    reach: int = 0
    """All slots are below this; for `ahead`."""
    race: bool = False
    """Whether the ids of a code race for it, each with a number of its own: where probabilities
    change a little, mostly the same id wins. Else one number is looked up among their sums."""

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

    def draw(self, logits: Tensor, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Draw a code of each slot from filtered logits (B, n, V); of several codes of a slot, one
        of its parts. Returns codes (B, n) int64 and their log-probabilities (B, n) in nats."""
        if not self.race:
            return draw(logits, self.uniform(parts)[..., part])
        numbers = self.uniform(logits.shape[-1] * parts).unflatten(-1, (-1, parts))  # (B, n, V, G)
        return race(logits, gumbel(numbers[..., part]))

    def gumbel(self, width: int) -> Tensor:
        """Gumbel noise (B, n, width), other numbers than `uniform`."""
        return gumbel(self.source.uniform(self.slots, width, step=2 * self.step + 1))

    def normal(self, width: int) -> Tensor:
        """Normal noise (B, n, width), the same whenever a slot is drawn."""
        return self.source.normal(self.slots, width)


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise of numbers in [0, 1)."""
    return -(-uniform.clamp(min=2.0**-25).log()).log()

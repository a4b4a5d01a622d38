"""The random numbers of a recorded step: computed ahead of it, and given to it as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from smalti.sampling.noise import Ahead, SlotNoise


class Asked(NamedTuple):
    """Which numbers a step asks for: keys, or uniform ones, so many of each slot."""

    keys: bool
    width: int = 0


class Told:
    """In the place of what computes numbers ahead, the numbers that a step asks for."""

    def __init__(self, noise: SlotNoise, asked: list[Asked]) -> None:
        ahead, slots = noise.ahead, noise.slots
        assert ahead is not None
        self.numbers = {
            what: ahead.keys(slots) if what.keys else ahead.uniform(slots, noise.reach, what.width)
            for what in asked
        }

    def keys(self, slots: Tensor) -> Tensor:
        return self.numbers[Asked(True)]

    def uniform(self, slots: Tensor, reach: int, width: int) -> Tensor:
        return self.numbers[Asked(False, width)]


class Listening:
    """What computes numbers ahead, noting what it is asked for."""

    def __init__(self, ahead: Ahead, reach: int) -> None:
        self.ahead, self.reach, self.asked = ahead, reach, list[Asked]()

    def keys(self, slots: Tensor) -> Tensor:
        self._note(Asked(True))
        return self.ahead.keys(slots)

    def uniform(self, slots: Tensor, reach: int, width: int) -> Tensor:
        self._note(Asked(False, width))
        return self.ahead.uniform(slots, self.reach, width)

    def _note(self, what: Asked) -> None:
        if what not in self.asked:
            self.asked.append(what)


def with_ahead(noise: SlotNoise, ahead: Any) -> SlotNoise:
    """The same slots, whose numbers come from elsewhere; how far they reach is then no matter."""
    return noise._replace(ahead=ahead, reach=0)

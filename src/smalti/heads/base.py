"""What every head gives: a loss of codes, and codes drawn, from hidden states.

A head knows no position, cache or branch. B images, n positions, D width of the hidden states.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from smalti.codes import Draw
from smalti.sampling.chance import Chance
from smalti.sampling.noise import SlotNoise


class Head(Protocol):
    """A module between hidden states and codes; its options are its configuration's."""

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None) -> Tensor:
        """What training minimises at each position, (B, n) float32: nats, if it has a likelihood.

        Args: h (B, n, D); codes (B, n, *trailing), which a head of several codes also reads; the
        noise of the positions, for heads that learn from noisy codes.
        """
        ...

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n, *trailing) from hidden states of all branches, (branches * B, n, D).

        Equal noise draws equal codes.
        """
        ...

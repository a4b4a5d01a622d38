"""Finite scalar quantization: each channel is rounded to a few levels, and there is no table.

Mentzer, Minnen, Agustsson, Tschannen 2023, "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv:2309.15505).

Unusual: no loss of its own, neither of codes nor of latents, and nothing to be kept alive: a
channel is squashed by tanh to the range of its levels, so all of them are near. Channels of an even
number of levels are shifted, so that a level is at 0 before rounding. Of two levels the upper one
therefore begins far below 0, at -3.8, as in the tokenizer of BAR (arXiv:2602.09024), and a channel
near 0 hardly gets a gradient.

Letters: B images, K channels, h, w code grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smalti.tokenizers.quantize.vq import Quantized

REACH = 1e-3
"""How far behind the outermost levels the squashed range ends, as a share of it."""
MOST = 512
"""Levels of a channel; many more, and the range would end behind half a level."""


class FiniteScalar(nn.Module):
    """Latents (B, K, h, w) to codes (B, h, w), numbers below the product of `levels`, of which
    there is one for each channel; the first channel changes fastest.

    Levels are rendered evenly spaced from -1 to 1.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        check_levels(levels)
        self.levels, self.vocab = levels, math.prod(levels)
        self.spread = [(n - 1) / 2 for n in levels]
        self.offset = [0.0 if n % 2 else 0.5 for n in levels]
        half, offset = torch.tensor([self.spread, self.offset], device="cpu")
        self.shift = (offset / (half * (1 + REACH))).atanh().tolist()  # float32, as upstream
        self.steps = [math.prod(levels[:i]) for i in range(len(levels))]

    def bounded(self, z: Tensor) -> Tensor:
        """Latents (..., K) squashed to the range of their levels, which are at whole numbers."""
        shift, half, offset = (z.new_tensor(v) for v in (self.shift, self.spread, self.offset))
        return (z + shift).tanh() * (half * (1 + REACH)) - offset

    def numbers(self, z: Tensor) -> Tensor:
        """The level of each channel of latents (..., K), int64 from 0 on."""
        lowest = torch.tensor(self.levels, device=z.device) // 2
        return self.bounded(z.detach()).round().long() + lowest

    def values(self, numbers: Tensor) -> Tensor:
        """What levels (..., K) are rendered as: -1 to 1."""
        return numbers / torch.tensor(self.spread, device=numbers.device) - 1

    def straight(self, z: Tensor) -> Tensor:
        """The values of latents (..., K), with the gradient of their squashed range."""
        soft = (self.bounded(z) + z.new_tensor(self.offset)) / z.new_tensor(self.spread)
        return soft + (self.values(self.numbers(z)) - soft).detach()

    def join(self, numbers: Tensor) -> Tensor:
        """Levels (..., K) as one code (...)."""
        return (numbers * numbers.new_tensor(self.steps)).sum(-1)

    def split(self, codes: Tensor) -> Tensor:
        """The level of each channel (..., K) of codes (...)."""
        steps, sizes = codes.new_tensor(self.steps), codes.new_tensor(self.levels)
        return codes[..., None] // steps % sizes

    def encode(self, z: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, K, h, w)."""
        with torch.autocast(z.device.type, enabled=False):
            return self.join(self.numbers(z.float().movedim(1, -1)))

    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, K, h, w), float32, of codes (B, h, w)."""
        return self.values(self.split(codes)).movedim(-1, 1).contiguous()

    def forward(self, z: Tensor, entropy: bool = False) -> Quantized:
        """Quantize for training. Raises ValueError if an entropy loss is asked for."""
        if entropy:
            raise ValueError("finite scalar quantization has no entropy loss: its weight must be 0")
        with torch.autocast(z.device.type, enabled=False):
            rows = z.float().movedim(1, -1)  # (B, h, w, K)
            latent = self.straight(rows).movedim(-1, 1).contiguous()
            return Quantized(latent, self.join(self.numbers(rows)), {})


def check_levels(levels: tuple[int, ...]) -> None:
    """Raise ValueError unless these are levels of one or more channels of a code below 2^63."""
    if not levels or not all(2 <= n <= MOST for n in levels) or math.prod(levels) >= 2**63:
        raise ValueError(
            f"levels must be one or more integers from 2 to {MOST}, whose product is below 2^63, "
            f"got {levels}"
        )

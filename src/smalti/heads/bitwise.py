"""Bitwise head: one Bernoulli for each bit instead of one softmax over all codes.

Infinity (Han et al. 2024, arXiv:2412.04431) predicts the K bits of a code independently of each
other, given the hidden state, so the head costs K numbers where a softmax over the same codes costs
2^K. Upstream keeps two logits for each bit, of which only the difference matters: a converter
subtracts the rows of the zeros from those of the ones.

B images, n positions, D width of the hidden states, K bits of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Guide
from smalti.nn.linear import Linear
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw
from smalti.sampling.noise import SlotNoise


class BitwiseHead(nn.Module):
    """Hidden states (B, n, D) to codes (B, n, K), int64 in {0, 1}."""

    smoothing: float = 0.0
    """Share of each target that training spreads over both values of a bit."""

    def __init__(self, dim: int, bits: int, bias: bool = False) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"bits must be at least 1, got {bits}")
        self.proj = Linear(dim, bits, bias=bias)

    def init_weights(self) -> None:
        """Zeros: any code is as likely as any other."""
        for weight in self.proj.parameters():
            nn.init.zeros_(weight)

    def logits(self, h: Tensor) -> Tensor:
        """Of a bit being 1 against its being 0, (B, n, K) in float32."""
        return self.proj(h).float()

    def merged(self, h: Tensor, guide: Guide) -> Tensor:
        """Guided logits (B, n, K) of hidden states of all branches (branches * B, n, D)."""
        return guide.merge(self.logits(h))

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """Negative log-likelihood of each position, the sum over its bits: (B, n) in nats; in
        training `smoothing` of each target is spread over both values."""
        targets = codes.float()
        if self.training and self.smoothing:
            targets = targets * (1 - self.smoothing) + self.smoothing / 2
        losses = F.binary_cross_entropy_with_logits(self.logits(h), targets, reduction="none")
        return losses.sum(-1)

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n, K) from hidden states of all branches (branches * B, n, D). Top-k and
        top-p choose between the two values of each bit."""
        logits = self.merged(h, chance.guide)
        both = torch.stack((torch.zeros_like(logits), logits), -1)  # (B, n, K, 2)
        codes, logp = draw(chance.filters(both), chance.noise.uniform(logits.shape[-1]))
        return Draw(codes, logp.sum(-1), h)

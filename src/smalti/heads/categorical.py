"""Categorical head: one softmax over a codebook."""

from __future__ import annotations

from torch import Tensor, nn

from smalti.codes import Draw, Guide
from smalti.nn.cross_entropy import cross_entropy
from smalti.nn.linear import Linear
from smalti.sampling.chance import Chance
from smalti.sampling.noise import SlotNoise


class Softmax(nn.Module):
    """Logits (B, N, V) to codes (B, N), int64 in [0, V): the head of a model that computes logits
    itself."""

    smoothing: float = 0.0
    """Share of each target that training spreads over all codes (Szegedy et al. 2015,
    arXiv:1512.00567)."""

    def logits(self, h: Tensor) -> Tensor:
        """(B, N, V) in float32."""
        return h.float()

    def merged(self, h: Tensor, guide: Guide) -> Tensor:
        """Guided logits (B, n, V) of hidden states of all branches (branches * B, n, D).

        All are NaN where one is -inf, which would else be drawn from as if its code were filtered
        out; of one that is NaN or inf the softmax is NaN by itself.
        """
        logits = self.logits(h)
        if guide.clean:  # logits less a constant are the same logits, with other angles
            logits = logits - logits.mean(-1, keepdim=True)
        merged = guide.merge(logits)
        return merged + 0 * merged.amin(-1, keepdim=True)

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """Negative log-likelihood of each position, (B, N) in nats; in training `smoothing` of each
        target is spread over all codes."""
        logits = self.logits(h).flatten(0, 1)  # (B * N, V)
        smoothing = self.smoothing if self.training else 0.0
        return cross_entropy(logits, codes.flatten(), smoothing).view_as(codes)

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n) from hidden states of all branches (branches * B, n, D)."""
        logits = chance.filters(self.merged(h, chance.guide))
        codes, logp = chance.noise.draw(logits)
        return Draw(codes, logp, h)


class CategoricalHead(Softmax):
    """Hidden states (B, N, D) to codes (B, N), int64 in [0, vocab)."""

    def __init__(self, dim: int, vocab: int, bias: bool = False) -> None:
        super().__init__()
        if vocab < 2:
            raise ValueError(f"vocab must be at least 2, got {vocab}")
        self.proj = Linear(dim, vocab, bias=bias)

    def init_weights(self) -> None:
        """Zeros: any code is as likely as any other."""
        for weight in self.proj.parameters():
            nn.init.zeros_(weight)

    def logits(self, h: Tensor) -> Tensor:
        """(B, N, V) in float32."""
        return self.proj(h).float()

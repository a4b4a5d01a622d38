"""Categorical head: one softmax over a codebook."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Guide
from smalti.nn.linear import Linear
from smalti.sampling.filters import Filters, draw


class CategoricalHead(nn.Module):
    """Hidden states (B, N, D) to codes (B, N), int64 in [0, vocab)."""

    def __init__(self, dim: int, vocab: int, bias: bool = False) -> None:
        super().__init__()
        if vocab < 2:
            raise ValueError(f"vocab must be at least 2, got {vocab}")
        self.proj = Linear(dim, vocab, bias=bias)

    def logits(self, h: Tensor) -> Tensor:
        """(B, N, V) in float32."""
        return self.proj(h).float()

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

    def loss(self, h: Tensor, codes: Tensor, smoothing: float = 0.0) -> Tensor:
        """Negative log-likelihood of each position, (B, N) in nats; with `smoothing`, that share of
        each target is spread over all codes."""
        logits = self.logits(h).flatten(0, 1)  # (B * N, V)
        loss = F.cross_entropy(logits, codes.flatten(), reduction="none", label_smoothing=smoothing)
        return loss.view_as(codes)

    def sample(self, h: Tensor, guide: Guide, noise: Tensor, filters: Filters) -> Draw:
        """Draw codes (B, n) from hidden states of all branches (branches * B, n, D).

        `noise` is uniform in [0, 1), (B, n); equal noise gives equal codes.
        """
        codes, logp = draw(filters(self.merged(h, guide)), noise)
        return Draw(codes, logp, h)

"""A quantizer that draws its codes: a categorical distribution at each place, relaxed by Gumbel
noise while it is trained.

Jang, Gu, Poole 2017 (arXiv:1611.01144), as in taming-transformers after DALL-E's tokenizer (Ramesh
et al. 2021, arXiv:2102.12092). B images, C channels, h, w code grid, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import Quantized


class GumbelQuantizer(nn.Module):
    """Latents (B, C, h, w) to logits of V codes, and codes to rows of a table (B, C, h, w).

    What it draws in training is a single code, with the gradient of the softmax at `temperature`.
    Evaluation takes the most probable code; upstream draws one there too, unless `noise` is given.
    """

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        if vocab < 2 or dim < 1:
            raise ValueError(f"vocab must be at least 2 and dim at least 1, got {vocab}, {dim}")
        self.vocab, self.temperature = vocab, 1.0
        self.proj = nn.Conv2d(dim, vocab, 1)
        self.embedding = nn.Embedding(vocab, dim)

    def logits(self, z: Tensor) -> Tensor:
        """(B, V, h, w) float32 of latents (B, C, h, w)."""
        return self.proj(z).float()

    def encode(self, z: Tensor) -> Tensor:
        """The most probable codes (B, h, w) of latents."""
        with torch.no_grad():
            return self.logits(z).argmax(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Rows of the table (B, C, h, w) of codes (B, h, w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()

    def relaxed(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Shares of the codes (B, V, h, w) of logits and Gumbel noise of that shape."""
        return ((logits + noise) / self.temperature).softmax(1)

    def forward(self, z: Tensor, entropy: bool = False, noise: Tensor | None = None) -> Quantized:
        """Quantize for training; there is no entropy loss. "kl" is the divergence of each place's
        distribution from the uniform one, in nats, in the mean."""
        logits = self.logits(z)
        if noise is None and self.training:
            noise = -torch.empty_like(logits).exponential_().log()
        shares = self.relaxed(logits, torch.zeros_like(logits) if noise is None else noise)
        codes = shares.argmax(1)  # (B, h, w)
        hard = F.one_hot(codes, self.vocab).movedim(-1, 1).to(shares)
        chosen = hard + shares - shares.detach()  # the value of one, the gradient of the other
        latent = torch.einsum("bvhw,vc->bchw", chosen, self.embedding.weight.float())
        q = logits.softmax(1)
        kl = (q * (q * self.vocab + 1e-10).log()).sum(1).mean()
        return Quantized(latent, codes, {"kl": kl})

"""How a codebook is used: share of codes in use, perplexity, and the unigram model's bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def histogram(codes: Tensor, vocab: int) -> Tensor:
    """How often each code occurs: (V,) int64 on the CPU."""
    return torch.bincount(codes.flatten(), minlength=vocab).cpu()


def usage(counts: Tensor) -> float:
    """Share of codes that occur at all, in [0, 1]. It grows with the number of images."""
    return (counts > 0).double().mean().item()


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes: how many equally frequent codes would be as diverse."""
    probs = counts.double() / counts.sum().clamp(min=1)
    return torch.special.entr(probs).sum().exp().item()


def unigram_bits(counts: Tensor, held_out: Tensor) -> float:
    """Bits per token of held-out codes under the `histogram` of the training codes (plus one)."""
    frequencies = counts.double() + 1
    bits = -(frequencies / frequencies.sum()).log2()
    return bits[held_out.flatten().cpu()].mean().item()


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)

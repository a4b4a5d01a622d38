"""How a codebook is used: share of codes in use, entropy, perplexity, the unigram model's bits.

All of them are functions of counts (`histogram`), which are added up over batches: the mean of each
batch's usage or perplexity is another, smaller number. Projects define some of them otherwise;
their variants carry their names. V codes, K scales, D codes at each position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.codes import TokenSpec


def histogram(codes: Tensor, vocab: int) -> Tensor:
    """How often each code occurs: (V,) int64 on the CPU."""
    return torch.bincount(codes.flatten(), minlength=vocab).cpu()


def histograms(codes: Tensor, spec: TokenSpec) -> Tensor:
    """How often each code of (B, N, *trailing) occurs at each scale and place within a position:
    (K, D, V) int64 on the CPU. D counts depths and bits; it is 1 where a position has one code."""
    codes = codes.reshape(*codes.shape[:2], math.prod(spec.trailing))  # (B, N, D)
    scales = [part.unbind(2) for part in codes.split([h * w for h, w in spec.grids], 1)]
    return torch.stack([torch.stack([histogram(d, spec.vocab) for d in part]) for part in scales])


def parts(counts: Tensor, spec: TokenSpec) -> dict[str, Tensor]:
    """Of `histograms` (K, D, V): the counts (V,) of all codes, named "", and where there are
    several of each scale ("_2x2") and of each depth ("_depth0") or bit ("_bit0")."""
    found = {"": counts.sum((0, 1))}
    if len(counts) > 1:
        found |= {f"_{h}x{w}": c.sum(0) for (h, w), c in zip(spec.grids, counts, strict=True)}
    if counts.shape[1] > 1:
        place = "bit" if spec.channels else "depth"
        found |= {f"_{place}{i}": c for i, c in enumerate(counts.sum(0))}
    return found


def usage(counts: Tensor) -> float:
    """Share of codes that occur at all, in [0, 1]. It grows with the number of images."""
    return (counts > 0).double().mean().item()


def entropy(counts: Tensor) -> float:
    """Entropy of the codes in nats; `bits` gives it in bits."""
    return torch.special.entr(_shares(counts)).sum().item()


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes: how many equally frequent codes would be as diverse."""
    return math.exp(entropy(counts))


def unigram_bits(counts: Tensor, held_out: Tensor) -> float:
    """Bits per position of held-out codes under the counts of the training codes (plus one).

    Args: counts (V,), or (D, V) of each of the D codes of a position, whose bits add up; held-out
    codes (B, N), or (B, N, *trailing) of D codes each.
    """
    frequencies = counts.double().view(-1, counts.shape[-1]) + 1  # (D, V)
    bits = -(frequencies / frequencies.sum(1, keepdim=True)).log2()
    codes = held_out.cpu().reshape(-1, len(bits))  # (B * N, D)
    return bits.gather(1, codes.T).mean(1).sum().item()


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)


def perplexity_taming(counts: Tensor) -> float:
    """taming-transformers: in float32, with 1e-10 inside the logarithm."""
    p = _shares(counts).float()
    return (-(p * (p + 1e-10).log()).sum()).exp().item()


def entropy_1d_tokenizer(counts: Tensor) -> float:
    """1d-tokenizer: in bits, with 1e-8 inside the logarithm."""
    p = _shares(counts)
    return -((p + 1e-8).log2() * p).sum().item()


def usage_unitok(counts: Tensor) -> float:
    """UniTok: share of codes that are more than 0.01 times as frequent as the mean code."""
    return (_shares(counts) > 0.01 / len(counts)).double().mean().item()


def usage_var(hits: Tensor, margin: float) -> float:
    """VAR: share of codes whose `hits_var` reach `margin_var`."""
    return (hits >= margin).double().mean().item()


def margin_var(vocab: int, positions: int, world: int = 1) -> float:
    """VAR: 0.08 times the hits of the mean code in a step of `world` processes, each of which
    quantizes `positions` (images times the last scale's grid)."""
    return world * positions / vocab * 0.08


def hits_var(average: Tensor, counts: Tensor, records: int) -> Tensor:
    """VAR: the moving average of counts in float32, after `records` earlier ones.

    Its counter advances with every scale of a step, so only the first scale of a training run
    begins with its counts; the others begin at zeros.
    """
    if not records:
        return counts.float()
    decay = 0.9 if records < 100 else 0.99
    return average * decay + counts.float() * (1 - decay)


def _shares(counts: Tensor) -> Tensor:
    return counts.double() / counts.sum().clamp(min=1)

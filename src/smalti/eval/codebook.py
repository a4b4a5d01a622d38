"""How a codebook is used: share of codes in use, entropy, perplexity, the unigram model's bits.

All of them are functions of counts (`histogram`), which are added up over batches: the mean of each
batch's usage or perplexity is another, smaller number. Projects define some of them otherwise;
their variants carry their names.

A bit alone says little, so codes of bits are counted in groups of bits, each as one number
(`nn.groups.numbered`).
V codes, K scales, D codes, or groups of bits, at each position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.nn.groups import group_bits, numbered, to_bits, values


def histogram(codes: Tensor, vocab: int) -> Tensor:
    """How often each code occurs: (V,) int64 on the CPU."""
    return torch.bincount(codes.flatten(), minlength=vocab).cpu()


def histograms(codes: Tensor, spec: TokenSpec) -> Tensor:
    """How often each code of (B, N, *trailing) occurs at each scale and place within a position:
    (K, D, V) int64 on the CPU. D counts depths, or groups of bits; it is 1 where a position has one
    code."""
    codes, vocab = numbered(codes, spec), max(values(spec))
    scales = [part.unbind(2) for part in codes.split([h * w for h, w in spec.grids], 1)]
    return torch.stack([torch.stack([histogram(d, vocab) for d in part]) for part in scales])


def bit_counts(counts: Tensor, spec: TokenSpec) -> Tensor:
    """Of `histograms` (..., D, V) of codes of bits, how often each bit is 0 and
    1: (..., bits, 2)."""
    ones = to_bits(torch.arange(counts.shape[-1]), group_bits(spec))  # (V, width)
    found = torch.stack((counts @ (1 - ones), counts @ ones), -1)  # (..., D, width, 2)
    return found.flatten(-3, -2)[..., : spec.channels, :]


def parts(counts: Tensor, spec: TokenSpec) -> dict[str, Tensor]:
    """Of `histograms` (K, D, V): the counts (V,) of all codes, named "", and where there are
    several of each scale ("_2x2"), of each depth ("_depth0") or group of bits ("_group0"), and of
    each bit ("_bit0"). Groups of bits count as different codes."""
    groups = group_bits(spec)
    every = counts.sum(0)  # (D, V)
    found = {"": torch.cat(_each(every, spec)) if groups else every.sum(0)}
    if len(counts) > 1:
        scales = [torch.cat(_each(c, spec)) if groups else c.sum(0) for c in counts]
        if spec.tables:  # of each scale the codes of its own table
            whole = [c.split(spec.tables) for c in scales]
            scales = [tables[k] for k, tables in enumerate(whole)]
        found |= {f"_{h}x{w}": c for (h, w), c in zip(spec.grids, scales, strict=True)}
    if len(every) > 1:
        kind = "group" if groups else "depth"
        found |= {f"_{kind}{i}": c for i, c in enumerate(_each(every, spec))}
    if groups:
        found |= {f"_bit{i}": c for i, c in enumerate(bit_counts(every, spec))}
    return found


def _each(counts: Tensor, spec: TokenSpec) -> list[Tensor]:
    """Counts (D, V) of each depth or group, (V,), without what a smaller group cannot be."""
    return [count[:n] for count, n in zip(counts, values(spec), strict=True)]


def usage(counts: Tensor) -> float:
    """Share of codes that occur at all, in [0, 1]. It grows with the number of images."""
    return (counts > 0).double().mean().item()


def entropy(counts: Tensor) -> float:
    """Entropy of the codes in nats; `bits` gives it in bits."""
    return torch.special.entr(_shares(counts)).sum().item()


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes: how many equally frequent codes would be as diverse."""
    return math.exp(entropy(counts))


def baseline_bits(counts: Tensor, held_out: Tensor, spec: TokenSpec) -> float:
    """Bits per position of held-out codes (B, N, *trailing) under `histograms` (K, D, V) of the
    training codes, whatever the scale; of codes of bits, by each group or each bit alone, whichever
    takes fewer."""
    every = counts.sum(0)  # (D, V)
    found = unigram_bits(every, numbered(held_out, spec))
    if group_bits(spec):
        found = min(found, unigram_bits(bit_counts(every, spec), held_out.long()))
    return found


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

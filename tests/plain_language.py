"""A decoder of text the slow and obvious way: every product written out, of all positions at once.
What `Language` must equal, of Llama's layers."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.models.language import Language


def plain_layers(language: Language, x: Tensor, mask: Tensor) -> Tensor:
    """Hidden states (1, L, D) of vectors (1, L, D), of which each sees those of a mask (1, L, L)
    and has its number as its position."""
    for block in language.layers:
        y, heads = block.attention_norm(x), block.attention.heads
        q, k, v = block.attention.wqkv(y).unflatten(-1, (3 * heads, -1)).chunk(3, 2)
        q, k = (turned(t) for t in (q, k))
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        read = torch.einsum("bhnm,bmhd->bnhd", weights, v)
        x = x + block.attention.wo(read.flatten(2))
        x = x + block.feed_forward(block.ffn_norm(x))
    return language.norm(x)


def turned(x: Tensor) -> Tensor:
    """Heads (1, L, H, hd), whose pairs i and i + half are turned by their position."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = x.split(half, -1)
    cos, sin = angles.cos()[None, :, None], angles.sin()[None, :, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

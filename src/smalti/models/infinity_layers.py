"""The sizes and the layers of Infinity, which read a text and are modulated by it, and how
positions turn them. `models/infinity.py` says what they make together.

Letters: B images, N positions of all scales, D width, H heads, K bits of a cell of the latent, V
codebook entries, T words, E width of their features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from smalti.arguments import an
from smalti.codes import Reads, Rowwise, TokenSpec
from smalti.config import check
from smalti.models.generator import GeneratorConfig, grids_in_words
from smalti.models.pyramid_stack import (
    Cache,
    Modulated,
    Place,
    Shape,
)
from smalti.nn.adaln import modulate, normed
from smalti.nn.cross import Context, CrossAttention
from smalti.nn.residual import dropped
from smalti.nn.rope import rope_2d_within, rotation
from smalti.tokenizers.infinity import SCHEDULES, ratio_of, schedule
from smalti.tokenizers.quantize.bsq import Grids
from smalti.tokenizers.quantize.pyramids import check_pyramid

POOLED = 128
"""Text features that each head of the pooling reads; half as many in models wider than 4096."""


@dataclass(frozen=True)
class InfinityConfig(GeneratorConfig):
    scales: tuple[tuple[int, int], ...] = schedule()
    """Height and width of each grid, coarse to fine, that the model learns; it draws others too."""
    bits: int = 32
    """Bits of a latent cell, K; 0: a code is a number below `vocab`."""
    cells: int = 1
    """Latent cells of each side that a position covers; 2 in the largest model, 1 of numbers."""
    vocab: int = 2
    """Codebook entries V, the same for all scales; 2 of bits."""
    latent: int = 32
    """Codebook dimensions of numbers."""
    phis: int = 4
    """Convolutions behind the codebook of numbers; 0: one for each scale."""
    phi_ratio: float = 0.5
    """Share of those convolutions in what they give."""
    text_length: int = 512
    """Words that a text has at most, T."""
    text_dim: int = 2048
    """Width of the features of a word, E."""
    layers: int = 32
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 2048
    """Width D, a multiple of 4 * `heads`."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward as a multiple of D."""
    multiple_of: int = 256
    """That width is rounded to a multiple of this."""
    shared_adaln: bool = True
    """One modulation for all layers, to which each adds its own constants."""
    l2_norm: bool = True
    """Normalise queries and keys; False scales their products by 1 / sqrt(head_dim)."""
    most_scales: int = 15
    """Scales that there are embeddings of."""
    norm_eps: float = 1e-6
    """Added to the variance in normalisation layers."""
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    gate: float = 5e-6
    """Scale of the gates as initialised."""
    flip: float = 0.3
    """In training, the largest share of the bits, or numbers, of a scale that are wrong; 0: none
    are."""
    flip_scales: int = 13
    """The first scales, of which some are wrong in training."""
    guide_at: tuple[int, ...] = (0,)
    """Blocks, from 1, after which guidance mixes hidden states of its branches; 0: logits."""

    def __post_init__(self) -> None:
        check(
            self,
            multiple=("dim", "heads"),
            positive=(
                *("cells", "text_length", "text_dim", "layers", "heads", "dim", "multiple_of"),
                "most_scales",
            ),
            counts=("bits", "flip_scales"),
            rates=("dropout", "drop_path"),
            shares=("flip",),
            above_zero=("mlp_ratio", "norm_eps"),
        )
        check_pyramid(self.spec, self.bits or self.latent, self.phis, self.phi_ratio)
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        if self.dim % self.pool_heads:
            raise ValueError(
                f"dim must be a multiple of {self.pool_heads}, the heads that read "
                f"{self.text_dim} features of a text, got {self.dim}"
            )
        if len(self.scales) > self.most_scales:
            raise ValueError(
                f"scales must be at most most_scales {self.most_scales}, got {len(self.scales)}"
            )
        if not self.guide_at or not all(0 <= block <= self.layers for block in self.guide_at):
            raise ValueError(
                f"guide_at must be blocks from 0 to {self.layers}, got {self.guide_at}"
            )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, self.vocab, channels=self.bits * self.cells**2)

    @property
    def pool_heads(self) -> int:
        """Heads with which a text is pooled."""
        return max(1, self.text_dim // (POOLED if self.dim <= 4096 else POOLED // 2))

    @property
    def shape(self) -> Shape:
        """Sizes of the layers."""
        width = self.mlp_ratio * self.dim / self.multiple_of
        return Shape(
            layers=self.layers,
            heads=self.heads,
            dim=self.dim,
            ffn_dim=max(1, round(width)) * self.multiple_of,
            scale=None if self.l2_norm else (self.dim // self.heads) ** -0.5,
            shared_adaln=self.shared_adaln,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
        )

    def fitted(self, tokenizer: Any, reads: Reads) -> InfinityConfig:
        """The same with the scales and codes of the tokenizer, and the text. Raises ValueError if
        there are no scales or no text."""
        spec = tokenizer.spec
        if not tokenizer.pyramid:
            raise ValueError(
                f"Infinity predicts scales of codes, but the tokenizer, "
                f"{an(type(tokenizer).__name__)}, gives {grids_in_words(spec)}"
            )
        self.check_kind(tokenizer)
        if not reads.text_length:
            raise ValueError(
                "Infinity draws from texts: take a recipe with a text encoder, such as "
                "emoji_infinity"
            )
        codes = tokenizer.quantize.settings() | {"vocab": spec.vocab, "bits": 0, "cells": 1}
        if spec.channels:
            codes["bits"] = codes.pop("latent")
            codes["cells"] = math.isqrt(spec.channels // codes["bits"])
        return self.with_known(scales=spec.grids, **codes, **self.condition_of(reads))


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    context: Context
    """What cross-attention reads."""
    cond: Tensor
    """(B, 1, D): the text as one vector, which modulates the layers."""
    shared: Tensor | None
    """(B, 6, D): the modulation that all layers share, if they do."""
    rotation: Tensor
    """(1, N, head_dim / 2) complex: how queries and keys are turned."""
    grids: Grids
    """Height and width of each scale."""


@lru_cache(maxsize=32)
def turns(grids: Grids, head_dim: int) -> Tensor:
    """How queries and keys turn, (N, head_dim / 2) complex. Positions are spread over the largest
    published grid of the aspect ratio, or of other grids over the last."""
    ratio = ratio_of(grids)
    largest = grids[-1] if ratio is None else SCHEDULES[ratio][-1]
    with torch.inference_mode(False):  # what is kept must also serve training
        tables = [rope_2d_within(grid, largest, head_dim) for grid in grids]
        return rotation(torch.cat(tables)).squeeze(1)


class Block(Modulated):
    """Attention to the picture and feed-forward, each scaled, shifted and gated by the text, and
    attention to its words between them."""

    def __init__(self, shape: Shape, drop_path: float) -> None:
        super().__init__(shape, drop_path)
        self.cross_norm = nn.LayerNorm(shape.dim, shape.norm_eps)
        self.cross = CrossAttention(shape.dim, shape.heads, key_bias=False)

    @torch.no_grad()
    def soften(self, gate: float, rest: float = 0.5) -> None:
        super().soften(gate, rest)
        self.cross.wo.weight.div_((2 * self.shape.layers) ** 0.5)

    def forward(
        self, x: Tensor, cond: Prepared, place: Place, layer: int, cache: Cache | None
    ) -> Tensor:
        parts = self.modulation(cond, layer, cache).split(1, 1)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts  # each (B, 1, D)
        rows, place = place.rows(x, layer, cache)
        h = modulate(normed(rows.take(x), self.eps), shift1, scale1)
        h = rows.put(self.attention(h, place, layer, cache), "attention")
        x = self.residual(x, gate1, h)
        h = rows.put(self.cross(self.cross_norm(rows.take(x)), cond.context), "cross")
        x = x + (dropped(h, self.shape.dropout, 0.0) if self.training else h)
        h = modulate(normed(rows.take(x), self.eps), shift2, scale2)
        return self.residual(x, gate2, rows.put(self.feed_forward(h), "feed_forward"))

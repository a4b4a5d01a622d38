"""The sizes and the layers of HART: words and picture attend to each other, modulated by the text.
`models/hart.py` says what they make together.

Letters: B images, N positions of all scales, n of one, K scales, D width, T words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import an
from smalti.codes import Reads, Rowwise, TokenSpec
from smalti.config import check
from smalti.heads.diffusion import DiffusionConfig
from smalti.models.generator import GeneratorConfig, held
from smalti.models.pyramid_stack import (
    Attention,
    Cache,
    Place,
    Shape,
)
from smalti.nn.adaln import modulate
from smalti.nn.cross import Context, CrossAttention
from smalti.nn.mlp import MLP, Gated
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import dropped
from smalti.tokenizers.hart_vae import HART1024
from smalti.tokenizers.quantize.multiscale import check_scales


@dataclass(frozen=True)
class HARTConfig(GeneratorConfig):
    scales: tuple[tuple[int, int], ...] = HART1024
    """Height and width of each grid, coarse to fine; the first is one position."""
    vocab: int = 4096
    """Codebook entries, the same for all scales."""
    latent: int = 32
    """Dimensions C of the vectors."""
    phis: int = 4
    """Convolutions behind the codebook; 0: one for each scale."""
    phi_ratio: float = 0.5
    """Share of those convolutions in what they give."""
    text_length: int = 300
    """Words of a text with padding, T."""
    text_dim: int = 1536
    """Width of the features of a word, E."""
    text_norm: bool = True
    """Normalise the features before they are read."""
    layers: int = 24
    """Transformer blocks."""
    heads: int = 24
    """Attention heads."""
    dim: int = 1536
    """Width D, a multiple of 4 * `heads`."""
    mlp_ratio: float = 4.0
    """Width of a plain feed-forward as a multiple of D; two thirds of it are that of swiglu."""
    multiple_of: int = 256
    """The width of swiglu is rounded up to a multiple of this."""
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    """The kind of feed-forward."""
    adaln: Literal["own", "shared", "none"] = "own"
    """What modulates layers: each its own product of the pooled text; the pooled text and constants
    of each; nothing."""
    pool: Literal["avg", "max"] = "avg"
    """How words are pooled for layers of adaln own: the mean without padding, or the largest."""
    cross: bool = False
    """Layers also read the words by cross-attention."""
    waves: bool = True
    """Scales are told apart by waves of their number, as times of a diffusion; else by a table."""
    l2_norm: bool = True
    """Normalise queries and keys; False scales their products by 0.25 / sqrt(head_dim)."""
    norm_eps: float = 1e-6
    """Added to the variance in normalisation layers."""
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    gate: float = 1e-5
    """Scale of the gates as initialised."""
    head: DiffusionConfig = DiffusionConfig(clip=1.0)
    """What draws the rest of the last scale."""
    rest_scale: float = 0.6
    """By which a rest is divided before it is learned; 0: its deviation while the tokenizer was
    trained."""
    refine_steps: int = 1
    """Passes in which the last scale is drawn, each of which sees the ones before."""
    masked: float = 0.5
    """Least share of the last scale that training leaves out."""
    kept: int = 32
    """Positions of the last scale that training has at least."""

    def __post_init__(self) -> None:
        check_scales(self.scales, self.vocab, self.latent, self.phis, self.phi_ratio)
        check(
            self,
            multiple=("dim", "heads"),
            positive=(
                *("text_length", "text_dim", "layers", "heads", "dim", "multiple_of"),
                *("refine_steps", "kept"),
            ),
            rates=("dropout", "drop_path", "masked"),
            above_zero=("mlp_ratio", "norm_eps"),
            amounts=("rest_scale",),
        )
        if self.dim % (4 * self.heads):
            raise ValueError(f"dim must be a multiple of 4 * heads, got {self.dim}, {self.heads}")
        if self.scales[0] != (1, 1) or len(self.scales) < 2:
            raise ValueError(f"scales must be 1x1 and others after it, got {self.scales}")
        finest = math.prod(self.scales[-1])
        if self.refine_steps > finest:
            raise ValueError(
                f"refine_steps must be at most {finest}, the positions of the last scale, got "
                f"{self.refine_steps}"
            )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, channels=self.latent)

    @property
    def shape(self) -> Shape:
        """Sizes of the layers."""
        width = int(self.dim * self.mlp_ratio * 2 / 3)
        width = -(-width // self.multiple_of) * self.multiple_of
        plain = round(self.mlp_ratio * self.dim)
        return Shape(
            layers=self.layers,
            heads=self.heads,
            dim=self.dim,
            ffn_dim=width if self.feed_forward == "swiglu" else plain,
            scale=None if self.l2_norm else 0.25 * (self.dim // self.heads) ** -0.5,
            shared_adaln=self.adaln == "shared",
            norm_eps=self.norm_eps,
            dropout=self.dropout,
        )

    def fitted(self, tokenizer: Any, reads: Reads) -> HARTConfig:
        """The same with the scales and vectors of the tokenizer, and the text. Raises ValueError if
        its codes are not hybrid, or if there is no text."""
        spec, kind = tokenizer.spec, an(type(tokenizer).__name__)
        settings = tokenizer.quantize.settings() if tokenizer.pyramid else {}
        if spec.discrete or "vocab" not in settings:
            grids = len(spec.grids)
            raise ValueError(
                f"HART predicts scales of codes and a continuous rest, but the tokenizer, {kind}, "
                f"gives {grids} grid{'s' if grids > 1 else ''} of {held(spec)}"
            )
        if not reads.text_length:
            raise ValueError(
                "HART draws from texts: take a recipe with a text encoder, such as emoji_hart"
            )
        return self.with_known(scales=spec.grids, **settings, **self.condition_of(reads))


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    words: Tensor
    """(B, T, D): what stands before the picture."""
    turns: Tensor
    """(B, T + N - 1, 2, head_dim): how queries and keys of words and picture are turned."""
    cond: Tensor
    """(B, 1, D): the text as one vector, which modulates the layers."""
    last: Tensor
    """(B, 1, D): another one, which modulates what the softmax reads."""
    numbers: Tensor
    """(1, K, D): by which scales are told apart."""
    context: Context
    """What cross-attention reads."""


class Block(nn.Module):
    """Attention to words and picture and feed-forward, behind one and the same norm."""

    def __init__(self, config: HARTConfig, drop_path: float) -> None:
        super().__init__()
        shape = config.shape
        self.attention = Attention(shape)
        if config.feed_forward == "swiglu":
            self.feed_forward = Gated(shape.dim, shape.ffn_dim)
        else:
            self.feed_forward = MLP(shape.dim, shape.ffn_dim, "tanh")
        self.norm = RMSNorm(shape.dim, shape.norm_eps)
        if config.adaln == "own":
            self.adaln = nn.Linear(shape.dim, 6 * shape.dim)
        elif config.adaln == "shared":
            self.constants = nn.Parameter(torch.empty(6, shape.dim))
        self.cross = CrossAttention(shape.dim, shape.heads) if config.cross else None
        self.kind, self.dropout, self.drop_path = config.adaln, shape.dropout, drop_path

    def modulation(self, cond: Prepared, layer: int, cache: Cache | None) -> Tensor | None:
        """(B, 6, D): gates, scales and shifts of attention and feed-forward; None: there are
        none."""
        if self.kind == "none":
            return None
        if cache is not None and layer in cache.modulations:
            return cache.modulations[layer]
        if self.kind == "shared":
            found = self.constants + cond.cond
        else:
            found = self.adaln(F.silu(cond.cond)).unflatten(-1, (6, -1)).squeeze(1)
        if cache is not None:
            cache.modulations[layer] = found
        return found

    def forward(
        self, x: Tensor, cond: Prepared, place: Place, layer: int, cache: Cache | None, words: int
    ) -> Tensor:
        """Rows (B, n, D), of which the first are so many `words`."""
        parts = self.modulation(cond, layer, cache)
        gate1 = gate2 = scale1 = scale2 = shift1 = shift2 = None
        if parts is not None:
            gate1, gate2, scale1, scale2, shift1, shift2 = parts.split(1, 1)  # each (B, 1, D)
        rows, place = place.rows(x, layer, cache)
        h = self.attention(self.modulated(rows.take(x), shift1, scale1), place, layer, cache)
        x = self.residual(x, gate1, rows.put(h, "attention"))
        if self.cross is not None and x.shape[1] > words:
            seen = x[:, words:]
            h = rows.put(self.cross(rows.take(seen), cond.context), "cross")
            x = torch.cat((x[:, :words], self.residual(seen, None, h)), 1)
        h = self.feed_forward(self.modulated(rows.take(x), shift2, scale2))
        return self.residual(x, gate2, rows.put(h, "feed_forward"))

    def modulated(self, x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        x = self.norm(x)
        return x if shift is None or scale is None else modulate(x, shift, scale)

    def residual(self, x: Tensor, gate: Tensor | None, y: Tensor) -> Tensor:
        y = dropped(y, self.dropout, self.drop_path) if self.training else y
        return x + y if gate is None else torch.addcmul(x, gate, y)


@lru_cache(maxsize=32)
def places(grids: tuple[tuple[int, int], ...]) -> Tensor:
    """Row and column of each position of all scales but the first, (N - 1, 2), as fractions of
    those of the last."""
    with torch.inference_mode(False):  # what is kept must also serve training
        height, width = grids[-1]
        found = [
            torch.cartesian_prod(torch.arange(h) / h * height, torch.arange(w) / w * width)
            for h, w in grids[1:]
        ]
        return torch.cat([place.view(-1, 2) for place in found])


def numbers(mask: Tensor) -> Tensor:
    """The number of each word in its text, (B, T), of which `mask` are no padding; padding has that
    of the word before it, or 0."""
    return (mask.cumsum(1) - 1).clamp(min=0)

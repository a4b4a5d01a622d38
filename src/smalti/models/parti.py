"""Parti: an encoder of texts and a decoder that writes a picture code by code.

Yu, Xu, Koh, Luong, Baid, Wang, Vasudevan, Ku, Yang, Ayan, Hutchinson, Han, Parekh, Li, Zhang,
Baldridge, Wu 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation"
(arXiv:2206.10789).

Unusual: pictures are a foreign language, and the model translates. The encoder sees all of a text
and learns together with the decoder, which reads it by cross-attention in every block, so that a
text takes no place among the codes. Guidance compares with a null text.

There is no official code. Known: the lengths and sizes below. [M], remembered only: products
without biases, and attention of codes within a window, which is left out here. Not known and
decided here: learned positions, layer norm before each part, GELU, a null text that is learned.

Letters: B images, N positions, T words of a text, D width, H heads, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smalti.codes import Cond, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig
from smalti.models.raster_stack import Raster, causal, visible
from smalti.nn.adaln import LN_EPS
from smalti.nn.attention import KVCache, attend
from smalti.nn.code_embedding import code_embedding
from smalti.nn.cross import Context, CrossAttention, nulled
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class PartiConfig(GeneratorConfig):
    grid: tuple[int, int] = (32, 32)
    """Height and width of the code grid."""
    vocab: int = 8192
    """Codebook entries V; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number, as published."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    text_length: int = 128
    """T, words that are read."""
    text_dim: int = 512
    """Width of what comes in for a word; 1 with `text_vocab`."""
    text_vocab: int = 0
    """Pieces of words, of whose ids the encoder has vectors itself, as published; 0: what comes in
    are vectors."""
    encoder_layers: int = 12
    """Transformer blocks that read the text."""
    layers: int = 12
    """Transformer blocks that write codes."""
    heads: int = 16
    """Attention heads of both."""
    dim: int = 1024
    """Width D of both, a multiple of `heads`."""
    ffn_dim: int = 4096
    """Width of the feed-forward layers of both."""
    dropout: float = 0.1
    """On the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid",),
            several=("vocab",),
            counts=("channels", "depth", "text_vocab"),
            positive=("text_length", "encoder_layers", "layers", "heads", "dim", "ffn_dim"),
            rates=("dropout",),
            multiple=("dim", "heads"),
        )
        if self.text_vocab and self.text_dim != 1:
            raise ValueError(f"text_dim must be 1 with text_vocab, got {self.text_dim}")

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    context: Context
    """What the encoder gives of the text."""
    start: Tensor
    """(B, 1, D), what slot 0 holds."""
    positions: Tensor
    """(1, N, D) embedding of the position that each slot predicts; (B, N, D) with orders."""


class Attention(nn.Module):
    """Attention of rows (B, n, D) to each other, or of a span to those before it as well."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = Linear(dim, 3 * dim, bias=False)
        self.wo = Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, span: Span | None, layer: int, cache: KVCache | None
    ) -> Tensor:
        qkv = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)  # (B, H, 3, n, hd)
        q, k, v = qkv.unbind(2)  # (B, H, n, hd)
        if span is not None and cache is not None:
            k, v = cache.update(layer, span.slots, span.reach, k, v, span.keep)
        y = attend(q, k, v, mask, causal=span is not None and mask is None and span.first)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """Attention, then in the decoder attention to the text, then feed-forward, each on a norm of
    its input and added to it."""

    def __init__(self, config: PartiConfig, decodes: bool) -> None:
        super().__init__()
        self.dropout, dim = config.dropout, config.dim
        self.attention_norm = nn.LayerNorm(dim, LN_EPS)
        self.attention = Attention(dim, config.heads)
        if decodes:
            self.cross_norm = nn.LayerNorm(dim, LN_EPS)
            self.cross = CrossAttention(dim, config.heads, bias=False)
        self.ffn_norm = nn.LayerNorm(dim, LN_EPS)
        self.feed_forward = MLP(dim, config.ffn_dim, bias=False)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (dropped(y, self.dropout, 0.0) if self.training else y)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        span: Span | None = None,
        context: Context | None = None,
        layer: int = 0,
        cache: KVCache | None = None,
    ) -> Tensor:
        x = self.residual(x, self.attention(self.attention_norm(x), mask, span, layer, cache))
        if context is not None:
            x = self.residual(x, self.cross(self.cross_norm(x), context))
        return self.residual(x, self.feed_forward(self.ffn_norm(x)))


class Encoder(nn.Module):
    """What comes in for words, (B, T, text_dim) or their ids (B, T, 1), to what the decoder reads,
    (B, T, D)."""

    def __init__(self, config: PartiConfig) -> None:
        super().__init__()
        ids, width, dim = config.text_vocab, config.text_dim, config.dim
        self.words = nn.Embedding(ids, dim) if ids else None
        self.null = nn.Parameter(torch.empty(config.text_length, dim if ids else width))
        self.proj = nn.Identity() if ids else Linear(width, dim, bias=False)
        self.positions = nn.Parameter(torch.empty(config.text_length, config.dim))
        layers = [Block(config, decodes=False) for _ in range(config.encoder_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.dim, LN_EPS)

    def forward(self, text: Tensor, mask: Tensor, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """Words, and the mask (B, 1, 1, T) of those that are no padding; the null text has none."""
        if self.words is not None:
            text = self.words(text.squeeze(-1).long())
        text, mask = nulled(text, mask, drop, self.null)  # (B, T, C), (B, 1, 1, T)
        x = self.proj(text) + self.positions  # (B, T, D)
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x), mask


class Parti(Raster):
    """Codes (B, N), bits (B, N, K) or stacks of codes (B, N, G), given a text. A `CausalModel`; one
    position a step."""

    NO_DECAY = ("positions", "start", "encoder.positions", "encoder.null")
    config: PartiConfig

    def __init__(self, config: PartiConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.tok_embeddings = code_embedding(self.spec, config.dim)
        self.start = nn.Parameter(torch.empty(config.dim))
        self.positions = nn.Parameter(torch.empty(self.spec.positions, config.dim))
        self.layers = nn.ModuleList([Block(config, decodes=True) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.dim, LN_EPS)
        self.head = head_of(self.spec, config.dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for products, normal(0, 0.02) for tables, words of a null text of length 1; the
        head its own, so that any code is as likely at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for table in (self.start, self.positions, self.encoder.positions):
            nn.init.normal_(table, std=0.02)
        ids, width = self.config.text_vocab, self.config.text_dim
        nn.init.normal_(self.encoder.null, std=0.02 if ids else width**-0.5)
        self.head.init_weights()

    @property
    def reads(self) -> Reads:
        c = self.config
        return Reads(text_length=c.text_length, text_dim=c.text_dim, text_vocab=c.text_vocab)

    @property
    def reader(self) -> nn.Module:
        return self.encoder.proj if self.encoder.words is None else self.encoder.words

    def prepare(
        self,
        cond: Cond,
        orders: Tensor | None = None,
        spec: TokenSpec | None = None,
        keep: bool = True,
    ) -> Prepared:
        """Texts as the decoder reads them, start and positions, drawn in `orders`, (N,) or (B, N).
        Without `keep`, for training, layers store nothing of the texts."""
        self.draws(spec)
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        words, mask = self.encoder(cond.text, cond.text_mask.bool(), cond.drop)
        table = self.positions if orders is None else self.positions[orders]
        table = table if table.dim() == 3 else table.unsqueeze(0)
        return Prepared(Context(words, mask, keep), self.start.repeat(len(words), 1, 1), table)

    def once(self, cond: Cond, orders: Tensor | None) -> Prepared:
        return self.prepare(cond, orders, keep=False)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight, length = self.config, self.positions, self.draws(spec).positions
        size = c.dim // c.heads
        return KVCache(c.layers, batch, c.heads, length, size, weight.dtype, weight.device)

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes, in the order in which they are drawn, of
        earlier slots only. Without a cache the span must be all slots."""
        x = self.rows(codes, cond.start, span) + arrange(cond.positions, span.slots)  # (B, n, D)
        mask = None if causal(span) else visible(span)
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, span, cond.context, i, cache)
        return self.norm(x)  # (B, n, D)


def tiny() -> PartiConfig:
    """A model of a few thousand parameters, for tests."""
    return PartiConfig(
        grid=(4, 4),
        vocab=32,
        text_length=6,
        text_dim=12,
        encoder_layers=1,
        layers=2,
        heads=2,
        dim=32,
        ffn_dim=64,
        dropout=0.0,
    )


def _sized(encoder_layers: int, layers: int, dim: int, heads: int) -> dict[str, Any]:
    sizes = {"encoder_layers": encoder_layers, "layers": layers, "heads": heads}
    return sizes | {"dim": dim, "ffn_dim": 4 * dim}


SIZES: dict[str, dict[str, Any]] = {
    "350M": _sized(12, 12, 1024, 16),
    "750M": _sized(12, 36, 1024, 16),
    "3B": _sized(12, 36, 2048, 32),
    "20B": _sized(16, 64, 4096, 64),
}
"""Layers of encoder and decoder, heads and width of the published sizes; those of 3B are
remembered."""

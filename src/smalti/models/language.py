"""Decoders of text: one stack of layers that released language models are settings of.

Llama (Touvron et al. 2023, arXiv:2302.13971), Qwen2 and 2.5 (Yang et al. 2024, arXiv:2407.10671),
Gemma (Mesnard et al. 2024, arXiv:2403.08295), Phi-1.5 (Li et al. 2023, arXiv:2309.05463), and
Chameleon's (Meta 2024, arXiv:2405.09818). What differs, as read in transformers 5.24.0:

    Llama       a plain stack
    Qwen2       queries, keys and values have biases; small ones read and write by one table
    Gemma       GELU in place of SiLU, vectors of ids times sqrt(D), heads of any width, one table
    Phi         attention and a plain feed-forward side by side behind one LayerNorm, biases
                everywhere, half of each head is turned; Show-o's also normalises queries and keys
    Chameleon   each head of queries and keys has a LayerNorm of its own; in the largest model the
                norms stand behind attention and feed-forward ("swin")

Pairs i and i + half are turned, as transformers has them. Letters: B rows, n positions of one call,
D width, H heads, hd width of a head, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smalti.config import check
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear, linear
from smalti.nn.llama import Place
from smalti.nn.mlp import MLP, Gated
from smalti.nn.norms import HeadNorm, RMSNorm
from smalti.nn.residual import dropped
from smalti.nn.rope import rope_halves, rotate_halves


@dataclass(frozen=True)
class LanguageConfig:
    """Sizes and kind of a decoder; the defaults are those of Llama."""

    vocab: int
    """V, ids that are read and written."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads."""
    dim: int
    """Width D."""
    ffn_dim: int
    """Width of the feed-forward."""
    kv_heads: int = 0
    """Heads of keys and values; 0: as many as `heads`."""
    head_dim: int = 0
    """Width of a head; 0: `dim` / `heads`."""
    order: Literal["pre", "swin", "parallel"] = "pre"
    """Norms before attention and feed-forward, behind both, or one before both side by side."""
    norm: Literal["rms", "layer"] = "rms"
    """Norms divide by the root mean square, or also subtract the mean."""
    norm_eps: float = 1e-5
    """Added to the variance in normalisation layers."""
    qk_norm: Literal["none", "shared", "heads"] = "none"
    """LayerNorm of queries and keys: none, one for all heads, or one for each."""
    feed_forward: Literal["silu", "gelu", "plain"] = "silu"
    """Gated by SiLU or by the tanh form of GELU, or plain with that GELU and biases."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias."""
    out_bias: bool = False
    """Whether what attention gives has a bias."""
    head_bias: bool = False
    """Whether the logits have a bias."""
    tied: bool = False
    """Whether one table reads and writes ids."""
    embedding_scale: float = 1.0
    """The vectors of ids are multiplied by this."""
    rope_base: float = 10000.0
    """Base of the frequencies of rotary positions."""
    turned: float = 1.0
    """Share of each head that positions turn."""
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("vocab", "layers", "heads", "dim", "ffn_dim"),
            counts=("kv_heads", "head_dim"),
            above_zero=("norm_eps", "embedding_scale", "rope_base", "turned"),
            rates=("dropout",),
        )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads must be a multiple of kv_heads {self.kv_heads}, {self.heads}")
        if not self.head_dim and self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads {self.heads}, got {self.dim}")
        if self.tied and self.head_bias:
            raise ValueError("logits have no bias where one table reads and writes ids")
        if self.turned > 1 or self.turns % 2:
            raise ValueError(
                f"turned must give an even part of heads {self.width} wide, got {self.turned}"
            )

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.dim // self.heads

    @property
    def turns(self) -> int:
        """How many dimensions of a head are turned."""
        return int(self.turned * self.width)


def norm_of(config: LanguageConfig) -> nn.Module:
    """A norm of D, new."""
    return (RMSNorm if config.norm == "rms" else nn.LayerNorm)(config.dim, eps=config.norm_eps)


class Attention(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        rows, width = self.heads + 2 * self.kv_heads, config.width
        self.wqkv = Linear(config.dim, rows * width, bias=config.qkv_bias)
        self.wo = Linear(self.heads * width, config.dim, bias=config.out_bias)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        if config.qk_norm != "none":
            each = (self.heads, self.kv_heads) if config.qk_norm == "heads" else (1, 1)
            self.q_norm, self.k_norm = (HeadNorm(n, width) for n in each)
        self.turns = config.turns

    def forward(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        heads, kv = self.heads, self.kv_heads
        qkv = self.wqkv(x).unflatten(-1, (heads + 2 * kv, -1))  # (B, n, H + 2 H_kv, hd)
        q, k, v = qkv.split((heads, kv, kv), 2)
        q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, n, hd), (B, H_kv, n, hd) twice
        assert place.rotation is not None
        q, k = self.turn(q, place.rotation), self.turn(k, place.rotation)
        if cache is not None:
            k, v = cache.update(layer, place.positions, place.reach, k, v, place.keep)
        y = attend(q, k, v, place.mask, place.causal)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)

    def turn(self, x: Tensor, table: Tensor) -> Tensor:
        if self.turns == x.shape[-1]:
            return rotate_halves(x, table)
        turned, kept = x.split((self.turns, x.shape[-1] - self.turns), -1)
        return torch.cat((rotate_halves(turned, table), kept), -1)


class Block(nn.Module):
    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        if config.feed_forward == "plain":
            self.feed_forward: nn.Module = MLP(config.dim, config.ffn_dim, "tanh")
        else:
            self.feed_forward = Gated(config.dim, config.ffn_dim, config.feed_forward)
        self.attention_norm = norm_of(config)
        if config.order != "parallel":
            self.ffn_norm = norm_of(config)
        self.order, self.dropout = config.order, config.dropout

    def forward(self, x: Tensor, place: Place, layer: int, cache: KVCache | None) -> Tensor:
        if self.order == "swin":
            x = x + self.attention_norm(self.dropped(self.attention(x, place, layer, cache)))
            return x + self.ffn_norm(self.dropped(self.feed_forward(x)))
        seen = self.attention_norm(x)
        y = self.dropped(self.attention(seen, place, layer, cache))
        if self.order == "parallel":
            return x + y + self.dropped(self.feed_forward(seen))
        x = x + y
        return x + self.dropped(self.feed_forward(self.ffn_norm(x)))

    def dropped(self, y: Tensor) -> Tensor:
        return dropped(y, self.dropout, 0.0) if self.training else y


class Language(nn.Module):
    """Vectors of a sequence (B, n, D) to hidden states, and those to logits of ids.

    What stands in the sequence is the business of others: ids of text and of pictures, projected
    features, noise.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = norm_of(config)
        if not config.tied:
            self.output = Linear(config.dim, config.vocab, bias=config.head_bias)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def cache(self, batch: int, length: int) -> KVCache:
        """An empty cache of `length` positions, in the dtype of the weights."""
        c, like = self.config, self.tok_embeddings.weight
        heads = c.kv_heads or c.heads
        return KVCache(c.layers, batch, heads, length, c.width, like.dtype, like.device)

    def embed(self, ids: Tensor) -> Tensor:
        """The vectors (B, n, D) of ids (B, n)."""
        x = self.tok_embeddings(ids)
        return x if self.config.embedding_scale == 1 else x * self.config.embedding_scale

    def turns(self, positions: Tensor) -> Tensor:
        """How positions (B, n) turn queries and keys, (B, n, 2, turned part of a head)."""
        return rope_halves(positions.unsqueeze(-1), self.config.turns, self.config.rope_base)

    def forward(self, x: Tensor, place: Place, cache: KVCache | None = None) -> Tensor:
        """Hidden states (B, n, D), normalised, of vectors (B, n, D) that stand at a place."""
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        return self.norm(x)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, n, V) of hidden states (B, n, D)."""
        return linear(h, self.tok_embeddings.weight) if self.config.tied else self.output(h)


def tiny(**changes: Any) -> LanguageConfig:
    """A decoder of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"vocab": 64, "layers": 2, "heads": 2, "dim": 32, "ffn_dim": 48}
    return LanguageConfig(**sizes | changes)

"""Depth head: the codes of a stack one after another, by a small transformer over depth.

RQ-Transformer (Lee et al. 2022, arXiv:2203.01941), VILA-U (Wu et al. 2024, arXiv:2409.04429) and
UniTok (Ma et al. 2025, arXiv:2502.20321) each have one. The hidden state of a position is the first
token, and each code that is drawn is the next one.

Unusual: the stack is a sequence of its own, with a cache of its own, which ends with the position;
so a picture of N stacks of D codes costs N steps of the large model and N * D of a small one. The
tokens are rows of tables, or the vectors of the tokenizer's codes, or the sums of these so far.

B images, n positions, D width of the head, C width of the tokenizer's code vectors, V codes of a
depth, G depths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from smalti.config import check
from smalti.heads.categorical import CategoricalHead
from smalti.heads.in_turn import HeadInTurn
from smalti.nn import gpt, llama
from smalti.nn.code_embedding import CodeVectors, DepthTable
from smalti.nn.linear import Linear
from smalti.nn.mlp import Gelu
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_1d, rotation


@dataclass(frozen=True)
class DepthConfig:
    """The settings of a depth head."""

    layers: int = 1
    """Transformer blocks over depth."""
    heads: int = 12
    """Attention heads."""
    dim: int = 768
    """Width D of the head, a multiple of `heads`."""
    block: Literal["llama", "gpt"] = "llama"
    """Llama's layers and RMSNorm as UniTok has them, or GPT's and LayerNorm."""
    ffn_dim: int = 2048
    """Width of Llama's feed-forward; GPT's is 4 D."""
    gelu: Gelu = "none"
    """GPT's nonlinearity."""
    positions: bool = False
    """Whether each depth has an embedding of its own, as RQ-Transformer and VILA-U have."""
    rotary: bool = False
    """Whether depths turn queries and keys of Llama's layers, as UniTok's language model has it."""
    shared_classifier: bool = True
    """One classifier for all depths; if not, each has its own."""
    bias: bool = False
    """Whether classifiers have a bias."""
    sums: bool = False
    """Whether a token stands for the sum of all codes so far, not for the last one alone."""
    norm_eps: float = 1e-5
    """Added to the variance in normalisation layers."""
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""
    kv_heads: int = 0
    """As many heads of keys and values as `heads`."""
    projected: bool = False
    """Whether products read tokens and hidden states that are as wide as the head; they read all
    others."""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("layers", "heads", "dim", "ffn_dim"),
            rates=("dropout",),
            above_zero=("norm_eps",),
            multiple=("dim", "heads"),
        )
        if self.rotary and (self.block != "llama" or self.dim // self.heads % 2):
            raise ValueError(
                "rotary is for Llama's layers with heads of an even width, got "
                f"{self.block} {self.dim // self.heads} wide"
            )

    def make_layers(self) -> nn.ModuleList:
        """The layers, new."""
        if self.block == "gpt":
            new = [gpt.Block(self.dim, self.heads, self.dropout, self.gelu) for _ in self.each]
        else:
            new = [llama.Block(self, 0.0) for _ in self.each]
        return nn.ModuleList(new)

    @property
    def each(self) -> range:
        return range(self.layers)

    def make_norm(self) -> nn.Module:
        """The norm before the classifier, new."""
        kind = nn.LayerNorm if self.block == "gpt" else RMSNorm
        return kind(self.dim, self.norm_eps)


class DepthHead(HeadInTurn):
    """Hidden states (B, n, width) to stacks of codes (B, n, G), of `sizes` codes at each depth.

    The tokens come from `seen`: a table of rows of the head's width, or the tokenizer's code
    vectors, which a product brings to that width. Hidden states of another width than the head's
    are brought to it by a product too.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        config: DepthConfig,
        seen: DepthTable | CodeVectors,
        width: int = 0,
    ) -> None:
        super().__init__(len(sizes), config.dim, config.heads)
        self.config, self.seen = config, seen
        self.reads = config.projected or seen.dim != config.dim
        if self.reads:
            self.read = Linear(seen.dim, config.dim)
        self.wide = bool(width) and (config.projected or width != config.dim)
        if self.wide:
            self.into = Linear(width, config.dim)
        if config.positions:
            self.positions = nn.Parameter(torch.zeros(len(sizes), config.dim))
        self.layers, self.norm = config.make_layers(), config.make_norm()
        alike = config.shared_classifier
        if alike and len(set(sizes)) > 1:
            raise ValueError(f"depths that share a classifier must have equal sizes, got {sizes}")
        self.parts = nn.ModuleList(
            [CategoricalHead(config.dim, n, config.bias) for n in (sizes[:1] if alike else sizes)]
        )

    def init_weights(self) -> None:
        """Normal(0, 0.02) for positions, zeros for the logits: any code is as likely as any
        other."""
        if self.config.positions:
            nn.init.normal_(self.positions, std=0.02)
        if self.wide:
            nn.init.zeros_(self.into.bias)
        super().init_weights()

    def each(self) -> list[CategoricalHead]:
        parts = cast(list[CategoricalHead], list(self.parts))
        return parts * self.count if self.config.shared_classifier else parts

    def first(self, h: Tensor) -> Tensor:
        x = self.into(h) if self.wide else h
        return x + self.positions[0] if self.config.positions else x

    def rotation(self, device: torch.device) -> Tensor | None:
        if not self.config.rotary:
            return None
        return rotation(rope_1d(self.count, self.head_dim)).to(device)

    def behind(self, parts: Tensor) -> Tensor:
        vectors = self.seen.each(parts)
        return self.tokens(vectors.cumsum(-2) if self.config.sums else vectors, 1)

    def tokens(self, vectors: Tensor, begin: int) -> Tensor:
        """Tokens of vectors (B, n, g, C), the first of which is that of depth `begin`."""
        x = self.read(vectors) if self.reads else vectors
        if self.config.positions:
            x = x + self.positions[begin : begin + x.shape[-2]]
        return x

    def latest(self, parts: list[Tensor]) -> Tensor:
        begin = len(parts)
        if self.config.sums:
            vector = self.seen.each(torch.stack(parts, -1)).sum(-2, keepdim=True)
        else:
            vector = self.seen.each(parts[-1].unsqueeze(-1), begin - 1)
        return self.tokens(vector, begin).squeeze(-2)

"""The sizes and the layers of Meissonic: blocks of two streams, words and codes, and of one.
`models/meissonic.py` says what they make together.

Letters: B images, n positions of the transformer, T words, C width of their features, D width, H
heads, hd = D / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Reads, Rowwise, TokenSpec
from smalti.config import check
from smalti.models.generator import GeneratorConfig
from smalti.nn.adaln import modulate, normed
from smalti.nn.attention import attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_1d, rotate

EPS = 1e-6
SINUSOID = 256
"""Cosines and sines that stand for a number."""
THOUSAND = 1000.0
"""What times and guidance are multiplied by before they become cosines and sines."""


@dataclass(frozen=True)
class MeissonicConfig(GeneratorConfig):
    grid: tuple[int, int] = (64, 64)
    """Height and width of the code grid that the model learns; it draws others too."""
    vocab: int = 8192
    """Codebook entries, to which the mask token is one more row; 2 with `channels`."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    factor: int = 16
    """Pixels of a code along one side, by which the model is told how large a picture is."""
    text_length: int = 78
    """Features that a text has at most, T."""
    text_dim: int = 1024
    """Width of a feature, C."""
    word_dim: int = 0
    """How many numbers of a word's features are read; 0: all."""
    pooled: int = 0
    """Numbers of the last feature, if that is no word but the whole text as a vector; 0: it is a
    word, and the mean of the words stands for the text."""
    joint_layers: int = 14
    """Blocks of two streams."""
    single_layers: int = 28
    """Blocks of one stream, behind them."""
    heads: int = 8
    """Attention heads."""
    dim: int = 1024
    """Width D, the sum of `axes` times `heads`."""
    axes: tuple[int, int, int] = (16, 56, 56)
    """Numbers of a head that are not turned, that turn with the row, and with the column."""
    compress: bool = True
    """Whether the transformer sees 2 x 2 codes as one position."""
    clock: Literal["share", "steps"] = "share"
    """How far the drawing has come: share, the share of hidden codes; steps, as published, the
    steps that are left, and in training 1000 times the share of hidden codes."""
    guided: float | None = None
    """Guidance that the model is told; None, as published: it is told none."""
    beauty: float = 6.0
    """How beautiful its pictures are to be, the last of the micro-conditions."""
    dropout: float = 0.0
    """Of what attention and feed-forward give."""

    def __post_init__(self) -> None:
        sizes = ("vocab", "factor", "text_length", "text_dim", "heads", "dim")
        counts = ("channels", "depth", "word_dim", "pooled", "joint_layers", "single_layers")
        check(self, pairs=("grid",), positive=sizes, counts=counts, rates=("dropout",))
        if len(self.axes) != 3 or min(self.axes) < 2 or any(n % 2 for n in self.axes):
            raise ValueError(f"axes must be three even positive numbers, got {self.axes}")
        if sum(self.axes) * self.heads != self.dim:
            raise ValueError(
                f"dim must be heads {self.heads} times the sum of axes {self.axes}, got {self.dim}"
            )
        if max(self.word_dim, self.pooled) > self.text_dim:
            raise ValueError(
                f"word_dim and pooled must be at most text_dim {self.text_dim}, "
                f"got {self.word_dim} and {self.pooled}"
            )
        if self.pooled and self.text_length < 2:
            raise ValueError(f"text_length must be 2 or more with pooled, got {self.text_length}")
        check_even(self.grid, self.compress)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a word and of a whole text that are read."""
        words = self.word_dim or self.text_dim
        return words, self.pooled or words

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with the tokenizer's codes, their size in pixels, and the text. Raises
        ValueError if there is no text, or if the model cannot predict such codes."""
        if not reads.text_length:
            raise ValueError(
                "Meissonic draws from texts: take a recipe with a text encoder, such as "
                "emoji_meissonic"
            )
        return replace(super().fitted(tokenizer, reads), factor=tokenizer.factor)


def check_even(grid: tuple[int, int], compress: bool) -> None:
    """Raise ValueError unless a grid can be compressed, if it is to be."""
    if compress and (grid[0] % 2 or grid[1] % 2):
        raise ValueError(f"with compress both sides of grid must be even, got {grid}")


def places(grid: tuple[int, int]) -> Tensor:
    """Where the positions of a grid are, row by row, (n, 3): 0, row and column."""
    height, width = grid
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1).float()


@lru_cache(maxsize=32)
def turns(words: int, grid: tuple[int, int], axes: tuple[int, int, int]) -> Tensor:
    """How queries and keys of words and of a grid turn, (1, T + n, hd / 2) complex."""
    with torch.inference_mode(False):  # what is kept must also serve training
        at = F.pad(places(grid).long(), (0, 0, words, 0))  # (T + n, 3); words are at 0, 0, 0
        tables = [rope_1d(max(grid), width)[at[:, i]] for i, width in enumerate(axes)]
        return torch.view_as_complex(torch.cat(tables, 1).contiguous()).unsqueeze(0)


def sinusoid(numbers: Tensor) -> Tensor:
    """Cosines and sines (..., 256) of numbers (...), cosines first."""
    half = SINUSOID // 2
    steps = torch.arange(half, dtype=torch.float32, device=numbers.device)
    angles = numbers.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), -1)


class Embed(nn.Module):
    """w2(silu(w1 x)): numbers as a vector of width D."""

    def __init__(self, width: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, dim, bias=bias)
        self.w2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x.to(self.w1.weight.dtype))))


class Attention(nn.Module):
    """Queries, keys and values of a stream, and what is made of what they find."""

    def __init__(self, dim: int, heads: int, beside: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(dim // heads, EPS)
        self.k_norm = RMSNorm(dim // heads, EPS)
        self.wo = Linear(dim + beside, dim)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normalised, and values of (B, n, D), each (B, n, H, hd)."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v


def attended(q: Tensor, k: Tensor, v: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
    """What (B, n, H, hd) find, (B, n, D); turned by (n, 1, hd / 2), read where mask (B, 1, 1, n)
    is True."""
    q, k, v = (t.transpose(1, 2) for t in (rotate(q, turn), rotate(k, turn), v))
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """The words, or the codes, of a block of two streams."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.adaln = nn.Linear(dim, 6 * dim)
        self.attention = Attention(dim, config.heads)
        self.feed_forward = MLP(dim, 4 * dim, "tanh")

    def modulation(self, told: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the feed-forward, each (B, 1, D)."""
        return self.adaln(told).unsqueeze(1).chunk(6, -1)

    def residual(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return x + gate * F.dropout(y, self.dropout, self.training)

    def finished(self, x: Tensor, y: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """The stream (B, n, D) with what attention found, and its feed-forward."""
        _, _, gate1, shift2, scale2, gate2 = parts
        x = self.residual(x, gate1, self.attention.wo(y))
        h = modulate(normed(x, EPS), shift2, scale2)
        return self.residual(x, gate2, self.feed_forward(h))


class JointBlock(nn.Module):
    """Two streams that attend to both."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.words = Stream(config)
        self.codes = Stream(config)

    def forward(
        self, words: Tensor, x: Tensor, told: Tensor, turn: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        streams = (self.words, words), (self.codes, x)
        parts = [stream.modulation(told) for stream, _ in streams]
        heads = [
            stream.attention.parts(modulate(normed(y, EPS), shift, scale))
            for (stream, y), (shift, scale, *_) in zip(streams, parts, strict=True)
        ]
        q, k, v = (torch.cat(both, 1) for both in zip(*heads, strict=True))  # (B, T + n, H, hd)
        found = attended(q, k, v, turn, mask).split((words.shape[1], x.shape[1]), 1)
        words, x = (
            stream.finished(y, new, part)
            for (stream, y), new, part in zip(streams, found, parts, strict=True)
        )
        return words, x


class SingleBlock(nn.Module):
    """One stream of words and codes, whose feed-forward runs beside attention."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.adaln = nn.Linear(dim, 3 * dim)
        self.attention = Attention(dim, config.heads, beside=4 * dim)
        self.wide = Linear(dim, 4 * dim)

    def forward(self, x: Tensor, told: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        shift, scale, gate = self.adaln(told).unsqueeze(1).chunk(3, -1)  # each (B, 1, D)
        h = modulate(normed(x, EPS), shift, scale)
        found = attended(*self.attention.parts(h), turn, mask)
        wide = F.gelu(self.wide(h), approximate="tanh")  # (B, T + n, 4D)
        y = self.attention.wo(torch.cat((found, wide), -1))
        return x + gate * F.dropout(y, self.dropout, self.training)


class Resampling(nn.Module):
    """Makes one position of 2 x 2 of them, or with `up` four of one."""

    def __init__(self, dim: int, up: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, EPS)
        self.conv = (nn.ConvTranspose2d if up else nn.Conv2d)(dim, dim, 2, 2, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Positions (B, n, D) of a grid to (B, n / 4, D) or (B, 4n, D)."""
        x = self.norm(x).transpose(1, 2).unflatten(2, grid)  # (B, D, h, w)
        return self.conv(x).flatten(2).transpose(1, 2)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    words: Tensor
    """(B, T, D), without the vector of the whole text."""
    mask: Tensor
    """(B, 1, 1, T + n) bool: which words and positions are read."""
    told: Tensor
    """(B, D): the text as a whole and the micro-conditions."""
    rotation: Tensor
    """(1, T + n, hd / 2) complex: how queries and keys are turned."""
    grid: tuple[int, int]
    """Height and width of the codes."""

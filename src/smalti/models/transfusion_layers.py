"""The sizes and the layers of lucidrains' Transfusion: scales of words are learned, those of
pictures follow the time of the flow. `models/transfusion.py` says what they make together.

Letters: B rows, L positions, n of one call, D width, H heads, hd width of a head, C numbers of a
vector, V ids, T times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.unified import Marks, UnifiedConfig
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.nn.rope import rotate
from smalti.text.sequence import Wrapping

CHARACTERS = 128
"""Ids for what is written of a picture's shape: those of ASCII."""
SHARPEST = 1e-2
"""Least share of noise by which what is left to go is divided."""


@dataclass(frozen=True)
class TransfusionConfig(UnifiedConfig):
    words: int = 256
    """Ids of text."""
    channels: int = 8
    """C, numbers of a vector of a picture."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    head_dim: int = 64
    """Width of a head."""
    dim: int = 768
    """Width D."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward as a multiple of D, two thirds of it."""
    skips: bool = True
    """Whether layers of the second half also read what those of the first half read."""
    value_residual: bool = False
    """Whether layers mix the values of the first layer into their own."""
    qk_norm: bool = True
    """Whether queries and keys are normalised."""
    cap: float = 50.0
    """Products of queries and keys stay below this."""
    gated: bool = True
    """Whether each head has a gate."""
    places: bool = True
    """Whether vectors are told their row and column."""
    clean: bool = False
    """Whether the model says where a vector will be, in place of where it is going."""
    grid: tuple[int, int] = (8, 8)
    """Height and width of the pictures that it draws, in vectors."""
    length: int = 4096
    """Positions of a document, at most."""
    seen_from: float = 1.0
    """The earliest time at which training shows a picture that is only read: 1 is without noise.
    The paper: 0.5, of pictures that are learned as well."""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("words", "channels", "layers", "heads", "head_dim", "dim", "length"),
            above_zero=("mlp_ratio", "cap"),
            pairs=("grid",),
            shares=("seen_from",),
        )
        if self.head_dim % 2 or self.dim % 2:
            raise ValueError(f"head_dim and dim must be even, got {self.head_dim}, {self.dim}")

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """It has marks of its own, behind the words."""
        return replace(self, words=words, grid=self.check_spec(spec), channels=spec.channels)

    @property
    def start(self) -> int:
        """The id before a document; the others follow it: the end of one, a word of no text,
        before and after a picture, before its shape, and the first character."""
        return self.words

    @property
    def spec(self) -> TokenSpec:
        """The numbers of a picture that it draws."""
        return TokenSpec((self.grid,), channels=self.channels)

    @property
    def vocab(self) -> int:
        """V, ids of words, of characters and of marks."""
        return self.words + 6 + CHARACTERS

    @property
    def wrapping(self) -> Shaped:
        """How pictures are written."""
        silence = self.start + 2
        return Shaped("picture", True, learns_end=False, silence=silence, first=self.start)


@dataclass(frozen=True)
class Shaped(Wrapping):
    """A mark, height and width as characters, and the begin of a picture before it; its end."""

    first: int = 0
    """The id before a document."""

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        (height, width), *_ = spec.grids
        written = [self.first + 6 + ord(letter) for letter in f"{height},{width}"]
        return [self.first + 5, *written, self.first + 3]

    def end(self, spec: TokenSpec) -> Sequence[int]:
        return (self.first + 4,)


class Place(NamedTuple):
    """Where the rows of one call stand, and of which kind they are; shared by all layers."""

    slots: Tensor
    """(n,) or (B, n)."""
    reach: int
    """Keys below this slot are read."""
    rotation: Tensor
    """(B, n, 1, hd / 2) complex."""
    mask: Tensor | None
    """(B, 1, n, m) bool."""
    pictures: Tensor
    """(B, n, 1) bool: vectors, not words."""
    times: Tensor
    """(T, 4 D): the different times of the flow. A picture has one, so they are few."""
    when: Tensor
    """(B, n): which of them each row has."""
    keep: bool

    def by_time(self, layer: nn.Linear) -> Tensor:
        """What a layer makes of the time of each row, (B, n, ...)."""
        return F.embedding(self.when, layer(self.times.to(layer.weight.dtype)))


class UnitNorm(nn.Module):
    """x / |x| * sqrt(D) * (1 + weight)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * len(self.gamma) ** 0.5 * (self.gamma + 1)


class Adapted(nn.Module):
    """The scales before and after attention or feed-forward, of words and of vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layernorm_gamma = nn.Parameter(torch.zeros(dim))
        self.layerscale = nn.Parameter(torch.zeros(dim))
        self.to_film = nn.Linear(4 * dim, 2 * dim)
        self.to_ada_ln_zero = nn.Linear(4 * dim, dim)

    def before(self, x: Tensor, place: Place) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:])
        scale, shift = place.by_time(self.to_film).chunk(2, -1)
        return torch.where(place.pictures, x * (scale + 1) + shift, x * (self.layernorm_gamma + 1))

    def after(self, y: Tensor, place: Place) -> Tensor:
        gate = place.by_time(self.to_ada_ln_zero).sigmoid()
        return y * torch.where(place.pictures, gate, self.layerscale + 1)


class Attention(nn.Module):
    def __init__(self, config: TransfusionConfig, first: bool) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads, self.cap = config.heads, config.cap
        self.to_qk = Linear(config.dim, 2 * inner, bias=False)
        self.to_v = Linear(config.dim, inner, bias=False)
        self.q_norm = UnitNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = UnitNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.to_gates = Linear(config.dim, config.heads, bias=False) if config.gated else None
        mixes = config.value_residual and not first
        self.to_mix = nn.Linear(config.dim, config.heads) if mixes else None
        self.to_out = Linear(inner, config.dim, bias=False)

    def forward(
        self, x: Tensor, place: Place, layer: int, cache: KVCache | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is read, (B, n, D), and this layer's own values, (B, H, n, hd); `first` are those of
        the first layer."""
        q, k = self.to_qk(x).unflatten(-1, (2, self.heads, -1)).unbind(2)  # (B, n, H, hd)
        q, k = rotate(self.q_norm(q), place.rotation), rotate(self.k_norm(k), place.rotation)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        own = self.to_v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = own
        if self.to_mix is not None and first is not None:
            mix = self.to_mix(x).sigmoid().mT.unsqueeze(-1)  # (B, H, n, 1)
            v = own * mix + first * (1 - mix)
        if cache is not None:
            k, v = cache.update(layer, place.slots, place.reach, k, v, place.keep)
        q = q.to(k.dtype)  # a cache may be more exact than a model
        scores = ((q * (q.shape[-1] ** -0.5 / self.cap)) @ k.mT).float().tanh()  # (B, H, n, m)
        if place.mask is None:
            scores = self.cap * scores
        else:  # an addend, which unlike a filled mask costs the backward pass nothing
            hidden = torch.zeros(place.mask.shape, device=q.device)
            hidden = hidden.masked_fill_(~place.mask, -torch.inf)
            scores = torch.add(hidden, scores, alpha=self.cap)
        y = (scores.softmax(-1).to(v.dtype) @ v).to(x.dtype)
        if self.to_gates is not None:
            y = y * self.to_gates(x).sigmoid().mT.unsqueeze(-1)
        return self.to_out(y.transpose(1, 2).flatten(2)), own


class FeedForward(nn.Module):
    """w2(a * gelu(b)), where a and b are halves of w1 x."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        inner = int(dim * ratio * 2 / 3)
        self.w1, self.w2 = Linear(dim, 2 * inner), Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        x, gates = self.w1(x).chunk(2, -1)
        return self.w2(x * F.gelu(gates))


class Mixture(nn.Module):
    """What all layers so far gave, weighed by one query."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pseudo_queries = nn.Parameter(torch.empty(dim))
        self.norm_keys = UnitNorm(dim)

    def forward(self, hiddens: Sequence[Tensor]) -> Tensor:
        values = torch.stack(list(hiddens))  # (layers, B, n, D)
        scores = self.norm_keys(values) @ self.pseudo_queries * values.shape[-1] ** -0.5
        return (scores.softmax(0).unsqueeze(-1) * values).sum(0)


class Layer(nn.Module):
    CALLED = ("skipped", "mixed")

    def __init__(self, config: TransfusionConfig, number: int) -> None:
        super().__init__()
        dim, second = config.dim, 2 * number >= config.layers
        self.skip = Linear(2 * dim, dim, bias=False) if config.skips and second else None
        self.around_attention, self.around_feed_forward = Adapted(dim), Adapted(dim)
        self.attention = Attention(config, number == 0)
        self.feed_forward = FeedForward(dim, config.mlp_ratio)
        self.mixture = Mixture(dim)

    def skipped(self, x: Tensor, below: Tensor) -> Tensor:
        """What the layer reads, (B, n, D), of x and of what a layer of the first half read."""
        assert self.skip is not None
        return self.skip(torch.cat((x, below), -1)) + x

    def mixed(self, hiddens: Sequence[Tensor]) -> Tensor:
        """What stands behind the layer, (B, n, D), of what all layers so far gave."""
        return self.mixture(hiddens)

    def forward(
        self, x: Tensor, place: Place, layer: int, cache: KVCache | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        around = self.around_attention
        read, values = self.attention(around.before(x, place), place, layer, cache, first)
        x = x + around.after(read, place)
        around = self.around_feed_forward
        return x + around.after(self.feed_forward(around.before(x, place)), place), values


class Time(nn.Module):
    """Times (T,) of a flow, 0 noise and 1 the picture, as (T, 4 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.frequencies: Tensor  # random, and never trained
        self.register_buffer("frequencies", torch.empty(dim // 2))
        self.proj = nn.Linear(dim + 1, 4 * dim)

    def forward(self, times: Tensor) -> Tensor:
        angles = times.unsqueeze(-1) * self.frequencies * 2 * math.pi
        waves = torch.cat((times.unsqueeze(-1), angles.sin(), angles.cos()), -1)
        return F.silu(self.proj(waves))


def axis(dim: int) -> nn.Sequential:
    """Numbers of rows or columns (..., 1) to vectors (..., D)."""
    return nn.Sequential(
        nn.Linear(1, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, 2 * dim), nn.SiLU(),
        nn.Linear(2 * dim, dim),
    )  # fmt: skip


def along(layer: nn.Sequential, numbers: Tensor) -> Tensor:
    """Vectors (B, n, D) of the numbers (B, n) of rows or columns, of which few are different."""
    different, which = numbers.unique(return_inverse=True)
    return F.embedding(which, layer(different.to(layer[0].weight.dtype).unsqueeze(-1)))

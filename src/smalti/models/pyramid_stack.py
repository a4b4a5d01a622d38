"""What models of scales share: layers that a condition modulates, and the picture so far.

A scale is predicted from the picture that the scales before it make, in the tokenizer's latent
space, at the points of its own grid. Attention is causal between scales and free within one; its
queries and keys are l2-normalised. A condition scales, shifts and gates every layer, once for the
whole sequence.

Letters: B images, N positions of all scales, n of one, D width, H heads, C dimensions of the
vectors that codes stand for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Span, TokenSpec
from smalti.models.generator import Generator
from smalti.models.pruned import Outputs, Pruned, Rows, taken
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear, fused
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.nn.rope import rotate, rotate_halves
from smalti.sampling.pruning import Pruning
from smalti.tokenizers.quantize.bsq import Grids
from smalti.tokenizers.quantize.pyramids import Pyramid

SHARPEST = 100.0
"""The largest factor that l2-normalised queries are scaled by."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a stack."""

    layers: int
    heads: int
    dim: int
    ffn_dim: int
    scale: float | None
    """Of the products of queries and keys; None normalises both and learns a scale of each head."""
    shared_adaln: bool
    """One modulation for all layers, to which each adds its own constants."""
    norm_eps: float
    dropout: float

    def cache(self, batch: int, length: int, like: Tensor) -> Cache:
        """An empty cache of `length` positions, on the device and in the dtype of `like`."""
        size = self.dim // self.heads
        cache = Cache(self.layers, batch, self.heads, length, size, like.dtype, like.device)
        cache.modulations, cache.outputs = {}, {}
        return cache


class Cache(KVCache):
    """Keys and values, the picture so far, and each layer's modulation. All rows are at one scale:
    images that are drawn together begin together."""

    scales: int = 0
    """How many scales are in the latent."""
    latent: Tensor | None = None
    """(B, C, h, w): the sum of the scales drawn so far; of images alone, not of all branches."""
    modulations: dict[int, Tensor]
    """(B, 6, D) of each layer, the same for all scales."""
    outputs: Outputs
    """Of late layers, if a request prunes them."""

    def rows(self, index: Tensor) -> Self:
        other = super().rows(index)
        other.modulations = {}
        other.outputs = {key: y.index_select(0, index) for key, y in self.outputs.items()}
        if self.latent is not None:
            other.latent = self.latent.index_select(0, index[index < len(self.latent)])
        return other

    def put(self, index: Tensor, other: KVCache) -> None:
        assert isinstance(other, Cache)
        if self.scales != other.scales:
            raise ValueError(
                "images of scales begin together: rows before scale "
                f"{other.scales} cannot join rows before scale {self.scales}"
            )
        super().put(index, other)
        self.modulations = {}
        for key, y in self.outputs.items():
            y.index_copy_(0, index, other.outputs[key])
        if self.latent is not None and other.latent is not None:
            images = index[index < len(self.latent)]
            self.latent.index_copy_(0, images, other.latent)


class Place(NamedTuple):
    """Where the rows of one call stand in the sequence, shared by all layers."""

    slots: Tensor
    """(n,)."""
    reach: int
    """Keys below this slot are read."""
    mask: Tensor | None
    keep: bool
    """Whether keys and values are written to the cache."""
    rotation: Tensor | None = None
    """How queries and keys are turned, if they are: (n, head_dim / 2) complex, for heads that
    differ (B, 1, n, head_dim / 2), or (B, n, 2, head_dim), a table of `rope_halves`."""
    pruned: Pruned | None = None
    """What late layers leave out of the rows."""

    def rows(self, x: Tensor, layer: int, cache: Cache | None) -> tuple[Rows, Place]:
        """Which rows of x (B, n, D) a layer computes, and where those stand."""
        plan = self.pruned
        if plan is None or cache is None or layer < plan.first:
            return Rows(), self
        outputs = cache.outputs if self.keep else dict(cache.outputs)
        rows, turn = Rows.of(x, layer, plan, outputs), self.rotation
        if rows.kept is not None and turn is not None:
            turn = turn[rows.kept].unsqueeze(1) if turn.is_complex() else taken(turn, rows.kept)
        slots = self.slots[: len(self.slots) - plan.out] - plan.gap
        reach = self.reach - plan.gap - plan.out
        return rows, self._replace(slots=slots, reach=reach, rotation=turn)


def scale_of(span: Span, sizes: Sequence[int]) -> int:
    """The number of the scale that a span fills, of scales of so many positions."""
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    if span.start not in starts:
        raise ValueError("all rows of a batch of scales must be at the same scale")
    return starts.index(span.start)


def scales_of(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The number of the scale of each position, (N,)."""
    return torch.cat([torch.full((n,), scale, device=device) for scale, n in enumerate(sizes)])


def pruned(
    pruning: Pruning | None, span: Span, grids: Grids, layers: int, cache: Cache | None
) -> Pruned | None:
    """What late layers leave out of the scale that a span fills. Without a cache nothing."""
    if cache is None or pruning is None or not pruning.prune:
        return None
    return Pruned.of(pruning, scale_of(span, [h * w for h, w in grids]), grids, layers)


def place_of(
    span: Span,
    sizes: Sequence[int],
    cache: Cache | None,
    rotation: Tensor | None = None,
    pruned: Pruned | None = None,
) -> Place:
    """Attention between scales is causal: a mask without a cache, nothing to hide with one."""
    mask = None
    if cache is None:
        scale = scales_of(sizes, span.slots.device)
        mask = scale[:, None] >= scale  # (N, N)
    turn = None if rotation is None else rotation[span.slots]
    return Place(span.slots, span.reach, mask, span.keep, turn, pruned)


def picture(
    quantize: Pyramid, codes: Tensor, span: Span, sizes: Sequence[int], cache: Cache | None
) -> Tensor | None:
    """The picture so far at the grid of the span, (B, n, C); None at the first scale.

    `codes` (B, N, *trailing), or vectors (B, N, C). Without a cache, of all scales but the first.
    """
    if cache is None:
        with torch.autocast(codes.device.type, enabled=False):
            return quantize.inputs(codes)
    scale = scale_of(span, sizes)
    if scale == 0:
        return None
    latent = cache.latent
    if cache.scales < scale:
        last = codes[:, sum(sizes[: scale - 1]) : sum(sizes[:scale])]
        vectors = last if last.is_floating_point() else quantize.embed(last)  # (B, n, C)
        if latent is None:
            latent = quantize.empty(len(codes), vectors)
        latent = quantize.add(latent, vectors, scale - 1)
        if span.keep:
            cache.latent, cache.scales = latent, scale
    assert latent is not None
    return quantize.shrink(latent, scale)


def to_length(x: Tensor, length: Tensor | float) -> Tensor:
    """The vectors x (..., C) scaled to `length`, which is broadcast to (..., 1)."""
    return x * (length / x.norm(dim=-1, keepdim=True).clamp_min(1e-12))


class Attention(nn.Module):
    """Queries and values have a bias, keys have none."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim, self.heads = shape.dim, shape.heads
        self.wqkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.wo = Linear(dim, dim)
        self.log_scale, self.scale = None, shape.scale
        if shape.scale is None:
            self.log_scale = nn.Parameter(torch.full((shape.heads, 1, 1), math.log(4.0)))
            self.scale = 1.0

    def forward(self, x: Tensor, place: Place, layer: int, cache: Cache | None) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = fused(self.wqkv, x, bias).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, n, hd)
        if self.log_scale is not None:
            length = self.log_scale.clamp(max=math.log(SHARPEST)).exp()  # (H, 1, 1)
            q, k = to_length(q, length), to_length(k, 1.0)
        if place.rotation is not None:
            turn = rotate if place.rotation.is_complex() else rotate_halves
            q, k = turn(q, place.rotation), turn(k, place.rotation)
        if cache is not None:
            k, v = cache.update(layer, place.slots, place.reach, k, v, place.keep)
        y = attend(q, k, v, place.mask, scale=self.scale)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Modulating(Protocol):
    """What a model prepares for its layers."""

    cond: Tensor
    """(B, 1, D): what modulates the layers."""
    shared: Tensor | None
    """(B, 6, D): the modulation that all layers share, if they do."""


class Modulated(nn.Module):
    """The parts of a layer: attention and feed-forward, and how a condition modulates them. A model
    writes down in which order they work."""

    def __init__(self, shape: Shape, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.feed_forward = MLP(shape.dim, shape.ffn_dim, "tanh")
        if shape.shared_adaln:
            self.constants = nn.Parameter(torch.empty(6, shape.dim))
        else:
            self.adaln = nn.Linear(shape.dim, 6 * shape.dim)
        self.shape, self.eps, self.drop_path = shape, shape.norm_eps, drop_path

    def soften(self, gate: float, rest: float = 0.5) -> None:
        """Make the branches small, their gates nearly off (`gate`) and scales and shifts smaller
        (`rest`), in initialised weights."""
        for output in (self.attention.wo, self.feed_forward.w2):
            output.weight.div_((2 * self.shape.layers) ** 0.5)
        if self.shape.shared_adaln:
            rows = nn.init.trunc_normal_(self.constants, std=self.shape.dim**-0.5)
        else:
            rows = self.adaln.weight.unflatten(0, (6, -1))
        rows[:2].mul_(gate)
        rows[2:].mul_(rest)

    def modulation(self, cond: Modulating, layer: int, cache: Cache | None) -> Tensor:
        """(B, 6, D): gates, scales and shifts of attention and feed-forward."""
        if cache is not None and layer in cache.modulations:
            return cache.modulations[layer]
        if cond.shared is not None:
            found = cond.shared + self.constants
        else:
            found = self.adaln(F.silu(cond.cond)).unflatten(-1, (6, -1)).squeeze(1)
        if cache is not None:
            cache.modulations[layer] = found
        return found

    def residual(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        y = dropped(y, self.shape.dropout, self.drop_path) if self.training else y
        return torch.addcmul(x, gate, y)


class ScaleModel(Generator):
    """Codes (B, N, *trailing), a scale a step, from the picture so far. A model has `prepare` and
    `transform`."""

    FLOAT32 = ("quantize.",)
    """What stays in float32 when the model is loaded in another dtype."""
    quantize: Any
    """The tokenizer's quantizer, a `Pyramid`, frozen; of bits it has no weights."""
    start_pos: nn.Parameter

    def init_normal(self) -> None:
        """Normal(0, 1 / sqrt(3 D)) with zero biases; the quantizer stays as it is."""
        std = (3 * self.config.dim) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not name.startswith("quantize."):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def learn_from(self, tokenizer: Any) -> None:
        """Take over codebook and convolutions of the tokenizer whose codes are to be learned, which
        bits have not."""
        self.quantize.load_state_dict(tokenizer.quantize.state_dict())

    @property
    def prunes(self) -> bool:
        return True

    def blocks(self, spec: TokenSpec | None = None) -> list[int]:
        """Positions of each scale, of which there may be one."""
        return [h * w for h, w in (spec or self.spec).grids]

    def cache(self, batch: int, spec: TokenSpec | None = None) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        return self.config.shape.cache(batch, self.draws(spec).positions, self.start_pos)

    def read(self, codes: Tensor, cond: Any, span: Span, cache: Cache | None) -> Tensor | None:
        """The picture so far at the grid of the span, (B, n, C); None at the first scale.

        `codes` (B, N, *trailing), or vectors (B, N, C). Without a cache, of all scales but the
        first.
        """
        return picture(self.quantize, codes, span, self.blocks(), cache)

    def transform(self, seen: Tensor | None, cond: Any, span: Span, cache: Cache | None) -> Tensor:
        """Hidden states (B, n, D) of what was `read`."""
        raise NotImplementedError

    def hidden(self, codes: Tensor, cond: Any, span: Span, cache: Cache | None = None) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N, *trailing), or vectors (B, N, C),
        of earlier scales only. Without a cache the span must be all slots."""
        return self.transform(self.read(codes, cond, span, cache), cond, span, cache)

"""VAR: a transformer that predicts a picture scale by scale, all codes of a scale at once.

Tian, Jiang, Yuan, Peng, Wang 2024, "Visual Autoregressive Modeling: Scalable Image Generation via
Next-Scale Prediction" (arXiv:2404.02905).

Unusual: what a scale is predicted from is not the code before it but the picture so far, in the
tokenizer's latent space, shrunk to the grid of the scale. So the model holds a frozen copy of its
tokenizer's codebook and convolutions (`quantize`). The condition modulates each layer, once for
the whole sequence. Attention is causal between scales and free within one; its queries and keys are
l2-normalised.

Letters: B images, N positions of all scales, n of one, K scales, D width, H heads, V codebook
entries, C codebook dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Guide, Span, TokenSpec
from smalti.heads.categorical import CategoricalHead
from smalti.nn.adaln import modulate, normed
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import drop_path_rates, dropped
from smalti.sampling.filters import Filters, draw, mixture
from smalti.sampling.noise import SlotNoise
from smalti.tokenizers.multiscale_vqvae import VAR256
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, check, pyramid

SHARPEST = 100.0
"""The largest factor that l2-normalised queries are scaled by."""


@dataclass(frozen=True)
class VARConfig:
    scales: tuple[tuple[int, int], ...] = VAR256
    """Height and width of each grid, coarse to fine."""
    vocab: int = 4096
    """Codebook entries, the same for all scales."""
    latent: int = 32
    """Codebook dimensions C."""
    phis: int = 4
    """Convolutions behind the codebook; 0: one for each scale."""
    phi_ratio: float = 0.5
    """Share of those convolutions in what they give."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 16
    heads: int = 16
    dim: int = 1024
    """Width D, a multiple of `heads`."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward as a multiple of D."""
    shared_adaln: bool = False
    """One modulation for all layers, to which each adds its own constants."""
    l2_norm: bool = True
    """Normalise queries and keys; False scales their products by 0.25 / sqrt(head_dim)."""
    norm_eps: float = 1e-6
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    gate: float = 1e-3
    """Scale of the gates as initialised; published: 1e-3 to 5e-6, smaller for deeper models."""

    def __post_init__(self) -> None:
        check(self.scales, self.vocab, self.latent, self.phis, self.phi_ratio)
        for name in ("classes", "layers", "heads", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be above 0, got {self.mlp_ratio}")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be a positive number, got {self.norm_eps}")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim}, {self.heads}")

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, self.vocab)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class Prepared(NamedTuple):
    """All that no drawn code changes."""

    first: Tensor
    """(B, n, D): inputs of the first scale, without positions."""
    places: Tensor
    """(N, D): positions and scales."""
    cond: Tensor
    """(B, 1, D): what modulates the layers."""
    shared: Tensor | None
    """(B, 6, D): the modulation that all layers share, if they do."""


class Cache(KVCache):
    """Keys and values, the picture so far, and each layer's modulation."""

    scale: int = 0
    """Scales that were read."""
    latent: Tensor | None = None
    """(B, C, h, w): the sum of the scales drawn so far."""
    modulations: dict[int, Tensor]
    """(B, 6, D) of each layer, the same for all scales."""


class Place(NamedTuple):
    """Where the rows of one call stand in the sequence, shared by all layers."""

    slots: Tensor
    """(n,)."""
    reach: int
    """Keys below this slot are read."""
    mask: Tensor | None


def to_length(x: Tensor, length: Tensor | float) -> Tensor:
    """The vectors x (..., C) scaled to `length`, which is broadcast to (..., 1)."""
    return x * (length / x.norm(dim=-1, keepdim=True).clamp_min(1e-12))


class Attention(nn.Module):
    """Queries and values have a bias, keys have none."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = Linear(config.dim, 3 * config.dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.dim))
        self.v_bias = nn.Parameter(torch.zeros(config.dim))
        self.wo = Linear(config.dim, config.dim)
        self.log_scale = None
        self.scale = 0.25 * config.head_dim**-0.5
        if config.l2_norm:
            self.log_scale = nn.Parameter(torch.full((config.heads, 1, 1), 4.0).log())
            self.scale = 1.0

    def forward(self, x: Tensor, place: Place, layer: int, cache: Cache | None) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = (self.wqkv(x) + bias).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, n, hd)
        if self.log_scale is not None:
            length = self.log_scale.clamp(max=math.log(SHARPEST)).exp()  # (H, 1, 1)
            q, k = to_length(q, length), to_length(k, 1.0)
        if cache is not None:
            k, v = cache.update(layer, place.slots, place.reach, k, v)
        y = attend(q, k, v, place.mask, scale=self.scale)
        return self.wo(y.transpose(1, 2).flatten(2))  # (B, n, D)


class Block(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the condition."""

    def __init__(self, config: VARConfig, drop_path: float) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = MLP(config.dim, round(config.mlp_ratio * config.dim), "tanh")
        if config.shared_adaln:
            self.constants = nn.Parameter(torch.empty(6, config.dim))
        else:
            self.adaln = nn.Linear(config.dim, 6 * config.dim)
        self.eps, self.dropout, self.drop_path = config.norm_eps, config.dropout, drop_path

    def soften(self, config: VARConfig) -> None:
        """Make the branches small and their gates nearly off, in initialised weights."""
        for output in (self.attention.wo, self.feed_forward.w2):
            output.weight.div_((2 * config.layers) ** 0.5)
        if config.shared_adaln:
            rows = nn.init.trunc_normal_(self.constants, std=config.dim**-0.5)
        else:
            rows = self.adaln.weight.unflatten(0, (6, -1))
        rows[:2].mul_(config.gate)
        rows[2:].mul_(0.5)

    def modulation(self, cond: Prepared, layer: int, cache: Cache | None) -> Tensor:
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
        y = dropped(y, self.dropout, self.drop_path) if self.training else y
        return torch.addcmul(x, gate, y)

    def forward(
        self, x: Tensor, cond: Prepared, place: Place, layer: int, cache: Cache | None
    ) -> Tensor:
        parts = self.modulation(cond, layer, cache).split(1, 1)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts  # each (B, 1, D)
        h = modulate(normed(x, self.eps), shift1, scale1)
        x = self.residual(x, gate1, self.attention(h, place, layer, cache))
        h = modulate(normed(x, self.eps), shift2, scale2)
        return self.residual(x, gate2, self.feed_forward(h))


class VAR(nn.Module):
    """Codes (B, N) of all scales given a class. A `CausalModel`; one scale per step."""

    NO_DECAY = ("pos", "start_pos", "scale_embedding.*", "*.constants", "*.log_scale")
    """What has no weight decay, as published; classes have."""
    FLOAT32 = ("quantize.",)
    """What stays in float32 when the model is loaded in another dtype."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim = config.dim
        self.blocks: Sequence[int] = [h * w for h, w in config.scales]
        self.quantize = MultiScaleQuantizer(
            config.scales, config.vocab, config.latent, config.phis, config.phi_ratio
        ).requires_grad_(False)
        self.word_embed = nn.Linear(config.latent, dim)
        self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        self.start_pos = nn.Parameter(torch.empty(self.blocks[0], dim))
        self.pos = nn.Parameter(torch.empty(self.spec.positions, dim))
        self.scale_embedding = nn.Embedding(len(config.scales), dim)
        if config.shared_adaln:
            self.shared_adaln = nn.Linear(dim, 6 * dim)
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.adaln = nn.Linear(dim, 2 * dim)
        self.head = CategoricalHead(dim, config.vocab, bias=True)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 1 / sqrt(3 D)) with zero biases; outputs of residual branches smaller with
        depth, the head and the gates nearly off."""
        c, std = self.config, (3 * self.config.dim) ** -0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not name.startswith("quantize."):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for weight in (self.start_pos, self.pos):
            nn.init.trunc_normal_(weight, std=std)
        self.head.proj.weight.mul_(0.02)
        self.adaln.weight.mul_(0.5)
        for layer in self.modules():
            if isinstance(layer, Block):
                layer.soften(c)

    def learn_from(self, tokenizer: Any) -> None:
        """Take over codebook and convolutions of the tokenizer whose codes are to be learned."""
        self.quantize.load_state_dict(tokenizer.quantize.state_dict())

    def prepare(self, cond: Cond) -> Prepared:
        """First inputs, positions and modulation of a batch of conditions."""
        if cond.labels is None:
            raise ValueError("this model is class-conditional: give labels")
        ids = cond.labels
        if cond.drop is not None:
            ids = ids.masked_fill(cond.drop, self.config.classes)
        label = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        sizes = torch.tensor(self.blocks, device=label.device)
        scale = torch.arange(len(sizes), device=label.device).repeat_interleave(
            sizes, output_size=self.spec.positions
        )
        places = self.pos + self.scale_embedding(scale)  # (N, D)
        shared = None
        if self.config.shared_adaln:
            shared = self.shared_adaln(F.silu(label)).unflatten(-1, (6, -1)).squeeze(1)
        return Prepared(label + self.start_pos, places, label, shared)

    def cache(self, batch: int) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight, length = self.config, self.pos, self.spec.positions
        cache = Cache(c.layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)
        cache.modulations = {}
        return cache

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n) stand for."""
        return self.quantize.embed(codes)

    def read(self, codes: Tensor, span: Span, cache: Cache | None) -> Tensor | None:
        """The picture so far at the grid of the span, (B, n, C); None at the first scale.

        `codes` (B, N), or vectors (B, N, C). Without a cache, of all scales but the first.
        """
        if cache is None:
            with torch.autocast(codes.device.type, enabled=False):
                return self.quantize.inputs(codes)
        scale, cache.scale = cache.scale, cache.scale + 1
        if scale == 0:
            return None
        end = sum(self.blocks[:scale])
        last = codes[:, end - self.blocks[scale - 1] : end]
        vectors = last if last.is_floating_point() else self.embed(last)  # (B, n, C)
        if cache.latent is None:
            cache.latent = vectors.new_zeros(len(codes), vectors.shape[-1], *self.spec.grids[-1])
        cache.latent = self.quantize.add(cache.latent, vectors, scale - 1)
        return self.quantize.shrink(cache.latent, scale)

    def place(self, span: Span, cache: Cache | None) -> Place:
        """Attention between scales is causal: a mask without a cache, nothing to hide with one."""
        device, mask = span.slots.device, None
        if cache is None:
            sizes = torch.tensor(self.blocks, device=device)
            scale = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
            mask = scale[:, None] >= scale  # (N, N)
        elif span.padded:
            mask = torch.arange(span.reach, device=device) <= span.slots[-1:, None]
        return Place(span.slots, span.reach, mask)

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N), or vectors (B, N, C), of earlier
        scales only. Without a cache the span must be all slots."""
        return self.transform(self.read(codes, span, cache), cond, span, cache)

    def transform(
        self, seen: Tensor | None, cond: Prepared, span: Span, cache: Cache | None
    ) -> Tensor:
        """Hidden states (B, n, D) of what was `read`."""
        x = cond.first
        if seen is not None:
            x = self.word_embed(seen.to(x.dtype))  # (B, n, D)
            x = torch.cat((cond.first, x), 1) if span.first else x
        x = x + cond.places[span.slots]
        place = self.place(span, cache)
        for i, layer in enumerate(self.layers):
            x = layer(x, cond, place, i, cache)
        scale, shift = self.adaln(F.silu(cond.cond)).chunk(2, -1)
        return modulate(normed(x, self.config.norm_eps), shift, scale)  # (B, n, D)

    def draw(
        self,
        codes: Tensor,
        cond: Prepared,
        span: Span,
        cache: Cache,
        guide: Guide,
        noise: SlotNoise,
        filters: Filters,
    ) -> Draw:
        """Draw the codes of a scale, (B, n), and with `filters.smooth` vectors (B, n, C)."""
        ramp = cache.scale / max(len(self.blocks) - 1, 1)
        seen = self.read(codes, span, cache)  # of the images, once for all branches
        seen = None if seen is None else guide.tile(seen)
        h = self.transform(seen, cond, span, cache)
        if not filters.smooth:
            return self.head.sample(h, guide, noise.uniform, filters)
        logits = filters(self.head.merged(h, guide))  # (B, n, V)
        weights = mixture(logits, noise.gumbel(logits.shape[-1]), ramp)
        drawn = draw(logits, noise.uniform)
        return Draw(*drawn, h, weights @ self.quantize.embedding.weight)

    def loss(self, codes: Tensor, cond: Cond, read: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of codes (B, N) at each position, (B, N) in nats."""
        slots = torch.arange(self.spec.positions, device=codes.device)
        span = Span(slots, first=True, reach=self.spec.positions, padded=False)
        h = self.hidden(codes if read is None else read, self.prepare(cond), span)
        return self.head.loss(h, codes)


def tiny() -> VARConfig:
    """A model of a few thousand parameters, for tests."""
    return VARConfig(
        scales=pyramid(1, 2, 4), vocab=32, latent=4, classes=5, layers=2, heads=2, dim=32
    )


SIZES: dict[str, dict[str, Any]] = {
    f"d{depth}": {"layers": depth, "heads": depth, "dim": 64 * depth}
    for depth in (16, 20, 24, 30, 36)
}
"""Layers, heads and width of every published size: 64 of width for each layer."""

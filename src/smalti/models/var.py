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
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import Generator, GeneratorConfig
from smalti.nn.adaln import modulate, normed
from smalti.nn.attention import KVCache, attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import drop_path_rates, dropped
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw, mixture
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.multiscale_vqvae import VAR256
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.quantize.pyramids import check_pyramid, pyramid_of

SHARPEST = 100.0
"""The largest factor that l2-normalised queries are scaled by."""


@dataclass(frozen=True)
class VARConfig(GeneratorConfig):
    scales: tuple[tuple[int, int], ...] = VAR256
    """Height and width of each grid, coarse to fine."""
    vocab: int = 4096
    """Codebook entries, the same for all scales; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    latent: int = 32
    """Codebook dimensions C, or bits of a cell of the latent."""
    phis: int = 4
    """Convolutions behind the codebook; 0: one for each scale. Bits have none."""
    phi_ratio: float = 0.5
    """Share of those convolutions in what they give."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 16
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 1024
    """Width D, a multiple of `heads`."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward as a multiple of D."""
    shared_adaln: bool = False
    """One modulation for all layers, to which each adds its own constants."""
    l2_norm: bool = True
    """Normalise queries and keys; False scales their products by 0.25 / sqrt(head_dim)."""
    norm_eps: float = 1e-6
    """Added to the variance in normalisation layers."""
    dropout: float = 0.0
    """On the outputs of attention and feed-forward."""
    drop_path: float = 0.0
    """Rate of the last layer's dropped residual branches; earlier layers have less."""
    gate: float = 1e-3
    """Scale of the gates as initialised; published: 1e-3 to 5e-6, smaller for deeper models."""

    def __post_init__(self) -> None:
        check_pyramid(self.spec, self.latent, self.phis, self.phi_ratio)
        check(
            self,
            multiple=("dim", "heads"),
            positive=("classes", "layers", "heads", "dim"),
            rates=("dropout", "drop_path"),
            above_zero=("mlp_ratio", "norm_eps"),
        )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, self.vocab, channels=self.channels)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def fitted(self, tokenizer: Any, reads: Reads) -> VARConfig:
        """The same with the codes and the classes. Raises ValueError if the tokenizer does not code
        scales, or other ones."""
        spec = tokenizer.spec
        if not tokenizer.pyramid:
            raise ValueError(
                f"VAR predicts scales of codes, but the tokenizer, a {type(tokenizer).__name__}, "
                f"gives {len(spec.grids)} grid"
            )
        if self.scales != spec.grids:
            given = " ".join(f"{h} {w}" for h, w in spec.grids)
            raise ValueError(
                f"model.scales must be the tokenizer's, {spec.grids}, got {self.scales}; give "
                f"--model.scales {given}"
            )
        codes = self.codes_of(tokenizer) | tokenizer.quantize.settings()
        return self.with_known(classes=reads.classes, **codes)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    first: Tensor
    """(B, n, D): inputs of the first scale, without positions."""
    places: Tensor
    """(1, N, D): positions and scales."""
    cond: Tensor
    """(B, 1, D): what modulates the layers."""
    shared: Tensor | None
    """(B, 6, D): the modulation that all layers share, if they do."""


class Cache(KVCache):
    """Keys and values, the picture so far, and each layer's modulation. All rows are at one scale:
    images that are drawn together begin together."""

    scales: int = 0
    """How many scales are in the latent."""
    latent: Tensor | None = None
    """(B, C, h, w): the sum of the scales drawn so far; of images alone, not of all branches."""
    modulations: dict[int, Tensor]
    """(B, 6, D) of each layer, the same for all scales."""

    def rows(self, index: Tensor) -> Self:
        other = super().rows(index)
        other.modulations = {}
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
            k, v = cache.update(layer, place.slots, place.reach, k, v, place.keep)
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


class VAR(Generator):
    """Codes (B, N), or bits (B, N, K), of all scales given a class. A `CausalModel`; a scale a
    step."""

    NO_DECAY = ("pos", "start_pos", "scale_embedding.*", "*.constants", "*.log_scale")
    """What has no weight decay, as published; classes have."""
    FLOAT32 = ("quantize.",)
    """What stays in float32 when the model is loaded in another dtype."""
    config: VARConfig

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim = config.dim
        self.sizes = self.blocks()
        quantize = pyramid_of(self.spec, config.latent, config.phis, config.phi_ratio)
        self.quantize = quantize.requires_grad_(False)
        self.smooth = not config.channels
        self.word_embed = nn.Linear(config.channels or config.latent, dim)
        self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        self.start_pos = nn.Parameter(torch.empty(self.sizes[0], dim))
        self.pos = nn.Parameter(torch.empty(self.spec.positions, dim))
        self.scale_embedding = nn.Embedding(len(config.scales), dim)
        if config.shared_adaln:
            self.shared_adaln = nn.Linear(dim, 6 * dim)
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.adaln = nn.Linear(dim, 2 * dim)
        self.head = head_of(self.spec, dim, bias=True)
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

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """First inputs, positions and modulation of a batch of conditions."""
        self.draws(spec)
        ids = cond.class_ids(null=self.config.classes)
        label = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        sizes = torch.tensor(self.sizes, device=label.device)
        scale = torch.arange(len(sizes), device=label.device).repeat_interleave(
            sizes, output_size=self.spec.positions
        )
        places = self.pos + self.scale_embedding(scale)  # (N, D)
        shared = None
        if self.config.shared_adaln:
            shared = self.shared_adaln(F.silu(label)).unflatten(-1, (6, -1)).squeeze(1)
        return Prepared(label + self.start_pos, places.unsqueeze(0), label, shared)

    def blocks(self, spec: TokenSpec | None = None) -> list[int]:
        """Positions of each scale, of which there may be one."""
        return [h * w for h, w in (spec or self.spec).grids]

    def cache(self, batch: int, spec: TokenSpec | None = None) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight, length = self.config, self.pos, self.draws(spec).positions
        cache = Cache(c.layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)
        cache.modulations = {}
        return cache

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n, ...) stand for."""
        return self.quantize.embed(codes)

    def read(self, codes: Tensor, span: Span, cache: Cache | None) -> Tensor | None:
        """The picture so far at the grid of the span, (B, n, C); None at the first scale.

        `codes` (B, N), or vectors (B, N, C). Without a cache, of all scales but the first.
        """
        if cache is None:
            with torch.autocast(codes.device.type, enabled=False):
                return self.quantize.inputs(codes)
        scale = self.scale_of(span)
        if scale == 0:
            return None
        latent = cache.latent
        if cache.scales < scale:
            last = codes[:, sum(self.sizes[: scale - 1]) : sum(self.sizes[:scale])]
            vectors = last if last.is_floating_point() else self.embed(last)  # (B, n, C)
            if latent is None:
                latent = self.quantize.empty(len(codes), vectors)
            latent = self.quantize.add(latent, vectors, scale - 1)
            if span.keep:
                cache.latent, cache.scales = latent, scale
        assert latent is not None
        return self.quantize.shrink(latent, scale)

    def scale_of(self, span: Span) -> int:
        """The number of the scale that a span fills."""
        starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        if span.start not in starts:
            raise ValueError("all rows of a batch of scales must be at the same scale")
        return starts.index(span.start)

    def place(self, span: Span, cache: Cache | None) -> Place:
        """Attention between scales is causal: a mask without a cache, nothing to hide with one."""
        device, mask = span.slots.device, None
        if cache is None:
            sizes = torch.tensor(self.sizes, device=device)
            scale = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
            mask = scale[:, None] >= scale  # (N, N)
        return Place(span.slots, span.reach, mask, span.keep)

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
        x = x + cond.places[:, span.slots]
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
        chance: Chance,
    ) -> Draw:
        """Draw the codes of a scale, (B, n), and with `filters.smooth` vectors (B, n, C)."""
        guide, noise, filters, _ = chance
        seen = self.read(codes, span, cache)  # of the images, once for all branches
        seen = None if seen is None else guide.tile(seen)
        h = self.transform(seen, cond, span, cache)
        if not filters.smooth:
            return self.head.sample(h, chance)
        logits = filters(self.head.merged(h, guide))  # (B, n, V)
        ramp = self.scale_of(span) / max(len(self.sizes) - 1, 1)
        weights = mixture(logits, noise.gumbel(logits.shape[-1]), ramp)
        drawn = draw(logits, noise.uniform())
        every = torch.arange(self.config.vocab, device=h.device)
        return Draw(*drawn, h, weights @ self.embed(every))

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of codes (B, N) at each position, (B, N) in nats."""
        span = Span.whole(self.spec.positions, codes.device)
        h = self.hidden(codes, self.prepare(cond), span)
        return self.head.loss(h, codes, SlotNoise.of(noise, codes, span.slots))


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

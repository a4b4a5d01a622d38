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

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import an
from smalti.codes import Cond, Draw, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import GeneratorConfig, grids_in_words
from smalti.models.pyramid_stack import (
    Cache,
    Modulated,
    Place,
    ScaleModel,
    Shape,
    place_of,
    pruned,
    scale_of,
    scales_of,
)
from smalti.nn.adaln import modulate, normed
from smalti.nn.residual import drop_path_rates
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw, mixture
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.pruning import Pruning
from smalti.tokenizers.multiscale_vqvae import VAR256
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.quantize.pyramids import check_pyramid, pyramid_of


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
    def shape(self) -> Shape:
        """Sizes of the layers."""
        return Shape(
            layers=self.layers,
            heads=self.heads,
            dim=self.dim,
            ffn_dim=round(self.mlp_ratio * self.dim),
            scale=None if self.l2_norm else 0.25 * (self.dim // self.heads) ** -0.5,
            shared_adaln=self.shared_adaln,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
        )

    def fitted(self, tokenizer: Any, reads: Reads) -> VARConfig:
        """The same with the codes and the classes. Raises ValueError if the tokenizer does not code
        scales, or other ones."""
        spec = tokenizer.spec
        if not tokenizer.pyramid:
            raise ValueError(
                f"VAR predicts scales of codes, but the tokenizer, {an(type(tokenizer).__name__)}, "
                f"gives {grids_in_words(spec)}"
            )
        self.check_kind(tokenizer)
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


class Block(Modulated):
    """Attention and feed-forward, each scaled, shifted and gated by the condition."""

    def forward(
        self, x: Tensor, cond: Prepared, place: Place, layer: int, cache: Cache | None
    ) -> Tensor:
        parts = self.modulation(cond, layer, cache).split(1, 1)
        gate1, gate2, scale1, scale2, shift1, shift2 = parts  # each (B, 1, D)
        rows, place = place.rows(x, layer, cache)
        h = modulate(normed(rows.take(x), self.eps), shift1, scale1)
        h = rows.put(self.attention(h, place, layer, cache), "attention")
        x = self.residual(x, gate1, h)
        h = modulate(normed(rows.take(x), self.eps), shift2, scale2)
        return self.residual(x, gate2, rows.put(self.feed_forward(h), "feed_forward"))


class VAR(ScaleModel):
    """Codes (B, N), or bits (B, N, K), of all scales given a class. A `CausalModel`; a scale a
    step."""

    NO_DECAY = ("pos", "start_pos", "scale_embedding.*", "*.constants", "*.log_scale")
    """What has no weight decay, as published; classes have."""
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
        self.layers = nn.ModuleList([Block(config.shape, rate) for rate in rates])
        self.adaln = nn.Linear(dim, 2 * dim)
        self.head = head_of(self.spec, dim, bias=True)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 1 / sqrt(3 D)) with zero biases; outputs of residual branches smaller with
        depth, the head and the gates nearly off."""
        c, std = self.config, (3 * self.config.dim) ** -0.5
        self.init_normal()
        for weight in (self.start_pos, self.pos):
            nn.init.trunc_normal_(weight, std=std)
        self.head.proj.weight.mul_(0.02)
        self.adaln.weight.mul_(0.5)
        for layer in self.modules():
            if isinstance(layer, Block):
                layer.soften(c.gate)

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """First inputs, positions and modulation of a batch of conditions."""
        self.draws(spec)
        ids = cond.class_ids(null=self.config.classes)
        label = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        scales = scales_of(self.sizes, label.device)
        places = self.pos + self.scale_embedding(scales)  # (N, D)
        shared = None
        if self.config.shared_adaln:
            shared = self.shared_adaln(F.silu(label)).unflatten(-1, (6, -1)).squeeze(1)
        return Prepared(label + self.start_pos, places.unsqueeze(0), label, shared)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes (B, n, ...) stand for."""
        return self.quantize.embed(codes)

    def transform(
        self,
        seen: Tensor | None,
        cond: Prepared,
        span: Span,
        cache: Cache | None,
        pruning: Pruning | None = None,
    ) -> Tensor:
        """Hidden states (B, n, D) of what was `read`."""
        x = cond.first
        if seen is not None:
            x = self.word_embed(seen.to(x.dtype))  # (B, n, D)
            x = torch.cat((cond.first, x), 1) if span.first else x
        x = x + cond.places[:, span.slots]
        out = pruned(pruning, span, self.spec.grids, len(self.layers), cache)
        place = place_of(span, self.sizes, cache, pruned=out)
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
        guide, noise, filters = chance.guide, chance.noise, chance.filters
        seen = self.read(codes, cond, span, cache)  # of the images, once for all branches
        seen = None if seen is None else guide.tile(seen)
        h = self.transform(seen, cond, span, cache, chance.pruning)
        if not filters.smooth:
            return self.head.sample(h, chance)
        logits = filters(self.head.merged(h, guide))  # (B, n, V)
        ramp = scale_of(span, self.sizes) / max(len(self.sizes) - 1, 1)
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

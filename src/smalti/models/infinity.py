"""Infinity: a transformer that predicts a picture scale by scale, all bits of a scale at once.

Han, Liu, Jiang, Yan, Zhang, Yuan, Peng, Liu 2024, "Infinity: Scaling Bitwise AutoRegressive
Modeling for High-Resolution Image Synthesis" (arXiv:2412.04431).

Unusual: as VAR it reads the picture so far, but a code is bits, which need no table, so the model
keeps nothing of its tokenizer. Layers also read a text. Positions turn queries and keys; they are
spread over the largest grid of their aspect ratio, so that one model draws every aspect ratio and
number of pixels. In training some of the bits that it reads are wrong, and the bits to predict are
those that make it good (bitwise self-correction). Guidance may mix hidden states.

It also learns scales of numbers, which is not of the paper: then it keeps their table, draws its
own grids alone, and reads wrong numbers in training.

Letters: B images, N positions of all scales, n of one, S scales, D width, H heads, K bits of a cell
of the latent, C bits of a position, V codebook entries, T words, E width of their features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Guide, Reads, Span, TokenSpec
from smalti.heads.of_codes import head_of
from smalti.models.infinity_layers import Block, InfinityConfig, Prepared, turns
from smalti.models.pyramid_stack import (
    Cache,
    ScaleModel,
    picture,
    place_of,
    pruned,
    scales_of,
)
from smalti.nn.adaln import modulate, normed
from smalti.nn.cross import AttentivePool, Context
from smalti.nn.linear import Linear
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import drop_path_rates
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.pruning import Pruning
from smalti.tokenizers.quantize.bsq import Grids, sizes_of
from smalti.tokenizers.quantize.multiscale import Corrected, check_grids, pyramid
from smalti.tokenizers.quantize.pyramids import Pyramid, pyramid_of


class Infinity(ScaleModel):
    """Bits (B, N, C), or numbers (B, N), of all scales given a text. A `CausalModel`; a scale a
    step."""

    NO_DECAY = (
        *("start_pos", "scale_embedding.*", "null", "pool.query"),
        *("*.constants", "*.log_scale"),
    )
    """What has no weight decay, as published."""
    config: InfinityConfig

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim, self.any_grid = config.dim, config.bits > 0
        quantize = pyramid_of(
            self.spec, config.bits or config.latent, config.phis, config.phi_ratio
        )
        self.quantize = quantize.requires_grad_(False)
        self.null = nn.Parameter(torch.empty(config.text_length, config.text_dim))
        self.text_norm = RMSNorm(config.text_dim, config.norm_eps)
        self.pool = AttentivePool(config.text_dim, dim, config.pool_heads)
        self.text_proj = nn.Sequential(
            Linear(config.text_dim, dim), nn.GELU("tanh"), Linear(dim, dim)
        )
        self.start_pos = nn.Parameter(torch.empty(dim))
        self.scale_embedding = nn.Embedding(config.most_scales, dim)
        self.word_embed = nn.Linear(self.spec.channels or config.latent, dim)
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
        depth, the head, the gates, scales and shifts nearly off; words of a null text of about
        length 1."""
        c, std = self.config, (3 * self.config.dim) ** -0.5
        self.init_normal()
        self.pool.init_weights()
        nn.init.trunc_normal_(self.start_pos, std=std)
        nn.init.trunc_normal_(self.null, std=1.2).mul_(c.text_dim**-0.5)
        self.head.proj.weight.mul_(0.02)
        self.adaln.weight.mul_(1e-3)
        for layer in self.modules():
            if isinstance(layer, Block):
                layer.soften(c.gate, 1e-3)

    # -- what it says of itself

    @property
    def reads(self) -> Reads:
        return Reads(0, self.config.text_length, self.config.text_dim)

    @property
    def reader(self) -> nn.Module:
        return self.text_proj

    @property
    def random_loss(self) -> bool:
        return self.config.flip > 0

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes to draw: those of `spec`, bits of whatever scales, or its own if that is None.

        Raises ValueError for more scales than it knows, and for other codes.
        """
        if spec is None or spec == self.spec:
            return self.spec
        if not self.any_grid or replace(spec, grids=self.spec.grids) != self.spec:
            raise ValueError(f"this model draws {self.spec}, got {spec}")
        check_grids(spec.grids)
        if len(spec.grids) > self.config.most_scales:
            raise ValueError(
                f"this model draws at most {self.config.most_scales} scales, got {len(spec.grids)}"
            )
        return spec

    def quantizer(self, grids: Grids) -> Pyramid:
        """What the tokenizer makes of codes on these grids, its own or, of bits, others."""
        if grids == self.spec.grids:
            return self.quantize
        return pyramid_of(replace(self.spec, grids=grids), self.config.bits)

    # -- what it reads

    def words(self, cond: Cond) -> tuple[Tensor, Tensor]:
        """Features of words (B, T, E), normalised, and where there are any, (B, 1, 1, T). The j-th
        word of a null text is the j-th learned one, of as many as the text has."""
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        text, mask = cond.text.to(self.null.dtype), cond.text_mask.bool()
        if cond.drop is not None:
            number = (mask.cumsum(1) - 1).clamp(min=0)  # (B, T), of each word in its text
            text = torch.where(cond.drop[:, None, None], self.null[number], text)
        return self.text_norm(text), mask[:, None, None]

    def prepare(
        self,
        cond: Cond,
        orders: Tensor | None = None,
        spec: TokenSpec | None = None,
        keep: bool = True,
    ) -> Prepared:
        """The text, the modulation and the positions of a batch. Without `keep`, for training,
        layers store nothing of the text."""
        grids, shared = self.draws(spec).grids, None
        with torch.autocast(self.null.device.type, enabled=False):
            words, mask = self.words(cond)
            pooled = self.pool(words, mask)  # (B, 1, D)
            words = self.text_proj(words)  # (B, T, D)
            if self.config.shared_adaln:
                shared = self.shared_adaln(F.silu(pooled)).unflatten(-1, (6, -1)).squeeze(1)
        turn = turns(grids, self.config.dim // self.config.heads).to(pooled.device)
        return Prepared(Context(words, mask, keep), pooled, shared, turn.unsqueeze(0), grids)

    # -- the transformer

    def read(self, codes: Tensor, cond: Prepared, span: Span, cache: Cache | None) -> Tensor | None:
        """The picture so far at the grid of the span, (B, n, C); None at the first scale. Without a
        cache, of all scales but the first."""
        return picture(self.quantizer(cond.grids), codes, span, sizes_of(cond.grids), cache)

    def transform(
        self,
        seen: Tensor | None,
        cond: Prepared,
        span: Span,
        cache: Cache | None,
        guide: Guide | None = None,
        pruning: Pruning | None = None,
    ) -> Tensor:
        """Hidden states (B, n, D) of what was `read`; a guide mixes those of its branches."""
        sizes, parts = sizes_of(cond.grids), list[Tensor]()
        if span.first:
            parts.append((cond.cond + self.start_pos).expand(-1, sizes[0], -1))
        if seen is not None:
            parts.append(self.word_embed(seen.to(cond.cond.dtype)))
        scales = scales_of(sizes, span.slots.device)[span.slots]
        x = torch.cat(parts, 1) + self.scale_embedding(scales)  # (B, n, D)
        out = pruned(pruning, span, cond.grids, len(self.layers), cache)
        place = place_of(span, sizes, cache, cond.rotation[0], out)
        for i, layer in enumerate(self.layers):
            x = layer(x, cond, place, i, cache)
            if guide is not None and i + 1 in self.config.guide_at:
                x = guide.tile(guide.merge(x))
        scale, shift = self.adaln(F.silu(cond.cond)).chunk(2, -1)
        return modulate(normed(x, self.config.norm_eps), shift, scale)  # (B, n, D)

    def draw(self, codes: Tensor, cond: Prepared, span: Span, cache: Cache, chance: Chance) -> Draw:
        """Draw the codes of a scale, (B, n, ...)."""
        guide = chance.guide
        seen = self.read(codes, cond, span, cache)  # of the images, once for all branches
        seen = None if seen is None else guide.tile(seen)
        h = self.transform(seen, cond, span, cache, guide, chance.pruning)
        if 0 not in self.config.guide_at:  # mixed already: the first branch is all there is
            h = guide.tile(h[: len(codes)])
        return self.head.sample(h, chance)

    # -- training

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of codes (B, N, ...) at each position, (B, N) in nats.

        In training the model reads wrong codes, predicts what makes them good, and coarse scales
        weigh more, all together as much as in evaluation.
        """
        prepared = self.prepare(cond, keep=False)
        span = Span.whole(self.spec.positions, codes.device)
        if not (self.training and self.config.flip):
            seen = self.read(codes, prepared, span, None)
        else:
            wrong = self.corrected(codes, noise)
            seen, codes = wrong.inputs, wrong.labels
        h = self.transform(seen, prepared, span, None)
        loss = self.head.loss(h, codes)
        return loss * self.weights(codes.device) if self.training else loss

    def corrected(self, codes: Tensor, noise: Noise | None) -> Corrected:
        """Inputs and labels of codes (B, N, ...), some of which, or of whose bits, are shown wrong:
        of each image and scale another share, in steps of a hundredth up to `flip`."""
        c, device = self.config, codes.device
        scales = torch.arange(min(c.flip_scales, len(c.scales)), device=device)
        numbers = SlotNoise.of(noise, codes, scales).source
        share = numbers.uniform(scales, step=1)  # (B, S)
        strength = (share * (round(100 * c.flip) + 1)).floor() / 100
        slots = torch.arange(self.spec.positions, device=device)
        uniform = numbers.uniform(slots, *self.spec.trailing)  # (B, N, ...)
        return self.quantize.correct_codes(codes, uniform, strength)

    def weights(self, device: torch.device) -> Tensor:
        """The weight of each position in training, (N,): the side of its cell, so that the mean
        is 1."""
        sizes = torch.tensor(self.blocks(), device=device)
        sides = (sizes[-1] / sizes).sqrt().repeat_interleave(sizes)
        return sides / sides.mean()


def tiny() -> InfinityConfig:
    """A model of a few thousand parameters, for tests."""
    return InfinityConfig(
        scales=pyramid(1, 2, 4),
        bits=6,
        text_length=6,
        text_dim=12,
        layers=2,
        heads=2,
        dim=32,
        multiple_of=32,
        gate=0.01,
    )


def _sized(layers: int, dim: int, heads: int) -> dict[str, Any]:
    return {"layers": layers, "dim": dim, "heads": heads}


SIZES: dict[str, dict[str, Any]] = {
    "125M": _sized(12, 768, 8),
    "361M": _sized(16, 1152, 12),
    "940M": _sized(24, 1536, 16),
    "2B": _sized(32, 2048, 16),
    "2.2B": _sized(32, 2080, 20),
    "4.7B": _sized(40, 2688, 24),
    "8B": _sized(40, 3584, 28),
    "20B": _sized(58, 4608, 36),
}
"""Layers, width and heads by name. Weights of 125M, 2B and 8B are published; the others are sizes
of the paper and of the official code."""

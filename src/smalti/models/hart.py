"""HART: a transformer that predicts a picture scale by scale, and of the last scale also what no
code says.

Tang, Wu, Yang, Xie, Chen, Chen, Zhang, Zhao, Liu, Han 2024, "HART: Efficient Visual Generation with
Hybrid Autoregressive Transformer" (arXiv:2410.10812).

Unusual: as VAR it reads the picture so far, in layers as Llama has them. The words of a text stand
before the picture, in place of its first scale: the last of them predicts its one code. Padding
among them is read too, as released weights expect. Positions turn queries and keys: those of words
count up, those of the picture are rows and columns of the last scale and begin where the text ends.
A code and its rest are one vector, so codes are float32 (B, N, C), and the codes inside them are
found by looking for the nearest (`tokenizers.quantize.hybrid`). In training much of the last
scale is left out.

Letters: B images, N positions of all scales, n of one, K scales, D width, H heads, V codebook
entries, C dimensions of vectors, T words, E width of their features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Span, TokenSpec
from smalti.devices.float64 import wide
from smalti.heads.diffusion import DiffusionConfig
from smalti.heads.hybrid import HybridHead
from smalti.models.generator import Generator
from smalti.models.hart_layers import Block, HARTConfig, Prepared, numbers, places
from smalti.models.pruned import taken
from smalti.models.pyramid_stack import (
    Cache,
    Place,
    picture,
    pruned,
    scale_of,
    scales_of,
)
from smalti.nn.adaln import modulate
from smalti.nn.cross import Context
from smalti.nn.norms import RMSNorm
from smalti.nn.residual import drop_path_rates
from smalti.nn.rope import rope_halves
from smalti.nn.times import TimeEmbedding
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import shuffled
from smalti.sampling.reveal import Reveal
from smalti.tokenizers.quantize.hybrid import HybridQuantizer
from smalti.tokenizers.quantize.multiscale import pyramid

KEPT = 0xFFFFFFFD
"""A step of the noise that nothing else reads: how many positions training keeps."""


class HART(Generator):
    """Vectors (B, N, C) of all scales given a text. A `CausalModel`; a scale a step."""

    NO_DECAY = ("scale_embedding.*", "*.constants", "*.log_scale")
    FLOAT32 = ("quantize.",)
    smooth = True
    reads_padding = True
    config: HARTConfig

    def __init__(self, config: HARTConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim, self.sizes = config.dim, self.blocks()
        codebook = HybridQuantizer(
            config.scales, config.vocab, config.latent, config.phis, config.phi_ratio
        )
        self.word_embed = nn.Linear(config.latent, dim)
        self.quantize = codebook.requires_grad_(False)
        if config.text_norm:
            self.text_norm = RMSNorm(config.text_dim, config.norm_eps)
        self.text_proj = nn.Linear(config.text_dim, dim)
        count = len(config.scales)
        self.scale_embedding = TimeEmbedding(dim) if config.waves else nn.Embedding(count, dim)
        rates = drop_path_rates(config.drop_path, config.layers)
        self.layers = nn.ModuleList([Block(config, rate) for rate in rates])
        self.norm = RMSNorm(dim, config.norm_eps)
        self.adaln = nn.Linear(dim, 2 * dim)
        self.head = HybridHead(
            dim,
            config.latent,
            self.sizes,
            (codebook, self.word_embed),
            config.head,
            config.rest_scale,
            config.norm_eps,
        )
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases; outputs of residual branches smaller with depth, those
        of cross-attention 0; the head and the gates nearly off."""
        for name, module in self.named_modules():
            if name.startswith("quantize."):
                continue
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.head.proj.weight.mul_(0.02)
        self.head.diffusion.init_weights()
        self.adaln.weight.mul_(0.5)
        for layer in self.modules():
            if isinstance(layer, Block):
                self.soften(layer)

    def soften(self, layer: Block) -> None:
        """Make the branches of a layer small, its gates nearly off."""
        for output in (layer.attention.wo, layer.feed_forward.w2):
            output.weight.div_((2 * self.config.layers) ** 0.5)
        if layer.cross is not None:
            nn.init.zeros_(layer.cross.wo.weight)
        if layer.kind == "shared":
            nn.init.normal_(layer.constants, std=self.config.dim**-0.5)
        elif layer.kind == "own":
            rows = layer.adaln.weight.unflatten(0, (6, -1))
            rows[:2].mul_(self.config.gate)
            rows[2:].mul_(0.5)

    def learn_from(self, tokenizer: Any) -> None:
        """Take over codebook and convolutions of the tokenizer whose codes are to be learned."""
        self.quantize.load_state_dict(tokenizer.quantize.state_dict())

    # -- what it says of itself

    @property
    def filtered(self) -> bool:
        return True

    @property
    def prunes(self) -> bool:
        """Where the last scale is drawn in one pass."""
        return self.config.refine_steps == 1

    @property
    def reads(self) -> Reads:
        return Reads(0, self.config.text_length, self.config.text_dim)

    @property
    def reader(self) -> nn.Module:
        return self.text_proj

    @property
    def prefix(self) -> int:
        """Words before the one that predicts the first code."""
        return self.config.text_length - 1

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes stand for, which are vectors themselves."""
        return self.quantize.embed(codes)

    # -- what it reads

    def words(self, cond: Cond) -> tuple[Tensor, Tensor]:
        """Words (B, T, D) and which are no padding, (B, T); those of a null text are all alike, at
        the first position."""
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        text, mask = cond.text.to(self.text_proj.weight.dtype), cond.text_mask.bool()
        if text.shape[1:] != (self.config.text_length, self.config.text_dim):
            wanted = (self.config.text_length, self.config.text_dim)
            raise ValueError(f"text must be (B, {wanted[0]}, {wanted[1]}), got {tuple(text.shape)}")
        if cond.drop is not None:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            text = text.masked_fill(cond.drop[:, None, None], 0.0)
            mask = torch.where(cond.drop[:, None], first, mask)
        return self.text_proj(self.text_norm(text) if self.config.text_norm else text), mask

    def turned(self, mask: Tensor) -> Tensor:
        """How words, of which `mask` (B, T) is no padding, and the picture are turned."""
        width = self.config.dim // self.config.heads
        number = numbers(mask)  # (B, T)
        picture = places(self.config.scales).to(mask.device) + number[:, -1:, None]  # (B, N - 1, 2)
        return torch.cat((rope_halves(number[..., None], width), rope_halves(picture, width)), 1)

    def prepare(
        self,
        cond: Cond,
        orders: Tensor | None = None,
        spec: TokenSpec | None = None,
        keep: bool = True,
    ) -> Prepared:
        """The words, the modulation and the positions of a batch. Without `keep`, for training,
        layers store nothing of the text."""
        self.draws(spec)
        words, mask = self.words(cond)
        most = words.amax(1, keepdim=True)  # (B, 1, D), of padding too
        pooled = most
        if self.config.pool == "avg" or self.config.adaln == "shared":
            shown = mask.unsqueeze(-1).to(words.dtype)
            pooled = (words * shown).sum(1, keepdim=True) / shown.sum(1, keepdim=True).clamp(min=1)
        count = torch.arange(len(self.sizes), device=words.device)
        scales = self.scale_embedding(count)[None]  # (1, K, D)
        # the words of layers carry the number of their scale, those that are pooled do not
        return Prepared(
            words + scales[:, :1], self.turned(mask), pooled, most, scales,
            Context(words, None, keep),
        )  # fmt: skip

    def cache(self, batch: int, spec: TokenSpec | None = None) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        length = self.prefix + self.draws(spec).positions
        return self.config.shape.cache(batch, length, self.text_proj.weight)

    def read(self, codes: Tensor, span: Span, cache: Cache | None) -> Tensor | None:
        """The picture so far at the grid of the span, (B, n, C); None at the first scale. Without a
        cache, of all scales but the first."""
        return picture(self.quantize, codes, span, self.sizes, cache)

    # -- the transformer

    def hidden(
        self, codes: Tensor, cond: Prepared, span: Span, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states (B, n, 2 D) of a span; reads vectors (B, N, C) of earlier scales only.
        Without a cache the span must be all slots."""
        seen = self.inputs(self.read(codes, span, cache), cond, span.slots)
        return self.transform(seen, cond, self.place(cond, span, cache), cache, span.first)

    def inputs(self, seen: Tensor | None, cond: Prepared, slots: Tensor) -> Tensor | None:
        """What was `read` at `slots` behind the first scale, as rows of the layers, (B, n, D)."""
        if seen is None:
            return None
        scales = scales_of(self.sizes, slots.device)[slots[len(slots) - seen.shape[1] :]]
        return self.word_embed(seen.to(cond.words.dtype)) + cond.numbers[:, scales]

    def place(self, cond: Prepared, span: Span, cache: Cache | None) -> Place:
        """Where the rows of a span, and with its first those of the text, stand."""
        positions, mask = span.slots + self.prefix, None
        if cache is not None:
            scale_of(span, self.sizes)  # refuses rows at different scales
        if span.first:
            words = torch.arange(self.prefix, device=positions.device)
            positions = torch.cat((words, positions))
        if cache is None:
            scale = F.pad(scales_of(self.sizes, positions.device), (self.prefix, 0))
            mask = scale[:, None] >= scale  # (T + N - 1, T + N - 1)
        turns = cond.turns[:, positions]
        return Place(positions, span.reach + self.prefix, mask, span.keep, turns)

    def transform(
        self, seen: Tensor | None, cond: Prepared, place: Place, cache: Cache | None, first: bool
    ) -> Tensor:
        """Hidden states (B, n, 2 D) of `inputs`, at `first` behind the words."""
        parts = [cond.words] if first else []
        x = torch.cat(parts if seen is None else [*parts, seen], 1)
        words = cond.words.shape[1] if first else 0
        for i, layer in enumerate(self.layers):
            x = layer(x, cond, place, i, cache, words)
        x = x[:, self.prefix :] if first else x
        scale, shift = self.adaln(F.silu(cond.last)).chunk(2, -1)
        return torch.cat((modulate(self.norm(x), shift, scale), x), -1)

    # -- drawing

    def draw(self, codes: Tensor, cond: Prepared, span: Span, cache: Cache, chance: Chance) -> Draw:
        """Draw the vectors of a scale, (B, n, C)."""
        seen = self.read(codes, span, cache)  # of the images, once for all branches
        seen = None if seen is None else chance.guide.tile(seen)
        place, seen = self.place(cond, span, cache), self.inputs(seen, cond, span.slots)
        out = pruned(chance.pruning, span, self.spec.grids, len(self.layers), cache)
        place = place._replace(pruned=out)
        if self.config.refine_steps > 1 and span.reach == self.spec.positions:
            assert seen is not None
            orders = chance.guide.tile(shuffled(chance.noise.source, self.sizes[-1]))
            h = self.refined(seen, cond, place, cache, orders)
        else:
            h = self.transform(seen, cond, place, cache, span.first)
        return self.head.sample(h, chance, span.reach)

    def reveal(self, count: int) -> list[int]:
        """How many of the positions of the last scale are left before each pass, and in the end."""
        steps = self.config.refine_steps
        return [count, *Reveal(steps=steps).left(count, steps)]

    def refined(
        self, seen: Tensor, cond: Prepared, place: Place, cache: Cache, orders: Tensor
    ) -> Tensor:
        """Hidden states (B, n, 2 D) of the last scale, some positions after others: those that
        come last in `orders` (B, n) first. What is drawn at them is not read by the others."""
        count, start, left = seen.shape[1], place.reach - seen.shape[1], self.reveal(seen.shape[1])
        hidden = seen.new_zeros(*seen.shape[:2], 2 * self.config.dim)
        turns = place.rotation
        assert turns is not None
        rows = torch.arange(len(orders), device=seen.device)[:, None]
        for before, after in zip(left, left[1:], strict=False):
            chosen = orders[:, after:before]  # (B, m), whose keys stand behind those before them
            begin, end = start + count - before, start + count - after
            there = torch.arange(begin, end, device=seen.device)
            here = Place(there, end, None, place.keep, taken(turns, chosen))
            hidden[rows, chosen] = self.transform(taken(seen, chosen), cond, here, cache, False)
        return hidden

    # -- training

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """The loss of vectors (B, N, C) at each position, (B, N): nats of its code, and at the last
        scale that of its rest. In training positions of the last scale that are left out have none,
        and the others weigh more."""
        prepared, n = self.prepare(cond, keep=False), self.spec.positions
        span, finest = Span.whole(n, codes.device), self.sizes[-1]
        numbers = SlotNoise.of(noise, codes, span.slots)
        count = self.count(numbers.source) if self.training else finest
        if count == finest:
            return self.head.loss(self.hidden(codes, prepared, span), codes, numbers)
        slots = self.shown(numbers.source, count).to(codes.device)  # (B, N')
        h = self.partly(codes, prepared, slots)
        nats, rest = self.head.losses(h, taken(codes, slots), numbers._replace(slots=slots))
        length = slots.shape[1]
        losses = nats * (n / length) + F.pad(rest * (n / count), (length - count, 0))
        return losses.new_zeros(codes.shape[:2]).scatter(1, slots, losses)

    def count(self, noise: Noise) -> int:
        """How many positions of the last scale training has: those that a normal distribution
        around none leaves, cut off at 1 - `masked`, and `kept` at least; the same in all rows of a
        step, in whatever parts and processes."""
        finest, deviation = self.sizes[-1], 0.25
        below = 0.5 * math.erfc((1 - self.config.masked) / deviation / math.sqrt(2))
        slots = torch.zeros(1, dtype=torch.int64)
        number = (noise.common or noise).uniform(slots, step=KEPT)[0]
        out = 1 + deviation * torch.special.ndtri(below + (0.5 - below) * wide(number))
        return max(finest - math.ceil(finest * float(out)), min(self.config.kept, finest))

    def shown(self, noise: Noise, count: int) -> Tensor:
        """The slots of all scales, of which the last has `count` positions of each image chosen by
        chance: (B, N') int64, ascending."""
        chosen = shuffled(noise, self.sizes[-1])[:, :count].sort(1).values
        before = self.spec.positions - self.sizes[-1]
        coarse = torch.arange(before, device=chosen.device).expand(len(chosen), -1)
        return torch.cat((coarse, before + chosen), 1)

    def partly(self, codes: Tensor, prepared: Prepared, slots: Tensor) -> Tensor:
        """Hidden states (B, N', 2 D) at some slots (B, N') alone, as if there were no others."""
        span = Span.whole(self.spec.positions, codes.device)
        place = self.place(prepared, span, None)
        inputs = self.inputs(self.read(codes, span, None), prepared, span.slots)
        assert inputs is not None and place.mask is not None
        words = torch.arange(self.prefix, device=slots.device).expand(len(slots), -1)
        turns = taken(prepared.turns, torch.cat((words, self.prefix + slots), 1))
        length = turns.shape[1]
        place = place._replace(mask=place.mask[:length, :length], rotation=turns)
        return self.transform(taken(inputs, slots[:, 1:] - 1), prepared, place, None, True)


def tiny() -> HARTConfig:
    """A model of a few thousand parameters, for tests."""
    return HARTConfig(
        scales=pyramid(1, 2, 4),
        vocab=32,
        latent=4,
        text_length=6,
        text_dim=12,
        layers=2,
        heads=2,
        dim=32,
        multiple_of=32,
        gate=0.01,
        head=DiffusionConfig(depth=1, width=32, clip=1.0),
    )


SIZES: dict[str, dict[str, Any]] = {
    "700M": {"layers": 24, "heads": 24, "dim": 1536, "adaln": "none"},
}
"""Layers, heads, width and modulation by name [M]: no code says them, but with them there are as
many parameters as published, 732 M."""

"""What models share that draw one code a step: codes before a span, draws, losses; and, of those
whose layers are Llama's, where rows stand and how they turn.

Slot i holds what code i is predicted from, so the first slot holds a prefix, and slot i code i - 1.
In the sequence slot 0 is the last of T positions of a prefix.

Letters: B images, T prefix length, N positions, n of one call, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Rowwise, Span, TokenSpec
from smalti.models.generator import Generator, either
from smalti.nn.attention import KVCache
from smalti.nn.llama import Place
from smalti.nn.rope import rope_2d, rotation
from smalti.nn.text_prefix import TextPrefix
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, restore, scan


class Raster(Generator):
    """Codes (B, N, *trailing), one a step, in an order. A model has `prepare`, `cache` and
    `hidden`."""

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Any:
        """What no drawn code changes of conditions, drawn in `orders`, (N,) or (B, N)."""
        raise NotImplementedError

    def once(self, cond: Cond, orders: Tensor | None) -> Any:
        """The same for one call of `hidden` on all positions, as in training."""
        return self.prepare(cond, orders)

    def hidden(self, codes: Tensor, cond: Any, span: Span, cache: Any = None) -> Tensor:
        """Hidden states (B, n, D) of a span; reads codes (B, N, *trailing), in the order in which
        they are drawn, of earlier slots only. Without a cache the span must be all slots."""
        raise NotImplementedError

    def read(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, D) of codes (B, n, *trailing)."""
        return self.get_submodule("tok_embeddings")(codes)

    def shown(self, codes: Tensor, noise: Noise | None) -> Tensor:
        """The codes that training reads in the place of `codes` (B, N, *trailing): the same."""
        return codes

    def rows(self, codes: Tensor, prefix: Tensor, span: Span) -> Tensor:
        """The vectors of the codes before a span, (B, n, D); behind a prefix (B, T, D) if it is the
        first, (B, T - 1 + n, D)."""
        before = (span.slots[1:] if span.first else span.slots) - 1
        x = self.read(arrange(codes, before))  # (B, n, D)
        return torch.cat((prefix.to(x.dtype), x), 1) if span.first else x

    def draw(self, codes: Tensor, cond: Any, span: Span, cache: Any, chance: Chance) -> Draw:
        """Draw the codes of a span, (B, n, *trailing)."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, span.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of codes (B, N, *trailing), predicted in `orders`, at each
        position: (B, N) in nats. Codes and loss are row by row."""
        orders = self.order() if orders is None else orders
        codes = arrange(codes, orders)
        span = Span.whole(self.spec.positions, codes.device)
        h = self.hidden(self.shown(codes, noise), self.once(cond, orders), span)
        loss = self.head.loss(h, codes, SlotNoise.of(noise, codes, span.slots))
        return restore(loss, orders)


class TextLearner(Raster):
    """One that may learn the text before its codes too: `text_weight` of its loss in training."""

    def sequence(self, codes: Tensor, cond: Any, span: Span, cache: Any = None) -> Tensor:
        """Hidden states of a span, and of the prefix before slot 0 if it is the first."""
        raise NotImplementedError

    def text_share(self, x: Tensor, cond: Cond) -> Tensor:
        """What is learned of the text, of the states of whole sequences: nats, (B, 1) or of all
        rows."""
        raise NotImplementedError

    def hidden(self, codes: Tensor, cond: Any, span: Span, cache: Any = None) -> Tensor:
        return self.sequence(codes, cond, span, cache)[:, -span.slots.shape[-1] :]

    def loss(
        self, codes: Tensor, cond: Cond, orders: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of codes (B, N, *trailing), predicted in `orders`, at each
        position: (B, N) in nats, with the text's share. Codes and loss are row by row."""
        codes = arrange(codes, orders)
        span = Span.whole(self.spec.positions, codes.device)
        x = self.sequence(codes, self.once(cond, orders), span)
        h = x[:, -self.spec.positions :]
        loss = self.head.loss(h, codes, SlotNoise.of(noise, codes, span.slots))
        if self.training and self.config.text_weight:
            loss = torch.lerp(loss, self.text_share(x, cond), self.config.text_weight)
        return restore(loss, orders)


def causal(span: Span) -> bool:
    """Whether a span needs no mask: one new row sees every key, and a first block is plainly
    causal."""
    return span.first or (span.start is not None and span.slots.numel() == 1)


def visible(span: Span, before: int = 0) -> Tensor:
    """What the rows of a span see, behind `before` rows of a prefix that the first span has as
    well: (1 or B, 1, n, before + reach)."""
    positions = span.slots + before
    keys = torch.arange(before + span.reach, device=positions.device)
    if span.first:
        positions = torch.cat((keys[:before], positions))
    mask = keys <= positions.view(-1, 1, positions.shape[-1], 1)
    if span.written is None:
        return mask
    return mask & F.pad(span.written[: span.reach], (before, 0), value=True)


def place_of(
    span: Span, prefix: int, rotation: Tensor | None, known: Tensor | None = None
) -> Place:
    """Where the rows of a span stand behind a prefix of T positions: how they turn, of the
    rotations (1 or B, T + N, ...) of all if there are any, and what they see, of what is `known`,
    (B, T + N) bool, or of all."""
    start = prefix - 1  # the sequence position of slot 0
    positions = span.slots + start
    if span.first:
        positions = torch.cat((torch.arange(start, device=positions.device), positions))
    reach, turn = start + span.reach, None if rotation is None else arrange(rotation, positions)
    if known is None and causal(span):
        return Place(positions, reach, turn, None, span.first, span.keep)
    mask = visible(span, start)  # (1 or B, 1, n, reach)
    if known is not None:
        own = torch.arange(reach, device=positions.device) == positions[..., None, :, None]
        mask = mask & known[:, None, None, :reach] | own  # padding sees itself: no empty row
    return Place(positions, reach, turn, mask, False, span.keep)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    prefix: Tensor
    """(B, T, D)."""
    rotation: Tensor
    """(1, T + N, 1, head_dim / 2) complex64; with an order for each row, (B, T + N, ...)."""
    visible: Tensor | None
    """(B, T + N) bool, False where a text position is padding; None without text."""


class RasterLlama(Raster):
    """One with Llama's layers, whose rotary table has rows of zeros for the prefix, so that its
    queries and keys vanish: everybody attends to it with score 0, and reads its values."""

    any_grid = True
    prefix: int = 1
    """T."""

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        return scan(self.config.order, (spec or self.spec).grids[0])

    def rope_table(self, spec: TokenSpec | None = None) -> Tensor:
        """Zeros for the prefix, then the grid's rotations: (T + N, head_dim / 2, 2) float32."""
        grid = (spec or self.spec).grids[0]
        table = rope_2d(*grid, self.config.head_dim, self.config.rope_base)
        return F.pad(table, (0, 0, 0, 0, self.prefix, 0))

    def turns(self, spec: TokenSpec, orders: Tensor | None, device: torch.device) -> Tensor:
        """How rows turn that are drawn in `orders`, (N,) or (B, N), on the grid of `spec`."""
        turn = rotation(self.rope_table(spec).to(device))
        orders = self.order(spec) if orders is None else orders
        if orders is not None:  # a row turns by the cell of the code that it holds
            turn = turn[F.pad(orders.to(device) + self.prefix, (self.prefix, 0))]
        return turn if turn.dim() == 4 else turn.unsqueeze(0)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight = self.config, self.get_parameter("layers.0.attention_norm.weight")
        size = (c.layers, batch, c.kv_heads or c.heads, self.prefix + self.draws(spec).positions)
        return KVCache(*size, c.head_dim, weight.dtype, weight.device)

    def place(self, prepared: Prepared, span: Span) -> Place:
        """Where the rows of a span stand in the sequence, and what they see."""
        return place_of(span, self.prefix, prepared.rotation, prepared.visible)


class PrefixedLlama(RasterLlama):
    """One behind a class, or behind the features of a text, as its configuration says: `classes`,
    or `text_length` and `text_dim`."""

    def make_prefix(self) -> None:
        """Make the module that reads the condition."""
        c = self.config
        if c.classes:
            self.cls_embedding = nn.Embedding(c.classes + 1, c.dim)
        else:
            self.text_prefix = TextPrefix(c.text_length, c.text_dim, c.dim)

    def init_weights(self) -> None:
        """Normal(0, 0.02) everywhere; zeros for the logits, so that any code is as likely at first;
        a null text of rows of length 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.init_weights()
        if self.config.text_length:
            nn.init.normal_(self.text_prefix.uncond, std=self.config.text_dim**-0.5)

    @property
    def reads(self) -> Reads:
        return either(self.config)

    @property
    def reader(self) -> nn.Module:
        return self.cls_embedding if self.config.classes else self.text_prefix

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """Prefix embeddings, position rows and padding of a batch of conditions, drawn in `orders`,
        (N,) or (B, N), on the grid of `spec`."""
        spec, visible = self.draws(spec), None
        if self.config.classes:
            ids = cond.class_ids(null=self.config.classes)
            prefix = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        else:
            if cond.text is None or cond.text_mask is None:
                raise ValueError("this model is text-conditional: give text and text_mask")
            prefix = self.text_prefix(cond.text, cond.drop)  # (B, T, D)
            visible = F.pad(cond.text_mask.bool(), (0, spec.positions), value=True)
        return Prepared(prefix, self.turns(spec, orders, prefix.device), visible)

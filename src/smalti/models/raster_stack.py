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
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Rowwise, Span, TokenSpec
from smalti.models.generator import Generator
from smalti.nn.attention import KVCache
from smalti.nn.llama import Place
from smalti.nn.rope import rope_2d, rotation
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
        h = self.hidden(codes, self.once(cond, orders), span)
        loss = self.head.loss(h, codes, SlotNoise.of(noise, codes, span.slots))
        return restore(loss, orders)


def causal(span: Span) -> bool:
    """Whether a span needs no mask: one new row sees every key, and a first block is plainly
    causal."""
    return span.first or (span.start is not None and span.slots.numel() == 1)


def visible(positions: Tensor, reach: int) -> Tensor:
    """Which positions below `reach` those of a span, (n,) or (B, n), see: (1 or B, 1, n, reach)."""
    keys = torch.arange(reach, device=positions.device)
    return keys <= positions.view(-1, 1, positions.shape[-1], 1)


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
        start = self.prefix - 1  # the sequence position of slot 0
        positions = span.slots + start
        if span.first:
            positions = torch.cat((torch.arange(start, device=positions.device), positions))
        reach, turn = start + span.reach, arrange(prepared.rotation, positions)
        if prepared.visible is None and causal(span):
            return Place(positions, reach, turn, None, span.first, span.keep)
        mask = visible(positions, reach)  # (1 or B, 1, n, reach)
        if prepared.visible is not None:
            mask = mask & prepared.visible[:, None, None, :reach]
            keys = torch.arange(reach, device=positions.device)
            mask = mask | (keys == positions.view(-1, 1, positions.shape[-1], 1))
        return Place(positions, reach, turn, mask, False, span.keep)

"""Factorised head: groups of a code's bits one after another, by a small transformer.

Open-MAGVIT2 (Luo et al. 2024, arXiv:2409.04410) draws a code of 18 bits as 6 bits and then 12: two
softmaxes, over 64 and 4096 ids, instead of one over 262,144. The hidden state of a position is the
first token of a sequence, and each group that is drawn is the next one.

Unusual: these tokens have rotary positions of their own, and the first row of the table is ZERO, so
that everybody attends to the hidden state with score 0 and reads its values; the tokens behind it
stand in the first row of a grid. The tables of ids are those of the model that reads codes.

B images, n positions, D width, G groups, R rows of all branches and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Draw, Guide
from smalti.heads.categorical import CategoricalHead
from smalti.nn.attention import KVCache
from smalti.nn.groups import Groups
from smalti.nn.llama import Block, Place, Widths
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_2d, rotation
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw
from smalti.sampling.guidance import Further
from smalti.sampling.noise import SlotNoise


class FactorisedHead(nn.Module):
    """Hidden states (B, n, D) to codes, of which `groups` says what they are.

    `config` has the widths of its `layers`. Guidance leads `guidance[g]` times as far for group g,
    and its temperature is `temperature[g]` times as high; () is once for all.
    """

    def __init__(
        self,
        groups: Groups,
        config: Widths,
        layers: int,
        rope_base: float = 10000.0,
        guidance: Sequence[float] = (),
        temperature: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.groups, self.rope_base = groups, rope_base
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.guidance = tuple(guidance) or (1.0,) * len(groups.sizes)
        self.temperature = tuple(temperature) or (1.0,) * len(groups.sizes)
        self.tables = nn.ModuleList([nn.Embedding(size, config.dim) for size in groups.sizes])
        self.layers = nn.ModuleList([Block(config, 0.0) for _ in range(layers)])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.parts = nn.ModuleList([CategoricalHead(config.dim, n) for n in groups.sizes])

    def init_weights(self) -> None:
        """Zeros for the logits: any code is as likely as any other."""
        for part in self.each():
            part.init_weights()

    def each(self) -> list[CategoricalHead]:
        """The head of each group."""
        return cast(list[CategoricalHead], list(self.parts))

    def embed(self, codes: Tensor) -> Tensor:
        """What a model reads of codes, the sum of a row for each group: (B, n, D)."""
        ids = self.groups.split(codes).unbind(-1)
        return torch.stack([table(i) for table, i in zip(self.tables, ids, strict=True)]).sum(0)

    def places(self, device: torch.device) -> list[Place]:
        """Of each token alone, behind those before it."""
        count = len(self.parts)
        table = rope_2d(1, count, self.head_dim, self.rope_base)[: count - 1]
        turn = rotation(F.pad(table, (0, 0, 0, 0, 1, 0)).to(device))  # (G, 1, hd / 2)
        tokens = torch.arange(count, device=device)
        return [
            Place(tokens[g : g + 1], g + 1, turn[g : g + 1], None, False, True)
            for g in range(count)
        ]

    def states(self, h: Tensor, ids: Tensor) -> Tensor:
        """What each group is predicted from, (B, n, G, D), of ids (B, n, G) that are known."""
        known = [table(i) for table, i in zip(self.tables, ids.unbind(-1), strict=True)]
        x = torch.stack([h, *known[:-1]], 2).flatten(0, 1)  # (R, G, D)
        places = self.places(h.device)
        turn = torch.cat([place.rotation for place in places])
        place = Place(torch.cat([p.positions for p in places]), len(places), turn, None, True, True)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, None)
        return self.norm(x).view(*ids.shape, -1)

    def logits(self, h: Tensor, codes: Tensor) -> list[Tensor]:
        """Of each group given the groups of `codes` before it, (B, n, ids of the group) float32."""
        states = self.states(h, self.groups.split(codes)).unbind(2)
        return [part.logits(state) for part, state in zip(self.each(), states, strict=True)]

    def loss(self, h: Tensor, codes: Tensor, noise: SlotNoise | None = None) -> Tensor:
        """Negative log-likelihood of each position, the sum over its groups: (B, n) in nats."""
        ids = self.groups.split(codes)
        states = self.states(h, ids).unbind(2)
        given = zip(self.each(), states, ids.unbind(-1), strict=True)
        return torch.stack([part.loss(state, i) for part, state, i in given]).sum(0)

    def guides(self, guide: Guide) -> list[Guide]:
        """The guide of each group."""
        return [guide if ratio == 1 else Further(guide, ratio) for ratio in self.guidance]

    def sample(self, h: Tensor, chance: Chance) -> Draw:
        """Draw codes (B, n, *trailing) from hidden states of all branches (branches * B, n, D)."""
        places, guides = self.places(h.device), self.guides(chance.guide)
        x = h.flatten(0, 1).unsqueeze(1)  # (R, 1, D)
        size = (len(self.layers), len(x), self.heads, len(places), self.head_dim)
        cache = KVCache(*size, h.dtype, h.device)
        numbers = chance.noise.uniform(len(places))  # (B, n, G)
        ids, logps = list[Tensor](), list[Tensor]()
        for g, (part, table) in enumerate(zip(self.each(), self.tables, strict=True)):
            for i, layer in enumerate(self.layers):
                x = layer(x, places[g], i, cache)
            state = self.norm(x).view_as(h)
            logits = part.merged(state, guides[g]) / self.temperature[g]  # (B, n, ids)
            found, logp = draw(chance.filters(logits), numbers[..., g])
            ids.append(found)
            logps.append(logp)
            x = table(chance.guide.tile(found)).flatten(0, 1).unsqueeze(1)
        return Draw(self.groups.join(torch.stack(ids, -1)), torch.stack(logps).sum(0), h)

"""Factorised head: groups of a code's bits one after another, by a small transformer.

Open-MAGVIT2 (Luo et al. 2024, arXiv:2409.04410) draws a code of 18 bits as 6 bits and then 12: two
softmaxes, over 64 and 4096 ids, instead of one over 262,144. The hidden state of a position is the
first token of a sequence, and each group that is drawn is the next one.

Unusual: these tokens have rotary positions of their own, and the first row of the table is ZERO, so
that everybody attends to the hidden state with score 0 and reads its values; the tokens behind it
stand in the first row of a grid. The tables of ids are those of the model that reads codes.

B images, n positions, D width, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.heads.categorical import CategoricalHead
from smalti.heads.in_turn import HeadInTurn
from smalti.nn.groups import Groups
from smalti.nn.llama import Block, Widths
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_2d, rotation


class FactorisedHead(HeadInTurn):
    """Hidden states (B, n, D) to codes, of which `groups` says what they are.

    `config` has the widths of its `layers`. Ratios of guidance and temperature are those of
    `HeadInTurn`.
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
        super().__init__(len(groups.sizes), config.dim, config.heads, guidance, temperature)
        self.groups, self.rope_base = groups, rope_base
        self.tables = nn.ModuleList([nn.Embedding(size, config.dim) for size in groups.sizes])
        self.layers = nn.ModuleList([Block(config, 0.0) for _ in range(layers)])
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.parts = nn.ModuleList([CategoricalHead(config.dim, n) for n in groups.sizes])

    def each(self) -> list[CategoricalHead]:
        return cast(list[CategoricalHead], list(self.parts))

    def split(self, codes: Tensor) -> Tensor:
        return self.groups.split(codes)

    def join(self, parts: Tensor) -> Tensor:
        return self.groups.join(parts)

    def embed(self, codes: Tensor) -> Tensor:
        """What a model reads of codes, the sum of a row for each group: (B, n, D)."""
        return self.behind(self.split(codes)).sum(-2)

    def behind(self, parts: Tensor) -> Tensor:
        if not parts.shape[-1]:
            return self.tables[0](parts)
        rows = [table(ids) for table, ids in zip(self.tables, parts.unbind(-1), strict=False)]
        return torch.stack(rows, -2)

    def latest(self, parts: list[Tensor]) -> Tensor:
        return self.tables[len(parts) - 1](parts[-1])

    def rotation(self, device: torch.device) -> Tensor:
        table = rope_2d(1, self.count, self.head_dim, self.rope_base)[: self.count - 1]
        return rotation(F.pad(table, (0, 0, 0, 0, 1, 0)).to(device))  # (G, 1, hd / 2)

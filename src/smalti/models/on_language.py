"""What models of text and pictures share whose trunk is a language model: ids, cache, logits.

B rows, L positions, n of one call, D width, V ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.models.language import Language
from smalti.models.unified import Unified
from smalti.nn.attention import KVCache


class OnLanguage(Unified):
    """One that reads and writes text as its `language` does, and has an id before and one after a
    picture, `begin` and `end` of its configuration."""

    language: Language

    @property
    def vocab(self) -> int:
        return self.config.language.vocab

    @property
    def written(self) -> Tensor:
        """All ids but those around pictures, (V,) bool."""
        written = torch.ones(self.vocab, dtype=torch.bool)
        written[[self.config.begin, self.config.end]] = False
        return written

    def cache(self, batch: int, length: int) -> KVCache:
        return self.language.cache(batch, length)

    def logits(self, h: Tensor) -> Tensor:
        return self.language.logits(h)

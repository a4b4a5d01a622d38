"""What a text encoder is: texts to tokens, tokens to features, both left padded.

Also what a batch of training data says of its condition.

B texts, T tokens, C the width of their features. A token is one number, or the bytes of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smalti.codes import Cond

PADDING = -1
"""The token of a position that holds none."""


@dataclass(frozen=True)
class TextConfig:
    """The settings of a text encoder. All have a `length`, T, the tokens that are read, and a
    `dim`, C."""

    @property
    def ids(self) -> int:
        """How many ids of tokens there are, where a feature is the id of a token and C is 1; 0:
        features are vectors."""
        return 0


class TextEncoder(nn.Module):
    """Reads texts. A text's features do not depend on the others of its batch."""

    learned: bool
    """True: trained together with the generator. False: frozen, its features can be cached."""

    config: Any
    """`config.length` is T, the tokens that are read; `config.dim` is C."""

    @property
    def capacity(self) -> int:
        """T, the tokens that are read."""
        return self.config.length

    def init_weights(self) -> None:
        """Draw new weights, of one that learns."""

    def learn_from(self, texts: Sequence[str]) -> None:
        """Take over what a new encoder needs of the texts of training."""

    def release(self) -> None:
        """Give memory back until the next text, where a frozen one can load it again."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens (B, T, ...) int64 of the texts, cut at T and left padded with -1."""
        raise NotImplementedError

    def count(self, text: str) -> int:
        """How many tokens a text has. Those beyond T are not read."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, C), zeros at padding, and their mask (B, T) bool."""
        raise NotImplementedError


@torch.inference_mode()
def read_each(
    encoder: TextEncoder, texts: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features (B, T, C) of texts and their mask (B, T): equal texts are read once, and each alone,
    as a batch would round otherwise."""
    read = {t: encoder(encoder.tokenize([t]).to(device)) for t in dict.fromkeys(texts)}
    features, masks = zip(*(read[t] for t in texts), strict=True)
    return torch.cat(features), torch.cat(masks)


def condition(batch: dict[str, Tensor], encoder: TextEncoder | None = None) -> Cond:
    """The condition of a batch of `CodeBatches`: captions that a learned `encoder` reads, cached
    features of a frozen one, codes of maps, or labels. Images without any are unconditional."""
    if encoder is not None:
        return Cond.of_text(*encoder(batch["text_tokens"]))
    if "text" in batch:
        return Cond.of_text(batch["text"], batch["text_mask"])
    if "map" in batch:
        return Cond(map=batch["map"])
    return Cond.of_labels(batch["labels"])

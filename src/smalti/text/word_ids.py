"""Texts as ids of pieces of words, for generators that have vectors of these ids themselves.

Byte-level BPE (`text.words`; Sennrich et al. 2015, arXiv:1508.07909) of texts in lower case, as
DALL-E reads captions (Ramesh et al. 2021, arXiv:2102.12092). Unusual: a feature is the id of a
token, so it has no weights; what the ids stand for is made of the captions of training, and kept in
the configuration.
B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smalti.config import check
from smalti.text.encoders import PADDING, TextConfig, TextEncoder
from smalti.text.words import Words


@dataclass(frozen=True)
class WordIdsConfig(TextConfig):
    length: int = 256
    """T, tokens that are read."""
    vocab: int = 16384
    """Ids, of which 256 are bytes and three are marks; fewer if the captions give no more."""
    words: str = ""
    """Folder of a text tokenizer; empty: one is made of the captions of training. Of an encoder
    that has one, in a pipeline, it is what the tokenizer's file says."""

    def __post_init__(self) -> None:
        check(self, positive=("length", "vocab"))

    @property
    def dim(self) -> int:
        """C: a feature is one number."""
        return 1

    @property
    def ids(self) -> int:
        return self.vocab


class WordIds(TextEncoder):
    """Texts to ids of pieces of words; case makes no difference.

    Raises ValueError for a folder without a text tokenizer, and for a text before there is one.
    """

    config: WordIdsConfig
    learned = True

    def __init__(self, config: WordIdsConfig) -> None:
        super().__init__()
        self.config, self.words = config, None
        if config.words:
            written = config.words.startswith("{")
            self.take(Words(config.words) if written else Words.open(config.words))

    def take(self, words: Words) -> None:
        """Read by this text tokenizer."""
        self.words = words
        self.config = replace(self.config, vocab=words.vocab, words=words.text)

    def learn_from(self, texts: Sequence[str]) -> None:
        """Make a text tokenizer of the texts, if there is none yet."""
        if self.words is None:
            self.take(Words.train(map(plain, texts), self.config.vocab))

    def read(self, text: str) -> list[int]:
        """The ids of a text, however many."""
        if self.words is None:
            raise ValueError("this text encoder has no text tokenizer yet: train it, or give one")
        return self.words.read(plain(text))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Ids (B, T) int64, cut at T and right padded with -1."""
        length = self.config.length
        rows = [self.read(text)[:length] for text in texts]
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows])

    def count(self, text: str) -> int:
        return len(self.read(text))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, T) as features (B, T, 1) float32, zeros at padding, and their mask (B, T)."""
        mask = tokens >= 0
        return (tokens * mask).unsqueeze(-1).float(), mask


def plain(text: str) -> str:
    """A text in lower case; half a surrogate pair is a question mark."""
    return text.lower().encode("utf-8", "replace").decode("utf-8")


def tiny() -> WordIdsConfig:
    """An encoder of a few ids beside the bytes, for tests."""
    words = Words.train(["a small red heart", "a large red star"], vocab=270)
    return WordIdsConfig(length=12, vocab=words.vocab, words=words.text)

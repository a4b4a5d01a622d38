"""A small text encoder that learns together with the generator: no download, any language.

Unusual: it has no vocabulary. A word is the sum of the embeddings of its UTF-8 bytes, each at its
place in the word, so that a word is told from every other at once and unknown ones are read too.
LlamaGen's image positions see no more than the mean of the prefix, so it is here that a caption is
understood as a whole: a few bidirectional blocks, whose rotary positions are relative, so that
padding in front changes nothing.
B texts, T words, W bytes of a word, C width, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from smalti.config import check
from smalti.nn.attention import attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import Gated
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_1d, rotate, rotation
from smalti.text.encoders import PADDING, TextConfig, TextEncoder

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class BytesConfig(TextConfig):
    length: int = 32
    """T, words that are read; signs count as words."""
    word: int = 16
    """W, bytes of a word; a longer one continues as another, cut at a whole character."""
    dim: int = 256
    """C, a multiple of 2 * heads."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        check(self, positive=("length", "word", "dim", "layers", "heads"))
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim must be a multiple of 2 * heads, got {self.dim}, {self.heads}")


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); every token sees every other."""

    def __init__(self, config: BytesConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = RMSNorm(config.dim)
        self.wqkv = Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = Linear(config.dim, config.dim, bias=False)
        self.ffn_norm = RMSNorm(config.dim)
        self.feed_forward = Gated(config.dim, 2 * config.dim)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        qkv = self.wqkv(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1))
        qk, v = qkv.split((2 * self.heads, self.heads), 2)
        q, k = rotate(qk, rotation).transpose(1, 2).chunk(2, 1)  # (B, H, T, C / H)
        y = attend(q, k, v.transpose(1, 2), mask)
        x = x + self.wo(y.transpose(1, 2).flatten(2))  # (B, T, C)
        return x + self.feed_forward(self.ffn_norm(x))


class ByteEncoder(TextEncoder):
    """Words as bytes to features; case makes no difference."""

    config: BytesConfig
    learned = True

    def __init__(self, config: BytesConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(256 * config.word, config.dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal: embeddings of variance 1, products that keep the variance."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.normal_(self.embedding.weight)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Bytes of words (B, T, W) int64, words left padded and bytes right padded with -1."""
        length, width = self.config.length, self.config.word
        tokens = np.full((len(texts), length, width), PADDING)
        for row, text in zip(tokens, texts, strict=True):
            words = self._words(text)[:length]
            for place, word in zip(row[length - len(words) :], words, strict=True):
                place[: len(word)] = list(word)
        return torch.from_numpy(tokens)

    def count(self, text: str) -> int:
        return len(self._words(text))

    def _words(self, text: str) -> list[bytes]:
        return [part for word in WORD.findall(text.lower()) for part in self._parts(word)]

    def _parts(self, word: str) -> list[bytes]:
        """A word as UTF-8 in parts of at most W bytes, whole characters."""
        parts = [b""]
        for character in word:
            data = character.encode("utf-8", "replace")  # half a surrogate pair becomes "?"
            if len(parts[-1]) + len(data) > self.config.word:
                parts.append(b"")
            parts[-1] += data
        return parts

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes (B, T, W) to features (B, T, C), zeros at padding, and their mask (B, T)."""
        length, width = self.config.length, self.config.word
        given = tokens >= 0  # (B, T, W)
        mask = given.any(-1)  # (B, T)
        places = 256 * torch.arange(width, device=tokens.device)
        x = self.embedding(tokens.clamp(min=0) + places) * given[..., None]
        size = given.sum(2, keepdim=True).clamp(min=1).to(x.dtype)
        x = x.sum(2) / size.sqrt()  # (B, T, C)
        turn = rotation(rope_1d(length, self.config.dim // self.config.heads).to(tokens.device))
        itself = torch.eye(length, dtype=torch.bool, device=tokens.device)
        visible = mask[:, None, None] | itself  # (B, 1, T, T); padding sees itself: no empty row
        for layer in self.layers:
            x = layer(x, turn, visible)
        return self.norm(x) * mask[..., None], mask


def tiny() -> BytesConfig:
    """An encoder of a few thousand parameters, for tests."""
    return BytesConfig(length=12, word=4, dim=16, layers=1, heads=2)

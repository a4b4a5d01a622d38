"""A small text encoder that learns together with the generator: no download, any language.

Unusual: it reads UTF-8 bytes, not words. LlamaGen's image positions see no more than the mean of
the prefix, so it is here that a caption is understood as a whole: a few bidirectional blocks, whose
rotary positions are relative, so that padding in front changes nothing. Then neighbouring bytes are
added up: a short prefix costs the generator less.
B texts, L = T * patch bytes, T features, C width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.nn.attention import attend
from smalti.nn.linear import Linear
from smalti.nn.mlp import SwiGLU
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_1d, rotate, rotation
from smalti.text.encoders import left_padded


@dataclass(frozen=True)
class BytesConfig:
    length: int = 30
    """T, features of a text; it is read up to T * patch bytes, cut at a whole character."""
    patch: int = 4
    """Bytes that share a feature, counted from the end."""
    dim: int = 256
    """C, a multiple of 2 * heads."""
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("length", "patch", "dim", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
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
        self.feed_forward = SwiGLU(config.dim, 2 * config.dim)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        qkv = self.wqkv(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1))
        qk = rotate(qkv[:, :, : 2 * self.heads], rotation).transpose(1, 2)
        q, k = qk.chunk(2, 1)  # (B, H, L, C / H)
        y = attend(q, k, qkv[:, :, 2 * self.heads :].transpose(1, 2), mask)
        x = x + self.wo(y.transpose(1, 2).flatten(2))  # (B, L, C)
        return x + self.feed_forward(self.ffn_norm(x))


class ByteEncoder(nn.Module):
    """Bytes of texts to features. A `TextEncoder`."""

    learned = True

    def __init__(self, config: BytesConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(256, config.dim)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = RMSNorm(config.dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal: embeddings of variance 1, products that keep the variance."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.normal_(self.embedding.weight)

    @property
    def capacity(self) -> int:
        """L, the bytes that are read."""
        return self.config.length * self.config.patch

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Bytes (B, L) int64, left padded with -1."""
        return left_padded([self._cut(_utf8(text)) for text in texts], self.capacity)

    def count(self, text: str) -> int:
        return len(_utf8(text))

    def _cut(self, data: bytes) -> bytes:
        """The first L bytes or fewer: whole characters."""
        return data[: self.capacity].decode("utf-8", "ignore").encode()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes (B, L) to features (B, T, C), zeros at padding, and their mask (B, T)."""
        mask = tokens >= 0
        table = rope_1d(self.capacity, self.config.dim // self.config.heads)
        turn = rotation(table.to(tokens.device))
        itself = torch.eye(self.capacity, dtype=torch.bool, device=tokens.device)
        visible = mask[:, None, None] | itself  # (B, 1, L, L); padding sees itself: no empty row
        x = self.embedding(tokens.clamp(min=0))  # (B, L, C)
        for layer in self.layers:
            x = layer(x, turn, visible)
        x = (x * mask[..., None]).unflatten(1, (-1, self.config.patch)).sum(2)  # (B, T, C)
        return self.norm(x), mask.unflatten(1, (-1, self.config.patch)).any(2)


def _utf8(text: str) -> bytes:
    """Half of a surrogate pair, which UTF-8 cannot say, becomes a question mark."""
    return text.encode("utf-8", "replace")


def tiny() -> BytesConfig:
    """An encoder of a few thousand parameters, for tests."""
    return BytesConfig(length=12, patch=2, dim=16, layers=1, heads=2)

"""LLM2CLIP: a tower that sees, whose texts a frozen language model reads.

Huang et al. 2024, "LLM2CLIP: Powerful Language Model Unlocks Richer Visual Representation"
(arXiv:2411.04997); the language model is one of sentences first, as LLM2Vec makes them
(BehnamGhader et al. 2024, arXiv:2404.05961).

Unusual: a language model that writes well tells captions badly apart. So it first learns, by
updates of low rank, that two captions of one picture are near to each other and all others are far;
every word then sees the whole text. Only after that it reads for the tower, frozen, and behind it
stands an adapter that learns with the tower.

B texts or pictures, L ids, C width of the language model, E features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.towers import TowerConfig, Towers, TowersConfig
from smalti.nn.linear import Linear
from smalti.nn.llama import Place
from smalti.text.words import Words

LLAMA = LanguageConfig(128_256, 32, 32, 4096, 14_336, kv_heads=8, rope_base=500_000.0)
"""Llama-3-8B."""


@dataclass(frozen=True)
class SentencesConfig:
    """A language model, and how it makes one vector of a text."""

    language: LanguageConfig = field(default_factory=lambda: LLAMA)
    causal: bool = False
    """Whether a word sees those before it alone, as when it writes."""
    pooling: Literal["mean", "last"] = "mean"
    """What stands for a text: the mean of its words, or the last one."""
    pad: int = 2
    """The id that a text is filled up with; the text tokenizer decides it."""

    def __post_init__(self) -> None:
        check(self, counts=("pad",))


class Sentences(nn.Module):
    """Ids of texts to a vector of each."""

    NO_DECAY = ("*tok_embeddings.*",)

    def __init__(self, config: SentencesConfig) -> None:
        super().__init__()
        self.config, self.language = config, Language(config.language)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L), filled up on the right, to hidden states (B, L, C)."""
        length = ids.shape[1]
        slots = torch.arange(length, device=ids.device)
        mask = (ids != self.config.pad)[:, None, None] | (slots == 0)  # (B, 1, 1, L)
        if self.config.causal:
            mask = mask & (slots <= slots[:, None])
        turns = self.language.turns(slots.expand(len(ids), -1))
        place = Place(slots, length, turns, mask.expand(-1, -1, length, -1), False, True)
        return self.language(self.language.embed(ids), place)

    def pooled(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Hidden states (B, L, C) of ids (B, L) to one vector of each text, (B, C)."""
        kept = ids != self.config.pad
        if self.config.pooling == "last":
            last = kept.sum(1).clamp(min=1) - 1
            return hidden[torch.arange(len(ids), device=ids.device), last]
        kept = kept.unsqueeze(-1)
        return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)

    def read(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to unit vectors (B, C), float32."""
        return F.normalize(self.pooled(self(ids), ids).float(), dim=-1)


@dataclass(frozen=True)
class ReaderConfig:
    """A language model that reads, and the adapter behind it."""

    sentences: SentencesConfig = field(default_factory=SentencesConfig)
    layers: int = 4
    """Blocks of the adapter."""
    unit: bool = False
    """Whether the vector of a text has length 1 before the adapter."""

    def __post_init__(self) -> None:
        check(self, "text.", counts=("layers",))


@dataclass(frozen=True)
class LLM2CLIPConfig(TowersConfig):
    """Towers of which a language model reads."""

    kind: Literal["clip", "siglip"] = "clip"
    text: ReaderConfig = field(default_factory=ReaderConfig)  # pyright: ignore - another reader
    """What reads."""

    def fitted(self, words: Words) -> Self:
        """The configuration with the ids of a text tokenizer, which begin no text with a mark."""
        found, mine = replace(super().fitted(words), start=None), self.text.sentences
        known = replace(mine.language, vocab=max(words.vocab, mine.language.vocab))
        sentences = replace(mine, language=known, pad=words.pad)
        return replace(found, text=replace(self.text, sentences=sentences))  # pyright: ignore

    def reading_by(self, sentences: SentencesConfig) -> Self:
        return replace(self, text=replace(self.text, sentences=sentences))  # pyright: ignore


class Adapter(nn.Module):
    """x + w2(gelu(w1 norm(x))) of (B, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.w1, self.w2 = Linear(dim, 2 * dim), Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w2(F.gelu(self.w1(self.norm(x))))


class Reader(nn.Module):
    """Ids to hidden states of a language model, and those to features of whole texts."""

    def __init__(self, config: LLM2CLIPConfig) -> None:
        super().__init__()
        mine = config.text
        dim, self.unit = mine.sentences.language.dim, mine.unit
        self.sentences = Sentences(mine.sentences)
        self.layers = nn.ModuleList([Adapter(dim) for _ in range(mine.layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, config.features)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to hidden states (B, L, C)."""
        return self.sentences(ids)

    def whole(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Hidden states (B, L, C) of ids (B, L) to features (B, E), of any length."""
        x = self.sentences.pooled(hidden, ids)
        x = F.normalize(x, dim=-1) if self.unit else x
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class LLM2CLIP(Towers):
    """Pictures that a tower sees, and texts that a language model reads, as unit features."""

    NO_DECAY = ("*tok_embeddings.*",)
    READER = Reader
    FROZEN = ("text.sentences.",)
    config: LLM2CLIPConfig
    text: Reader

    def draw_reader(self) -> None:
        """The language model's weights are drawn as it draws them, the adapter's as PyTorch
        does."""
        self.text.sentences.language.init_weights()
        for module in (*self.text.layers.modules(), self.text.norm, self.text.head):
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.reset_parameters()

    def take(self, sentences: nn.Module) -> None:
        self.text.sentences.load_state_dict(sentences.state_dict())


def tiny_sentences() -> SentencesConfig:
    """A language model of a few thousand parameters, for tests."""
    return SentencesConfig(tiny_language(vocab=300))


def tiny(**changes: Any) -> LLM2CLIPConfig:
    """Towers of some thousand parameters, for tests."""
    small = TowerConfig(layers=2, heads=2, dim=16, ffn_dim=32)
    reader = ReaderConfig(tiny_sentences(), layers=1)
    sizes: dict[str, Any] = {"size": 8, "patch": 4, "length": 8, "vocab": 300, "features": 16}
    return LLM2CLIPConfig(**sizes | {"vision": small, "text": reader} | changes)

"""Flamingo: a frozen language model that looks at pictures between its layers.

Alayrac et al. 2022, "Flamingo: a Visual Language Model for Few-Shot Learning" (arXiv:2204.14198),
as open_flamingo has it (Awadalla et al. 2023, arXiv:2308.01390).

Unusual: a picture is one id in the row, and what a frozen tower sees of it stands beside the row. A
resampler makes a few latents of it; before every so manieth layer of the language model a gated one
looks at the latents of the last picture before each position. The language model keeps all of its
weights, and with all gates at 0 all that it writes. Such a model reads pictures and writes text; it
draws nothing.

Letters: B rows, L positions, n of one call, V ids, D width, P pictures of a row, N patches of a
picture, C width of a patch's features, m latents of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.eye import Sight
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import Marks, Term, Unified, UnifiedConfig, behind
from smalti.nn.attention import KVCache
from smalti.nn.cross import Context
from smalti.nn.perceiver import GatedLayer, Gaze, Resampler, ResamplerConfig, Sees, gaze
from smalti.sampling.noise import Noise
from smalti.text.sequence import Rows, Wrapping

LLAMA = LanguageConfig(32_000, 32, 32, 4096, 11_008, norm_eps=1e-6)
"""Llama-7B, the language model of the first OpenFlamingo-9B."""


@dataclass(frozen=True)
class FlamingoConfig(UnifiedConfig):
    """A language model, and what lets it see; the defaults are those of the first OpenFlamingo-9B
    with CLIP ViT-L/14."""

    drawing = False
    frozen = True

    language: LanguageConfig = field(default_factory=lambda: LLAMA)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    grid: tuple[int, int] = (16, 16)
    """Height and width of a picture in patches of the tower."""
    every: int = 4
    """A gated layer stands before every so manieth layer of the language model."""
    heads: int = 8
    """Attention heads of a gated layer."""
    head_dim: int = 64
    """Width of such a head."""
    multiplier: int = 4
    """The feed-forward of a gated layer is so many times as wide as the model."""
    sees: Sees = "last"
    """Which pictures before it a position looks at: the last one, or all."""
    added: int = 3
    """Ids behind those of the language model, whose vectors are learned."""
    picture: int = 32_001
    """The id of a picture, one of those."""
    marks: Marks = field(default_factory=lambda: Marks(1, (32_000, 2), 32_002))
    """Ids that stand for no text."""
    length: int = 2048
    """Positions of a document, at most."""

    def __post_init__(self) -> None:
        sizes = ("every", "heads", "head_dim", "multiplier", "added", "length")
        check(self, pairs=("grid",), positive=sizes)
        if self.every > self.language.layers:
            raise ValueError(
                f"every must be at most {self.language.layers}, the layers of the language model, "
                f"got {self.every}"
            )
        first, last = self.language.vocab, self.vocab - 1
        if not first <= self.picture <= last:
            raise ValueError(
                f"picture must be an id that is added, {first} to {last}, got {self.picture}"
            )

    @property
    def vocab(self) -> int:
        """V, ids of the language model and those that are added."""
        return self.language.vocab + self.added

    @property
    def spec(self) -> TokenSpec:
        """What the eye sees of a picture."""
        return TokenSpec((self.grid,), channels=self.resampler.dim)

    @property
    def sight(self) -> Sight:
        """What the eye gives, as it is."""
        return Sight(self.spec)

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """The language model knows the words; one id is added, of a picture."""
        known = replace(self.language, vocab=words)
        return replace(self, language=known, added=1, picture=words, marks=marks)

    def seeing(self, sight: Sight) -> Self:
        (grid, *_), dim = sight.spec.grids, sight.spec.channels
        found = replace(self, grid=grid, resampler=replace(self.resampler, dim=dim))
        found.sight.require(sight)
        return found

    def speaking(self, language: LanguageConfig) -> Self:
        moved = self.picture - self.language.vocab + language.vocab
        return replace(self, language=language, picture=moved)


@dataclass(frozen=True)
class OneMark(Wrapping):
    """An id for a whole picture, whose features stand beside the row."""

    learns_begin: bool = False
    picture: int = 0

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        return (self.picture,)

    def plan(self, spec: TokenSpec) -> Sequence[int]:
        return ()


class FlamingoCache:
    """Keys and values of the language model, and latents of pictures with theirs."""

    def __init__(self, language: KVCache) -> None:
        self.language = language
        self.context: Context | None = None


class Flamingo(Unified):
    """Rows of ids (B, L) and features of pictures (B, P, N, C) to the ids that come next."""

    NO_DECAY = ("*tok_embeddings.*", "added.*", "resampler.latents")
    FROZEN = ("language.",)
    kinds = ("text",)
    config: FlamingoConfig

    def __init__(self, config: FlamingoConfig) -> None:
        super().__init__()
        self.config, self.spec, self.marks = config, config.spec, config.marks
        self.sight, self.wrapping = config.sight, Wrapping(seen=OneMark(picture=config.picture))
        self.language = Language(config.language)
        self.added = nn.Embedding(config.added, config.language.dim)
        self.resampler = Resampler(config.resampler)
        count = config.language.layers // config.every
        sizes = (config.heads, config.head_dim, config.multiplier)
        self.layers = nn.ModuleList(
            [GatedLayer(config.language.dim, config.resampler.dim, *sizes) for _ in range(count)]
        )

    @property
    def vocab(self) -> int:
        return self.config.vocab

    @property
    def written(self) -> Tensor:
        """Those of the language model, (V,) bool; of those that are added a mark may be one that
        ends a text."""
        return torch.arange(self.vocab) < self.config.language.vocab

    def init_weights(self) -> None:
        """Those of the language model are drawn as it draws them, others as PyTorch does, and gates
        are 0."""
        self.language.init_weights()
        nn.init.normal_(self.added.weight, std=0.02)
        for part in (self.resampler, self.layers):
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    module.reset_parameters()
        for _, parameter in self.resampler.named_parameters(recurse=False):
            nn.init.normal_(parameter)
        for layer in self.layers:
            nn.init.zeros_(layer.get_parameter("attention_gate"))
            nn.init.zeros_(layer.get_parameter("ffn_gate"))

    def take(self, language: nn.Module) -> None:
        self.language.load_state_dict(language.state_dict())

    def cache(self, batch: int, length: int) -> FlamingoCache:
        return FlamingoCache(self.language.cache(batch, length))

    def embed(self, ids: Tensor) -> Tensor:
        """The vectors (B, n, D) of ids (B, n)."""
        known = self.config.language.vocab
        x = self.language.embed(ids.clamp(max=known - 1))
        added = self.added((ids - known).clamp(min=0))
        return torch.where((ids < known).unsqueeze(-1), x, added)

    def context(self, rows: Rows) -> Context:
        """The latents (B, P m, C) of the pictures of rows; without any, those of one of zeros,
        which nothing looks at."""
        features = rows.beside
        if features is None:
            features = self.added.weight.new_zeros(len(rows.ids), 1, *self.spec.shape(1)[1:])
        latents = self.resampler(features.to(self.added.weight.dtype).unsqueeze(2))  # (B, P, m, C)
        return Context(latents.flatten(1, 2), None, keep=not self.training)

    def gaze(self, rows: Rows) -> Gaze:
        """What all positions of rows look at."""
        shown = (rows.ids == self.config.picture) & rows.kept  # (B, L)
        count = 1 if rows.beside is None else rows.beside.shape[1]
        numbers = torch.arange(1, count + 1, device=shown.device)
        last = shown.cumsum(1)  # (B, L)
        here = last[..., None] == numbers  # (B, L, P): between the picture and the next one
        owners = torch.ones_like(last) if rows.owners is None else rows.owners
        # the document of a picture is that of its id; -1: the row has fewer pictures
        theirs = torch.where(here & shown[..., None], owners[..., None], -1).amax(1)  # (B, P)
        own = owners[..., None] == theirs.unsqueeze(1)
        return gaze(last, own, self.config.resampler.latents, self.config.sees)

    def read(self, rows: Rows, begin: int, end: int, cache: FlamingoCache | None) -> Tensor:
        context = self.context(rows) if cache is None else cache.context
        if context is None:
            assert cache is not None
            context = cache.context = self.context(rows)
        seen, level = self.gaze(rows)
        here = Gaze(seen[:, begin:end], level[:, begin:end])
        place, every = place_of(self.language, rows, begin, end), self.config.every
        x = self.embed(rows.ids[:, begin:end])
        for i, layer in enumerate(self.language.layers):
            if (i + 1) % every == 0:
                x = self.layers[i // every](x, context, here)
            x = layer(x, place, i, cache and cache.language)
        return self.language.norm(x)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, n, V); ids that are added are read and written by one table."""
        return torch.cat((self.language.logits(h), F.linear(h, self.added.weight)), -1)

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of each id that is learned, given all before it."""
        h = self.read(rows, 0, rows.ids.shape[1], None)
        return {"text": behind(self.logits, h[:, :-1], rows.targets[:, 1:])}


def tiny(**changes: Any) -> FlamingoConfig:
    """A model of a few thousand parameters, for tests."""
    look = ResamplerConfig(dim=6, layers=1, heads=2, head_dim=4, latents=3, multiplier=2)
    sizes: dict[str, Any] = {"language": tiny_language(), "resampler": look, "grid": (2, 3)}
    sizes |= {"every": 1, "heads": 2, "head_dim": 4, "multiplier": 2}
    ids: dict[str, Any] = {"added": 1, "picture": 64, "marks": Marks()}
    return FlamingoConfig(**sizes | ids | changes)

"""CLIP and SigLIP: a tower that sees and one that reads, whose features meet.

CLIP: Radford et al. 2021 (arXiv:2103.00020). SigLIP: Zhai et al. 2023 (arXiv:2303.15343). The
tower that sees is a ViT (Dosovitskiy et al. 2020, arXiv:2010.11929).

Unusual: both are the same blocks and differ in what stands for the whole. In CLIP it is a token of
its own before the patches, and the end mark of a text that is read from left to right. In SigLIP a
learned query looks at all patches, and a text is read in both directions, filled up to its full
length, with nothing masked: what stands at the last position is the whole. What a downstream model
takes are the hidden states of patches, which SigLIP normalises and CLIP does not.

B pictures or texts, N patches (and CLIP's token before them), L ids, D width of a tower, H heads,
E features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn.cosines import cosines
from smalti.nn.linear import Linear
from smalti.nn.vision import Block, TowerConfig, VisionTower
from smalti.text.words import Words

Kind = Literal["clip", "siglip"]

PLACES = 0.3
"""Standard deviation of the first positions of a tower that sees."""


@dataclass(frozen=True)
class TowersConfig:
    kind: Kind = "siglip"
    """What stands for a whole picture and a whole text: tokens (clip), or a query and the last
    position (siglip)."""
    size: int = 32
    """Height and width of pictures in pixels; what is more than a multiple of `patch`, at the right
    and the bottom, is not seen."""
    patch: int = 4
    """Height and width of a patch in pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What is taken from red, green and blue in [0, 1], before they are divided by `std`."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What they are divided by."""
    length: int = 32
    """L, the ids of a text that are read, marks among them."""
    vocab: int = 512
    """Ids there are; the text tokenizer decides it, and the three marks."""
    start: int | None = None
    """The id before a text; None: there is none."""
    stop: int = 1
    """The id behind a text."""
    pad: int = 2
    """The id that a text is filled up with."""
    largest: bool = False
    """Whether CLIP reads the whole of a text at its largest id, as its old files do, in place of
    the first `stop`."""
    features: int = 128
    """E; in siglip it is the width of the tower that sees."""
    vision: TowerConfig = field(default_factory=TowerConfig)
    """The tower that sees."""
    text: TowerConfig = field(default_factory=TowerConfig)
    """The tower that reads."""

    def __post_init__(self) -> None:
        check(self, positive=("size", "patch", "vocab", "features"), several=("length",))
        if self.size < self.patch:
            raise ValueError(f"size must be at least patch {self.patch}, got {self.size}")
        for name in ("start", "stop", "pad"):
            value = getattr(self, name)
            if not 0 <= (0 if value is None else value) < self.vocab:
                raise ValueError(f"{name} must be an id below vocab {self.vocab}, got {value}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be three positive numbers, got {self.std}")
        if self.kind == "siglip" and self.features != self.vision.dim:
            raise ValueError(
                "a siglip has as many features as its vision tower is wide: features must be "
                f"{self.vision.dim}, got {self.features}"
            )

    @property
    def patches(self) -> int:
        """N without CLIP's token."""
        return (self.size // self.patch) ** 2

    def reading_by(self, sentences: Any) -> Self:
        """The same with a language model that is trained already, a `SentencesConfig` of
        `models.llm2clip`. Raises ValueError where a tower reads."""
        raise ValueError(
            "these towers read texts by a tower of their own, not by a language model: leave "
            "--language out, or take a recipe of LLM2CLIP"
        )

    def fitted(self, words: Words) -> Self:
        """The configuration with the ids of a text tokenizer. Raises ValueError for one without a
        mark for the end of a text."""
        if words.stop is None:
            raise ValueError(
                "towers need a text tokenizer with a mark for the end of a text; its marks are "
                f"{', '.join(words.specials) or 'none'}"
            )
        start = words.start if self.kind == "clip" else None
        return replace(self, vocab=words.vocab, start=start, stop=words.stop, pad=words.pad)


def draw(tower: nn.Module, config: TowerConfig) -> None:
    """Draw new weights of a tower. Normal: embeddings and products of variance 1 / D, and residual
    branches end with weights smaller by the square root of twice the number of layers."""
    for name, p in tower.named_parameters():
        if p.dim() > 1 or name == "token":
            ends = name.startswith("layers") and name.endswith(("wo.weight", "w2.weight"))
            fan = p[0].numel() if p.dim() > 1 and name.endswith("weight") else config.dim
            nn.init.normal_(p, std=(fan * (2 * config.layers if ends else 1)) ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class TextTower(nn.Module):
    """Ids to hidden states, and those to features of whole texts."""

    def __init__(self, config: TowersConfig) -> None:
        super().__init__()
        mine = config.text
        self.config = config
        self.tokens = nn.Embedding(config.vocab, mine.dim)
        self.positions = nn.Parameter(torch.zeros(config.length, mine.dim))
        self.layers = nn.ModuleList([Block(mine) for _ in range(mine.layers)])
        self.norm = nn.LayerNorm(mine.dim, mine.norm_eps)
        self.head = Linear(mine.dim, config.features, bias=config.kind == "siglip")

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to hidden states (B, L, D) behind the last norm."""
        x = self.tokens(ids) + self.positions[: ids.shape[1]]  # (B, L, D)
        for layer in self.layers:
            x = layer(x, causal=self.config.kind == "clip")
        return self.norm(x)

    def whole(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Hidden states (B, L, D) of ids (B, L) to features (B, E), of any length."""
        if self.config.kind == "siglip":
            return self.head(hidden[:, -1])
        at = ids if self.config.largest else (ids == self.config.stop).int()
        return self.head(hidden[torch.arange(len(ids), device=ids.device), at.argmax(1)])


class Towers(nn.Module):
    """Pictures and texts as unit features whose products say how well they match."""

    READER: ClassVar[Any] = TextTower
    """What reads texts: `forward` of ids to hidden states, and `whole`."""
    FROZEN: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of weights that training leaves as they are."""

    def __init__(self, config: TowersConfig) -> None:
        super().__init__()
        self.config = config
        self.vision, self.text = VisionTower(config), self.READER(config)
        siglip = config.kind == "siglip"
        self.scale = nn.Parameter(torch.tensor(math.log(10.0 if siglip else 1 / 0.07)))
        """Logarithm of the inverse temperature."""
        self.bias = nn.Parameter(torch.tensor(-10.0)) if siglip else None
        self.init_weights()

    def init_weights(self) -> None:
        """As `draw`, with larger positions of pictures: beside patches, of variance 1, a small
        tower would learn places last of all."""
        draw(self.vision, self.config.vision)
        self.draw_reader()
        nn.init.normal_(self.vision.positions, std=PLACES)

    def draw_reader(self) -> None:
        """Draw new weights of what reads."""
        draw(self.text, self.config.text)

    def take(self, sentences: nn.Module) -> None:
        """Read by a language model that is trained already, of `models.llm2clip`; not those that
        have a tower for texts."""
        raise NotImplementedError

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] as the vision tower takes them."""
        return normalised(images, self.config)

    def see(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to unit features (B, E), float32."""
        found = self.vision.whole(self.vision(self.normalised(images)))
        return F.normalize(found.float(), dim=-1)

    def read(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to unit features (B, E), float32."""
        return F.normalize(self.text.whole(self.text(ids), ids).float(), dim=-1)

    def logits(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Unit features (B, E) and (C, E) to how well each pair matches, (B, C)."""
        logits = self.scale.exp() * cosines(pictures, texts)
        return logits if self.bias is None else logits + self.bias


def normalised(images: Tensor, config: TowersConfig) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] as a vision tower takes them. Raises ValueError for another
    size."""
    height, width = images.shape[-2:]
    if (height, width) != (config.size,) * 2:
        side = config.size
        raise ValueError(f"the towers see {side} x {side} pixels, got {height} x {width}")
    mean, std = images.new_tensor((config.mean, config.std))[:, :, None, None]
    return ((images + 1) / 2 - mean) / std


class Matcher(NamedTuple):
    """Towers with the text tokenizer whose ids they read."""

    towers: Towers
    words: Words
    info: Mapping[str, Any] = MappingProxyType({})
    """What their folder says of them: source and holdout of the pictures that they learned."""

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Texts in lower case as ids (B, L) int64 between their marks, cut so that the last mark is
        there, and filled up."""
        config = self.towers.config
        begin = () if config.start is None else (config.start,)
        return ids_of(texts, self.words, config.length, begin, config.stop, config.pad)

    def fits(self, text: str) -> bool:
        """Whether a text is read to its end."""
        marks = 1 + (self.towers.config.start is not None)
        return len(self.words.read(text.lower())) + marks <= self.towers.config.length

    @torch.inference_mode()
    def read(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Unit features (B, E) of texts, on the CPU."""
        device = self.towers.scale.device
        parts = self.ids(texts).split(batch)
        return torch.cat([self.towers.read(part.to(device)).cpu() for part in parts])

    @torch.inference_mode()
    def see(self, images: Tensor) -> Tensor:
        """Unit features (B, E) of pictures uint8 (B, 3, H, W), on the CPU."""
        x = images.to(self.towers.scale.device).float() / 127.5 - 1
        return self.towers.see(x).cpu()


def ids_of(
    texts: Sequence[str], words: Words, length: int, begin: Sequence[int], stop: int, pad: int
) -> Tensor:
    """Texts in lower case as ids (B, L) int64 between their marks, cut so that the last mark is
    there, and filled up."""
    rows = torch.full((len(texts), length), pad)
    for row, text in zip(rows, texts, strict=True):
        ids = [*begin, *words.read(text.lower())][: length - 1]
        row[: len(ids) + 1] = torch.tensor([*ids, stop])
    return rows


def tiny() -> TowersConfig:
    """Towers of some thousand parameters, for tests."""
    small = TowerConfig(layers=2, heads=2, dim=16, ffn_dim=32)
    return TowersConfig(size=8, patch=4, length=8, vocab=300, features=16, vision=small, text=small)

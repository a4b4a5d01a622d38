"""Transfusion as its paper has it: a language model that denoises pictures between words.

Zhou et al. 2024, "Transfusion: Predict the Next Token and Diffuse Images with One Multi-Modal
Model" (arXiv:2408.11039). No code was published; `models/transfusion.py` is the variant that
lucidrains wrote, with other layers and a flow.

Unusual: nothing in the trunk, which is Llama's. A picture stands in the row as vectors with noise
in them, each of k x k cells of a latent, all of which see each other; a layer, or half a U-Net,
makes them wide, another makes what the trunk gives the noise that was in them. All vectors of a
picture are at one time. A picture that is only read has little noise, and none while drawing.

Letters: B rows, L positions, n of one call, D width, C numbers of a vector, N vectors of a picture,
P pictures of all rows, V ids, T timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.devices.float64 import wide
from smalti.models.language import Language, LanguageConfig
from smalti.models.language import tiny as tiny_language
from smalti.models.on_language import OnLanguage
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import (
    Context,
    Drawer,
    Marks,
    Term,
    UnifiedConfig,
    places,
)
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.nn.llama import feed_forward_width
from smalti.nn.times import TimeEmbedding
from smalti.nn.unet import Down, Up
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import TIMES, Path, Solver, cosine, path
from smalti.text.sequence import IGNORED, Between, Rows


def sized(layers: int, heads: int, dim: int, vocab: int = 32002) -> LanguageConfig:
    """Llama's decoder of a width, by default with the words of Llama 2 and two ids more."""
    return LanguageConfig(vocab, layers, heads, dim, feed_forward_width(dim, 256))


SIZES = {
    "0.16B": sized(16, 12, 768),
    "0.37B": sized(24, 16, 1024),
    "0.76B": sized(24, 24, 1536),
    "1.4B": sized(24, 16, 2048),
    "7B": sized(32, 32, 4096),
}
"""The language models of all published sizes."""


@dataclass(frozen=True)
class TransfusionPaperConfig(UnifiedConfig):
    """A language model, and how pictures stand in its rows."""

    language: LanguageConfig = field(default_factory=lambda: SIZES["7B"])
    grid: tuple[int, int] = (16, 16)
    """Height and width of a picture in vectors."""
    channels: int = 32
    """C, numbers of a vector: those of the cells of a latent that it is made of."""
    patches: Literal["linear", "unet"] = "unet"
    """Vectors become wide, and narrow again, by a layer or by half a U-Net."""
    patch: int = 2
    """Cells of a vector along each side, `group` of the tokenizer; a U-Net halves them to one."""
    width: int = 1024
    """Of a U-Net. This and `blocks` make the published 0.27 billion weights; how they were divided
    is not known."""
    blocks: int = 4
    """Residual blocks of each size in each half of a U-Net."""
    timesteps: int = TIMES
    """T, of the diffusion."""
    clip: float = 5.0
    """While drawing, predicted numbers, of which the standard deviation is about one, are kept in
    [-clip, clip]; 0 is off. Where all is noise, an error of the noise counts 20,000 times."""
    seen_to: int = 500
    """Training shows a picture that is only read at timesteps below this. The paper: pictures that
    stand before their texts, which are learned there as well."""
    begin: int = 32000
    """The id before a picture."""
    end: int = 32001
    """The id after a picture."""
    marks: Marks = field(default_factory=lambda: Marks(1, (2,), 0))
    """Ids that stand for no text."""
    length: int = 4096
    """Positions of a document, at most."""

    def __post_init__(self) -> None:
        sizes = ("channels", "patch", "width", "blocks", "timesteps", "seen_to", "length")
        check(self, pairs=("grid",), positive=sizes, counts=("begin", "end"), amounts=("clip",))
        if self.seen_to > self.timesteps:
            raise ValueError(
                f"seen_to must be at most timesteps {self.timesteps}, got {self.seen_to}"
            )
        if max(self.begin, self.end) >= self.language.vocab:
            raise ValueError(
                f"begin and end must be below the {self.language.vocab} ids of the vocabulary, "
                f"got {self.begin} and {self.end}"
            )
        if self.patches == "unet" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise ValueError(f"patch of a U-Net must be 2, 4, 8 or so on, got {self.patch}")
        self.check_spec(self.spec)

    @property
    def spec(self) -> TokenSpec:
        """The numbers of a picture."""
        return TokenSpec((self.grid,), channels=self.channels)

    def check_spec(self, spec: TokenSpec) -> tuple[int, int]:
        grid, cells = super().check_spec(spec), self.patch**2
        if spec.channels % cells:
            raise ValueError(
                f"vectors of {self.patch} x {self.patch} cells have a multiple of {cells} numbers, "
                f"got {spec.channels}: patch must be the tokenizer's model.group"
            )
        return grid

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """The ids that begin and end a picture follow the words."""
        return replace(
            self,
            language=replace(self.language, vocab=words + 2),
            grid=self.check_spec(spec),
            channels=spec.channels,
            begin=words,
            end=words + 1,
            marks=marks,
        )

    @property
    def wrapping(self) -> Between:
        """How pictures are written."""
        return Between("picture", around=(self.begin, self.end))


class Seen(NamedTuple):
    """Pictures as the trunk reads them, and what is kept for the way back."""

    vectors: Tensor
    """(P, N, D)."""
    time: Tensor
    """(P, 4 W)."""
    skips: list[Tensor]


class LinearPatches(nn.Module):
    """Vectors to those of the trunk by a layer, and back by another. The time is added to vectors
    before the first."""

    def __init__(self, config: TransfusionPaperConfig) -> None:
        super().__init__()
        self.time = TimeEmbedding(config.channels)
        self.into = Linear(config.channels, config.language.dim)
        self.out = Linear(config.language.dim, config.channels)

    @property
    def last(self) -> nn.Module:
        """The layer that gives the noise."""
        return self.out

    def forward(self, x: Tensor, times: Tensor) -> Seen:
        """Vectors (P, N, C) at timesteps (P,) as the trunk reads them."""
        time = self.time(times)
        return Seen(self.into(x.to(time.dtype) + time.unsqueeze(1)), time, [])

    def noise(self, h: Tensor, seen: Seen) -> Tensor:
        """The noise (P, N, C) in them, of the hidden states (P, N, D) that they became."""
        return self.out(h)


class UNetPatches(nn.Module):
    """The same by the halves of a U-Net, in which vectors are k x k cells of a latent."""

    def __init__(self, config: TransfusionPaperConfig) -> None:
        super().__init__()
        self.grid, self.patch = config.grid, config.patch
        cells, halvings = config.channels // config.patch**2, config.patch.bit_length() - 1
        time = 4 * config.width
        sizes = (cells, config.width, config.blocks, halvings, time, config.language.dim)
        self.time = TimeEmbedding(time)
        self.down, self.up = Down(*sizes), Up(*sizes)

    @property
    def last(self) -> nn.Module:
        """The layer that gives the noise."""
        return self.up.conv_out

    def forward(self, x: Tensor, times: Tensor) -> Seen:
        """Vectors (P, N, C) at timesteps (P,) as the trunk reads them."""
        time = self.time(times)
        cells = x.to(time.dtype).transpose(1, 2).unflatten(2, self.grid)  # (P, C, h / k, w / k)
        vectors, skips = self.down(F.pixel_shuffle(cells, self.patch), time)
        return Seen(vectors, time, skips)

    def noise(self, h: Tensor, seen: Seen) -> Tensor:
        """The noise (P, N, C) in them, of the hidden states (P, N, D) that they became."""
        cells = self.up(h, self.grid, seen.skips, seen.time)
        return F.pixel_unshuffle(cells, self.patch).flatten(2).transpose(1, 2)


class TransfusionPaper(OnLanguage):
    """Rows of words and vectors to the words that come next, and to the noise in vectors."""

    NO_DECAY = ("*tok_embeddings.*",)
    draws_by = "denoised"
    kinds = ("text", "noise")
    config: TransfusionPaperConfig

    def __init__(self, config: TransfusionPaperConfig) -> None:
        super().__init__()
        self.config, self.spec, self.wrapping = config, config.spec, config.wrapping
        self.marks = config.marks
        self.language = Language(config.language)
        self.patches = (UNetPatches if config.patches == "unet" else LinearPatches)(config)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases; convolutions as PyTorch has them; a new model sees no
        noise."""
        self.language.init_weights()
        for module in self.patches.modules():
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        for parameter in self.patches.last.parameters():
            nn.init.zeros_(parameter)

    def check_solver(self, solver: Solver) -> None:
        self.way(solver)

    def way(self, solver: Solver) -> Path:
        """How a solver gets from noise to a picture."""
        return path(solver, "diffusion", self.config.timesteps)

    def inputs(
        self, rows: Rows, begin: int, end: int, times: Tensor | None = None
    ) -> tuple[Tensor, Seen | None]:
        """What stands at the positions from `begin` to `end`, (B, n, D), and the pictures among
        them, at timesteps (B, L), by default without noise."""
        here, count = slice(begin, end), self.spec.positions
        x = self.language.embed(rows.ids[:, here].clamp(min=0))
        if rows.vectors is None or end - begin < count:
            return x, None
        drawn = rows.drawn[:, here]
        vectors = rows.vectors[:, here][drawn].view(-1, count, self.spec.channels)
        if not len(vectors):
            return x, None
        times = torch.zeros_like(rows.ids) if times is None else times
        seen = self.patches(vectors, times[:, here][drawn].view(-1, count)[:, 0])
        return x.masked_scatter(drawn.unsqueeze(-1), seen.vectors.to(x.dtype)), seen

    def read(
        self, rows: Rows, begin: int, end: int, cache: KVCache | None, last: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of the positions from `begin` to `end`, behind what is in the
        cache. Pictures have no noise but one that is being drawn: `last` (B, N, D) is what stands
        at the end."""
        before, _ = self.inputs(rows, begin, end if last is None else end - last.shape[1])
        x = before if last is None else torch.cat((before, last.to(before.dtype)), 1)
        return self.language(x, place_of(self.language, rows, begin, end), cache)

    def losses(self, rows: Rows, times: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of ids that are learned, given all before, and mean squared errors of the noise in
        vectors, both (B, L) and 0 elsewhere, of pictures at timesteps (B, L) whose vectors have
        `noise` (B, L, C) in them."""
        length, drawn = rows.ids.shape[1], rows.drawn
        if rows.vectors is not None:
            a, b = points(self.config.timesteps).to(times.device)[times].unsqueeze(-2).unbind(-1)
            rows = rows._replace(vectors=a * rows.vectors + b * noise)
        x, seen = self.inputs(rows, 0, length, times)
        h = self.language(x, place_of(self.language, rows, 0, length), None)
        errors = noise.new_zeros(rows.ids.shape)
        if seen is not None:
            found = self.patches.noise(h[drawn].view_as(seen.vectors), seen)  # (P, N, C)
            each = (found.flatten(0, 1).float() - noise[drawn]).square().mean(-1)
            errors = errors.masked_scatter(drawn, each)
        elif self.training:
            errors = errors + self.idle(noise)
        return self.nats(h, rows), errors

    def idle(self, noise: Tensor) -> Tensor:
        """Zero, on the device of `noise`, by all that reads and writes pictures, which then has a
        gradient, if it is zero, whatever stands in a batch: processes that learn together wait for
        each other's."""
        blank = noise.new_zeros(1, self.spec.positions, self.spec.channels)
        seen = self.patches(blank, blank.new_zeros(1, dtype=torch.int64))
        return 0 * self.patches.noise(seen.vectors, seen).sum()

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text; squared errors of pictures that are learned. Each picture is at a timestep
        of its own."""
        pictures = int(rows.spans.max()) if rows.spans.numel() else 0
        slots = torch.arange(rows.ids.shape[1], device=rows.ids.device)
        shares = noise.uniform(torch.arange(pictures + 1, device=rows.ids.device), step=1)
        shares = wide(shares.gather(1, rows.spans))  # (B, L)
        most = torch.where(rows.learned, self.config.timesteps, self.config.seen_to)
        times = (shares * most.to(shares.device)).long().to(most.device) * rows.drawn
        text, errors = self.losses(rows, times, noise.normal(slots, self.config.channels))
        return {
            "text": Term(text, rows.targets != IGNORED),
            "noise": Term(errors, rows.drawn & rows.learned),
        }

    def picture(self, rows: Rows) -> Denoising:
        return Denoising(self, rows)


class Denoising(Drawer):
    """Draws the vectors at the end of rows, behind what is read once: the slots of the picture in
    the cache are written anew at every step, those before it are only read."""

    loop = "denoised"
    model: TransfusionPaper

    def __init__(self, model: TransfusionPaper, rows: Rows) -> None:
        super().__init__(model, rows, model.spec)
        slots = places(model.wrapping, model.spec, rows.ids.shape[1])
        self.begin, self.end = slots[0], slots[-1] + 1

    def way(self, solver: Solver) -> Path:
        return self.model.way(solver)

    def clean(self, x: Tensor, context: Context, time: float, point: tuple[float, float]) -> Tensor:
        """The pictures (B, N, C) that are left of x (B, N, C) without the noise in it."""
        model = self.model
        if not context.read:
            self.read(context, self.begin)
        seen = model.patches(x, torch.full((len(x),), time, device=x.device))
        h = model.read(context.rows, self.begin, self.end, context.cache, seen.vectors)
        found = (x - point[1] * model.patches.noise(h, seen).to(x)) / point[0]
        most = model.config.clip or math.inf
        return found.clamp(-most, most)


@lru_cache(maxsize=8)
def points(timesteps: int) -> Tensor:
    """How much of a picture and of noise is in it at each timestep, (T, 2), float32."""
    kept = torch.tensor(cosine(timesteps).kept, dtype=torch.float64)
    return torch.stack((kept.sqrt(), (1 - kept).sqrt()), -1).float()


def tiny(**changes: Any) -> TransfusionPaperConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"language": tiny_language(), "grid": (2, 3), "channels": 8}
    unet: dict[str, Any] = {"width": 8, "blocks": 1, "begin": 62, "end": 63}
    return TransfusionPaperConfig(**sizes | unet | changes)

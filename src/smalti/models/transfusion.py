"""Transfusion: one transformer that writes text word by word and draws pictures by a flow.

Zhou et al. 2024, "Transfusion: Predict the Next Token and Diffuse Images with One Multi-Modal
Model" (arXiv:2408.11039), as lucidrains/transfusion-pytorch has it (0.19.4, commit 3dab4c2); of
Meta's own no code was published.

Unusual: a picture stands in the row as vectors with noise in them, all of whose positions see each
other and count as one; the model says where each of them is going. Layers treat the two kinds of
rows alike but for scales: those of text are learned, those of pictures follow the time of the flow.
After every layer its input is a mixture of what all layers before gave. The shape of a picture is
written as text before it: the model chooses it.

Letters: B rows, L positions, n of one call, D width, H heads, hd width of a head, C numbers of a
vector, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.unified import Context, Drawer, Marks, Term, Unified, UnifiedConfig, places
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.nn.rope import rotate
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Path, Solver, path
from smalti.text.sequence import IGNORED, Document, Part, Rows, Wrapping

CHARACTERS = 128
"""Ids for what is written of a picture's shape: those of ASCII."""
SHARPEST = 1e-2
"""Least share of noise by which what is left to go is divided."""


@dataclass(frozen=True)
class TransfusionConfig(UnifiedConfig):
    words: int = 256
    """Ids of text."""
    channels: int = 8
    """C, numbers of a vector of a picture."""
    layers: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    head_dim: int = 64
    """Width of a head."""
    dim: int = 768
    """Width D."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward as a multiple of D, two thirds of it."""
    skips: bool = True
    """Whether layers of the second half also read what those of the first half read."""
    value_residual: bool = False
    """Whether layers mix the values of the first layer into their own."""
    qk_norm: bool = True
    """Whether queries and keys are normalised."""
    cap: float = 50.0
    """Products of queries and keys stay below this."""
    gated: bool = True
    """Whether each head has a gate."""
    places: bool = True
    """Whether vectors are told their row and column."""
    clean: bool = False
    """Whether the model says where a vector will be, in place of where it is going."""
    grid: tuple[int, int] = (8, 8)
    """Height and width of the pictures that it draws, in vectors."""
    length: int = 4096
    """Positions of a document, at most."""
    seen_from: float = 1.0
    """The earliest time at which training shows a picture that is only read: 1 is without noise.
    The paper: 0.5, of pictures that are learned as well."""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("words", "channels", "layers", "heads", "head_dim", "dim", "length"),
            above_zero=("mlp_ratio", "cap"),
            pairs=("grid",),
            shares=("seen_from",),
        )
        if self.head_dim % 2 or self.dim % 2:
            raise ValueError(f"head_dim and dim must be even, got {self.head_dim}, {self.dim}")

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """It has marks of its own, behind the words."""
        return replace(self, words=words, grid=self.check_spec(spec), channels=spec.channels)

    @property
    def start(self) -> int:
        """The id before a document; the others follow it: the end of one, a word of no text,
        before and after a picture, before its shape, and the first character."""
        return self.words

    @property
    def spec(self) -> TokenSpec:
        """The numbers of a picture that it draws."""
        return TokenSpec((self.grid,), channels=self.channels)

    @property
    def vocab(self) -> int:
        """V, ids of words, of characters and of marks."""
        return self.words + 6 + CHARACTERS

    @property
    def wrapping(self) -> Shaped:
        """How pictures are written."""
        silence = self.start + 2
        return Shaped("picture", True, learns_end=False, silence=silence, first=self.start)


@dataclass(frozen=True)
class Shaped(Wrapping):
    """A mark, height and width as characters, and the begin of a picture before it; its end."""

    first: int = 0
    """The id before a document."""

    def begin(self, spec: TokenSpec) -> Sequence[int]:
        (height, width), *_ = spec.grids
        written = [self.first + 6 + ord(letter) for letter in f"{height},{width}"]
        return [self.first + 5, *written, self.first + 3]

    def end(self, spec: TokenSpec) -> Sequence[int]:
        return (self.first + 4,)


class Place(NamedTuple):
    """Where the rows of one call stand, and of which kind they are; shared by all layers."""

    slots: Tensor
    """(n,) or (B, n)."""
    reach: int
    """Keys below this slot are read."""
    rotation: Tensor
    """(B, n, 1, hd / 2) complex."""
    mask: Tensor | None
    """(B, 1, n, m) bool."""
    pictures: Tensor
    """(B, n, 1) bool: vectors, not words."""
    times: Tensor
    """(T, 4 D): the different times of the flow. A picture has one, so they are few."""
    when: Tensor
    """(B, n): which of them each row has."""
    keep: bool

    def by_time(self, layer: nn.Linear) -> Tensor:
        """What a layer makes of the time of each row, (B, n, ...)."""
        return F.embedding(self.when, layer(self.times))


class UnitNorm(nn.Module):
    """x / |x| * sqrt(D) * (1 + weight)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * len(self.gamma) ** 0.5 * (self.gamma + 1)


class Adapted(nn.Module):
    """The scales before and after attention or feed-forward, of words and of vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layernorm_gamma = nn.Parameter(torch.zeros(dim))
        self.layerscale = nn.Parameter(torch.zeros(dim))
        self.to_film = nn.Linear(4 * dim, 2 * dim)
        self.to_ada_ln_zero = nn.Linear(4 * dim, dim)

    def before(self, x: Tensor, place: Place) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:])
        scale, shift = place.by_time(self.to_film).chunk(2, -1)
        return torch.where(place.pictures, x * (scale + 1) + shift, x * (self.layernorm_gamma + 1))

    def after(self, y: Tensor, place: Place) -> Tensor:
        gate = place.by_time(self.to_ada_ln_zero).sigmoid()
        return y * torch.where(place.pictures, gate, self.layerscale + 1)


class Attention(nn.Module):
    def __init__(self, config: TransfusionConfig, first: bool) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads, self.cap = config.heads, config.cap
        self.to_qk = Linear(config.dim, 2 * inner, bias=False)
        self.to_v = Linear(config.dim, inner, bias=False)
        self.q_norm = UnitNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = UnitNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.to_gates = Linear(config.dim, config.heads, bias=False) if config.gated else None
        mixes = config.value_residual and not first
        self.to_mix = nn.Linear(config.dim, config.heads) if mixes else None
        self.to_out = Linear(inner, config.dim, bias=False)

    def forward(
        self, x: Tensor, place: Place, layer: int, cache: KVCache | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is read, (B, n, D), and this layer's own values, (B, H, n, hd); `first` are those of
        the first layer."""
        q, k = self.to_qk(x).unflatten(-1, (2, self.heads, -1)).unbind(2)  # (B, n, H, hd)
        q, k = rotate(self.q_norm(q), place.rotation), rotate(self.k_norm(k), place.rotation)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        own = self.to_v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = own
        if self.to_mix is not None and first is not None:
            mix = self.to_mix(x).sigmoid().mT.unsqueeze(-1)  # (B, H, n, 1)
            v = own * mix + first * (1 - mix)
        if cache is not None:
            k, v = cache.update(layer, place.slots, place.reach, k, v, place.keep)
        scores = ((q * (q.shape[-1] ** -0.5 / self.cap)) @ k.mT).float().tanh()  # (B, H, n, m)
        if place.mask is None:
            scores = self.cap * scores
        else:  # an addend, which unlike a filled mask costs the backward pass nothing
            hidden = torch.zeros(place.mask.shape, device=q.device)
            hidden = hidden.masked_fill_(~place.mask, -torch.inf)
            scores = torch.add(hidden, scores, alpha=self.cap)
        y = scores.softmax(-1).to(v.dtype) @ v
        if self.to_gates is not None:
            y = y * self.to_gates(x).sigmoid().mT.unsqueeze(-1)
        return self.to_out(y.transpose(1, 2).flatten(2)), own


class FeedForward(nn.Module):
    """w2(a * gelu(b)), where a and b are halves of w1 x."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        inner = int(dim * ratio * 2 / 3)
        self.w1, self.w2 = Linear(dim, 2 * inner), Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        x, gates = self.w1(x).chunk(2, -1)
        return self.w2(x * F.gelu(gates))


class Mixture(nn.Module):
    """What all layers so far gave, weighed by one query."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pseudo_queries = nn.Parameter(torch.empty(dim))
        self.norm_keys = UnitNorm(dim)

    def forward(self, hiddens: Sequence[Tensor]) -> Tensor:
        values = torch.stack(list(hiddens))  # (layers, B, n, D)
        scores = self.norm_keys(values) @ self.pseudo_queries * values.shape[-1] ** -0.5
        return (scores.softmax(0).unsqueeze(-1) * values).sum(0)


class Layer(nn.Module):
    def __init__(self, config: TransfusionConfig, number: int) -> None:
        super().__init__()
        dim, second = config.dim, 2 * number >= config.layers
        self.skip = Linear(2 * dim, dim, bias=False) if config.skips and second else None
        self.around_attention, self.around_feed_forward = Adapted(dim), Adapted(dim)
        self.attention = Attention(config, number == 0)
        self.feed_forward = FeedForward(dim, config.mlp_ratio)
        self.mixture = Mixture(dim)

    def forward(
        self, x: Tensor, place: Place, layer: int, cache: KVCache | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        around = self.around_attention
        read, values = self.attention(around.before(x, place), place, layer, cache, first)
        x = x + around.after(read, place)
        around = self.around_feed_forward
        return x + around.after(self.feed_forward(around.before(x, place)), place), values


class Time(nn.Module):
    """Times (T,) of a flow, 0 noise and 1 the picture, as (T, 4 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.frequencies: Tensor  # random, and never trained
        self.register_buffer("frequencies", torch.empty(dim // 2))
        self.proj = nn.Linear(dim + 1, 4 * dim)

    def forward(self, times: Tensor) -> Tensor:
        angles = times.unsqueeze(-1) * self.frequencies * 2 * math.pi
        waves = torch.cat((times.unsqueeze(-1), angles.sin(), angles.cos()), -1)
        return F.silu(self.proj(waves))


def axis(dim: int) -> nn.Sequential:
    """Numbers of rows or columns (..., 1) to vectors (..., D)."""
    return nn.Sequential(
        nn.Linear(1, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, 2 * dim), nn.SiLU(),
        nn.Linear(2 * dim, dim),
    )  # fmt: skip


def along(layer: nn.Sequential, numbers: Tensor) -> Tensor:
    """Vectors (B, n, D) of the numbers (B, n) of rows or columns, of which few are different."""
    different, which = numbers.unique(return_inverse=True)
    return F.embedding(which, layer(different.to(layer[0].weight.dtype).unsqueeze(-1)))


class Losses(NamedTuple):
    """What training minimises at each position."""

    text: Tensor
    """(B, L) nats of ids that are learned, given all before; 0 elsewhere."""
    flow: Tensor
    """(B, L) mean squared errors of where vectors are going; 0 elsewhere."""


class Transfusion(Unified):
    """Rows of words and vectors to the words that come next, and to where vectors are going."""

    FLOAT32 = ("frequencies", "time.")
    NO_DECAY = ("tok_embeddings.*", "*pseudo_queries")
    draws_by = "denoised"
    kinds = ("text", "flow")
    config: TransfusionConfig

    def __init__(self, config: TransfusionConfig) -> None:
        super().__init__()
        self.config, self.wrapping, dim = config, config.wrapping, config.dim
        self.spec = config.spec
        self.marks = Marks(config.start, (config.start + 1,), config.start, config.start + 2)
        self.tok_embeddings = nn.Embedding(config.vocab, dim)
        self.latent_in = nn.Linear(config.channels, dim)
        self.rows, self.columns = (axis(dim) if config.places else None for _ in range(2))
        self.time = Time(dim)
        each = [10000.0 ** (-i / config.head_dim) for i in range(0, config.head_dim, 2)]
        self.frequencies: Tensor  # of positions
        self.register_buffer("frequencies", torch.tensor(each))
        self.layers = nn.ModuleList([Layer(config, i) for i in range(config.layers)])
        self.norm = UnitNorm(dim)
        self.output = Linear(dim, config.vocab, bias=False)
        self.latent_out = Linear(dim, config.channels, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal(0, 0.02) with zero biases; vectors pass layers nearly unread at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Adapted):
                nn.init.zeros_(module.to_film.weight)
                nn.init.zeros_(module.to_ada_ln_zero.weight)
                nn.init.constant_(module.to_ada_ln_zero.bias, -2.0)
            if isinstance(module, Mixture):
                nn.init.normal_(module.pseudo_queries, std=0.02)
            if isinstance(module, Time):
                nn.init.normal_(module.frequencies)

    @property
    def vocab(self) -> int:
        return self.config.vocab

    def check_solver(self, solver: Solver) -> None:
        path(solver, "flow")

    def cache(self, batch: int, length: int) -> KVCache:
        c, like = self.config, self.output.weight
        return KVCache(c.layers, batch, c.heads, length, c.head_dim, like.dtype, like.device)

    def turns(self, positions: Tensor) -> Tensor:
        """How positions (B, n) turn queries and keys, (B, n, 1, hd / 2) complex."""
        angles = positions.unsqueeze(-1) * self.frequencies
        return torch.polar(torch.ones_like(angles), angles).unsqueeze(-2)

    def inputs(self, rows: Rows, vectors: Tensor | None, here: slice = slice(None)) -> Tensor:
        """What stands at positions, (B, n, D); `vectors` (B, L, C) where rows have some."""
        x = self.tok_embeddings(rows.ids[:, here].clamp(min=0))
        if vectors is None:
            return x
        seen = self.latent_in(vectors[:, here].to(x.dtype))
        if self.rows is not None and self.columns is not None:
            y, across = rows.cells[:, here].unbind(-1)
            seen = seen + along(self.rows, y) + along(self.columns, across)
        return torch.where(rows.drawn[:, here].unsqueeze(-1), seen, x)

    def place(self, rows: Rows, times: Tensor, begin: int = 0, end: int | None = None) -> Place:
        """Where the positions from `begin` to `end` of rows stand, at times (B, L)."""
        end = rows.ids.shape[1] if end is None else end
        here = slice(begin, end)
        different, when = times[:, here].unique(return_inverse=True)
        return Place(
            torch.arange(begin, end, device=rows.ids.device),
            end,
            self.turns(rows.positions[:, here]),
            rows.mask(begin, end)[:, None],
            rows.drawn[:, here, None],
            self.time(different),
            when,
            True,
        )

    def transform(self, x: Tensor, place: Place, cache: KVCache | None = None) -> Tensor:
        """Hidden states (B, n, D), normalised, of what stands at a place."""
        hiddens, below, first = [x], list[Tensor](), None
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            if i < len(self.layers) // 2:
                below.append(x)
            elif layer.skip is not None:
                x = layer.skip(torch.cat((x, below.pop()), -1)) + x
            x, values = layer(x, place, i, cache, first)
            first = values if first is None and self.config.value_residual else first
            hiddens.append(x)
            x = layer.mixture(hiddens)
        return self.norm(x)

    def read(
        self, rows: Rows, begin: int, end: int, cache: KVCache | None, times: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, n, D) of the positions from `begin` to `end`, behind what is in the
        cache; vectors are at times (B, L), or without noise."""
        times = rows.drawn.to(self.output.weight.dtype) if times is None else times
        x = self.inputs(rows, rows.vectors, slice(begin, end))
        return self.transform(x, self.place(rows, times, begin, end), cache)

    def hidden(self, rows: Rows, times: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) of whole rows, whose vectors are at times (B, L)."""
        vectors = rows.vectors if vectors is None else vectors
        return self.transform(self.inputs(rows, vectors), self.place(rows, times))

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, n, V) of hidden states."""
        return self.output(h)

    def flow(self, h: Tensor, vectors: Tensor, times: Tensor) -> Tensor:
        """Where vectors (B, n, C) at times (B, n) are going, (B, n, C), of hidden states."""
        if self.config.clean:
            left = (1 - times).clamp(min=SHARPEST).unsqueeze(-1)
            h = (h - self.latent_in(vectors)) / left
        return self.latent_out(h)

    def losses(self, rows: Rows, times: Tensor, noise: Tensor) -> Losses:
        """Of rows whose pictures are seen at times (B, L) of the way from `noise` (B, L, C)."""
        if rows.vectors is None:
            h, flow = self.hidden(rows, times), torch.zeros_like(times)
        else:
            share = times.unsqueeze(-1)
            seen = share * rows.vectors + (1 - share) * noise
            h = self.hidden(rows, times, seen)
            errors = (self.flow(h, seen, times) - (rows.vectors - noise)).square().mean(-1)
            flow = errors.masked_fill(~rows.drawn, 0.0)
        labels = rows.targets[:, 1:]
        nats = F.cross_entropy(
            self.logits(h[:, :-1]).mT, labels, ignore_index=IGNORED, reduction="none"
        )
        return Losses(F.pad(nats, (1, 0)), flow)

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of text; squared errors of pictures that are learned. Each picture is at a time of
        its own; one that is only read, from `seen_from` on."""
        pictures = int(rows.spans.max()) if rows.spans.numel() else 0
        slots = torch.arange(rows.ids.shape[1], device=rows.ids.device)
        times = noise.uniform(torch.arange(pictures + 1, device=rows.ids.device), step=1)
        times = times.gather(1, rows.spans)  # (B, L)
        least = self.config.seen_from
        times = torch.where(rows.learned, times, least + (1 - least) * times) * rows.drawn
        losses = self.losses(rows, times, noise.normal(slots, self.config.channels))
        return {
            "text": Term(losses.text, rows.targets != IGNORED),
            "flow": Term(losses.flow, rows.drawn & rows.learned),
        }

    def nothing(self, document: Document) -> Document:
        """The same with an id of no text in the place of every other, as upstream has it."""
        nothing, parts = self.config.start + 2, list[Part]()
        for part in document:
            ids = torch.full_like(part.content, nothing) if part.spec is None else part.content
            parts.append(replace(part, content=ids, learned=part is document[-1], silent=True))
        return parts

    def pictures(self, document: Document) -> Document:
        """The same as nothing: there the pictures stay."""
        return self.nothing(document)

    def picture(self, rows: Rows) -> Together:
        return Together(self, rows)


class Together(Drawer):
    """Draws the vectors at the end of rows by the flow, behind what is read once: the slots of the
    picture in the cache are written anew at every step, those before it are only read."""

    loop = "denoised"
    model: Transfusion

    def __init__(self, model: Transfusion, rows: Rows) -> None:
        super().__init__(model, rows, model.spec)
        slots = places(model.wrapping, model.spec, rows.ids.shape[1])
        self.begin, self.end = slots[0], slots[-1] + 1

    def way(self, solver: Solver) -> Path:
        """How a solver follows the flow."""
        return path(solver, "flow")

    def clean(self, x: Tensor, context: Context, time: float, point: tuple[float, float]) -> Tensor:
        """The pictures (B, N, C) to which x (B, N, C) is going."""
        rows, model = context.rows, self.model
        if not context.read:
            self.read(context, self.begin)
        assert rows.vectors is not None
        here = slice(self.begin, self.end)
        rows.vectors[:, here], times = x, rows.drawn.to(x.dtype)
        times[:, here] = point[0]
        h = model.read(rows, self.begin, self.end, context.cache, times)
        return x + point[1] * model.flow(h, x, times[:, here]).to(x)


def tiny(**changes: Any) -> TransfusionConfig:
    """A model of a few thousand parameters, for tests."""
    sizes: dict[str, Any] = {"words": 20, "channels": 4, "layers": 2, "heads": 2, "head_dim": 8}
    width: dict[str, Any] = {"dim": 16}
    return TransfusionConfig(**sizes | width | changes)

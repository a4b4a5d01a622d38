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

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smalti.models.transfusion_layers import (
    SHARPEST,
    Adapted,
    Layer,
    Mixture,
    Place,
    Time,
    TransfusionConfig,
    UnitNorm,
    along,
    axis,
)
from smalti.models.unified import Context, Drawer, Marks, Term, Unified, places
from smalti.nn.attention import KVCache
from smalti.nn.linear import Linear
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Path, Solver, path
from smalti.text.sequence import IGNORED, Document, Part, Rows


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
                x = layer.skipped(x, below.pop())
            x, values = layer(x, place, i, cache, first)
            first = values if first is None and self.config.value_residual else first
            hiddens.append(x)
            x = layer.mixed(hiddens)
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
            h = ((h - self.latent_in(vectors.to(h.dtype))) / left).to(h.dtype)
        return self.latent_out(h)

    def losses(self, rows: Rows, times: Tensor, noise: Tensor) -> Losses:
        """Of rows whose pictures are seen at times (B, L) of the way from `noise` (B, L, C)."""
        # without a picture, too: every layer has a gradient, if it is zero
        vectors = torch.zeros_like(noise) if rows.vectors is None else rows.vectors
        share = times.unsqueeze(-1)
        seen = share * vectors + (1 - share) * noise
        h = self.hidden(rows, times, seen)
        errors = (self.flow(h, seen, times) - (vectors - noise)).square().mean(-1)
        return Losses(self.nats(h, rows), errors.masked_fill(~rows.drawn, 0.0))

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

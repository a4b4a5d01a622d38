"""The few words that every package speaks: what codes look like, and what travels with them.

Letters used everywhere: B images, N positions, D backbone width, T prefix length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

Form = Literal["plain", "unit", "softmax", "unit softmax"]
"""What continuous codes are: any numbers, vectors of length one, or softmaxes of either."""


@dataclass(frozen=True)
class TokenSpec:
    """What is in a tensor of codes (B, N, *trailing).

    Positions are counted scale by scale, coarse to fine, and row by row inside a scale.
    Raises ValueError if the numbers cannot describe codes."""

    grids: tuple[tuple[int, int], ...]
    """(height, width) of each scale; usually one; (1, 32) for a 1-D tokenizer."""
    vocab: int = 0
    """Entries per codebook; 0 = continuous; 2 with `channels` = bits."""
    depth: int = 0
    """Codes per position (residual, multi-codebook); 0 = one, and no trailing axis."""
    channels: int = 0
    """Width of a bit or continuous code."""
    tables: tuple[int, ...] = ()
    """Entries of the codebook of each grid, where each has one of its own. Codes are then numbered
    through, those of a grid behind those of all grids before it, and `vocab` is their sum."""
    form: Form = "plain"
    """What a continuous code is, beside its width."""

    def __post_init__(self) -> None:
        if not self.grids or any(len(g) != 2 or min(g) < 1 for g in self.grids):
            raise ValueError(f"grids must be pairs of positive integers, got {self.grids}")
        if min(self.vocab, self.depth, self.channels) < 0:
            raise ValueError(
                "vocab, depth and channels must be 0 or more, "
                f"got {self.vocab}, {self.depth}, {self.channels}"
            )
        if self.vocab == 0 and self.channels == 0:
            raise ValueError("a spec needs a vocab (discrete), channels (continuous) or both")
        if self.tables:
            alone = not self.trailing and min(self.tables) > 0 and sum(self.tables) == self.vocab
            if not alone or len(self.tables) != len(self.grids):
                raise ValueError(
                    f"tables must be one for each of {len(self.grids)} grids, of {self.vocab} "
                    f"codes together, one at each position, got {self.tables}"
                )

    @property
    def positions(self) -> int:
        """N, the number of positions of all scales together."""
        return sum(h * w for h, w in self.grids)

    @property
    def trailing(self) -> tuple[int, ...]:
        """The axes behind (B, N)."""
        return tuple(n for n in (self.depth, self.channels) if n)

    @property
    def discrete(self) -> bool:
        return self.vocab > 0

    @property
    def bits(self) -> float:
        """Bits per position if every code is as likely as any other; inf if continuous."""
        if not self.discrete:
            return math.inf
        if self.tables:
            sizes = [h * w for h, w in self.grids]
            each = zip(sizes, self.tables, strict=True)
            return sum(n * math.log2(table) for n, table in each) / self.positions
        return math.log2(self.vocab) * math.prod(self.trailing)

    @property
    def words(self) -> str:
        """What a code is, behind the word "codes": "out of 512", "out of 64 and 256", "of
        18 bits", "of 16 numbers", "of 1152 numbers (unit)"."""
        if self.tables:
            return f"out of {' and '.join(map(str, self.tables))}"
        if not self.channels:
            return f"out of {self.vocab}" + (f", {self.depth} at each position" * bool(self.depth))
        form = "" if self.form == "plain" else f" ({self.form})"
        return f"of {self.channels} {'bits' if self.discrete else 'numbers'}{form}"

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.positions, *self.trailing)

    def widened(self, codes: Tensor) -> Tensor:
        """Codes as models take them, int64 if discrete: bits are read from a token cache as uint8,
        an eighth of it."""
        return codes.long() if self.discrete else codes

    def empty(self, batch: int, device: torch.device | str | None = None) -> Tensor:
        """Codes of zeros, (B, N, *trailing): int64 if discrete, float32 if not. Where each grid
        has a table of its own, the first code of that."""
        dtype = torch.int64 if self.discrete else torch.float32
        codes = torch.zeros(self.shape(batch), dtype=dtype, device=device)
        return codes + self.firsts.to(device) if self.tables else codes

    @property
    def firsts(self) -> Tensor:
        """(N,) the first code of the table of each position, 0 where there is one table."""
        sizes = torch.tensor([h * w for h, w in self.grids], device="cpu")
        before = [sum(self.tables[:k]) for k in range(len(self.grids))]
        return torch.tensor(before, device="cpu").repeat_interleave(sizes)

    def by_table(self, codes: Tensor) -> list[Tensor]:
        """Codes (B, N) of grids with tables of their own as those of each grid, (B, h * w), which
        are numbered from 0 in its table.

        Raises ValueError for codes of one grid that stand in another.
        """
        found, start, first = list[Tensor](), 0, 0
        for (height, width), table in zip(self.grids, self.tables, strict=True):
            part = codes[:, start : start + height * width]
            if part.numel():
                low, high = (int(n) for n in part.aminmax())
                if low < first or high >= first + table:
                    raise ValueError(
                        f"codes of the {height}x{width} grid must be in [{first}, "
                        f"{first + table}), got {low} to {high}: the levels are out of step"
                    )
            found.append(part - first)
            start, first = start + height * width, first + table
        return found


class Span(NamedTuple):
    """The slots that one step fills. Slot i holds what code i is predicted from."""

    slots: Tensor
    """(n,) consecutive slot indices, or (B, n) where rows stand at different slots."""
    reach: int
    """Attention reads cached slots below this: the end of the span, or of the furthest row."""
    start: int | None
    """The first slot; None where rows stand at different slots, none of them at the first."""
    keep: bool = True
    """Whether what the step computes is written to the cache; if not, the cache is only read."""
    written: Tensor | None = None
    """(N,) bool, the slots that are or have been filled; None: all up to the row's own."""

    @property
    def first(self) -> bool:
        """Whether this is the first step, which also feeds the conditioning prefix."""
        return self.start == 0

    @staticmethod
    def whole(positions: int, device: torch.device | str | None = None) -> Span:
        """All slots at once, as in training."""
        return Span(torch.arange(positions, device=device), positions, 0)

    @staticmethod
    def rows(slots: Tensor, reach: int) -> Span:
        """Rows at different slots (B, n), the furthest of which is below `reach`."""
        return Span(slots, reach, None)

    def tile(self, guide: Guide) -> Span:
        """The span of every branch."""
        return self if self.slots.dim() == 1 else self._replace(slots=guide.tile(self.slots))


@dataclass
class Rowwise:
    """A record of tensors that have a row for each image and branch, (B, ...), or one for all,
    (1, ...): what a model prepares, of which some rows can be taken and others put in their place.
    Fields may be such records themselves."""

    @property
    def batch(self) -> int:
        """B."""
        sizes = [t.batch if isinstance(t, Rowwise) else len(t) for t in self._rowwise().values()]
        return max(sizes)

    def rows(self, index: Tensor) -> Self:
        """The record of some rows, (n,) int64."""
        batch, taken = self.batch, dict[str, Tensor | Rowwise]()
        for name, mine in self._rowwise().items():
            if isinstance(mine, Rowwise):
                taken[name] = mine.rows(index)
            elif len(mine) == batch:
                taken[name] = mine.index_select(0, index)
        return replace(self, **taken)

    def put(self, index: Tensor, other: Rowwise) -> None:
        """Write the rows of `other` in place of those of `index`, (n,) int64.

        Raises ValueError if what holds for all rows is not the same in both.
        """
        batch, theirs = self.batch, other._rowwise()
        for name, mine in self._rowwise().items():
            given = theirs[name]
            if isinstance(mine, Rowwise):
                mine.put(index, given)  # pyright: ignore
            elif isinstance(given, Tensor) and len(mine) == batch:
                mine.index_copy_(0, index, given.expand(len(index), *mine.shape[1:]))
            elif not torch.equal(mine, given[:1]):  # pyright: ignore
                raise ValueError(f"rows of another {name} cannot be drawn together with these")

    def _rowwise(self) -> dict[str, Tensor | Rowwise]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v for name, v in values.items() if isinstance(v, Tensor | Rowwise)}


class Turn(NamedTuple):
    """One step of masked generation: what is read and what is predicted."""

    known: Tensor
    """(B, N) bool, True at row-major positions that are given or drawn."""
    wanted: Tensor | None
    """(B, m) int64 positions to predict; None: all, row by row."""
    reach: int
    """No row has more known positions: encoders that leave unknown ones out pad to this."""
    fresh: bool = True
    """False: a model may use features that it kept from earlier steps."""
    left: int | Tensor | None = None
    """Steps that come after this one, of all rows or of each, (B,); None where no steps are
    counted, as in training."""
    doubt: float | Tensor | None = None
    """Where the surest are kept, the weight of the noise on how sure the model is, of all rows, as
    a number or (1,), or of each, (B,); else None."""

    def tile(self, guide: Guide) -> Turn:
        """The turn of every branch."""
        wanted = None if self.wanted is None else guide.tile(self.wanted)
        left = guide.tile(self.left) if isinstance(self.left, Tensor) else self.left
        return self._replace(known=guide.tile(self.known), wanted=wanted, left=left)


@dataclass(frozen=True)
class Cond:
    """What a batch of images is conditioned on; every field is None or has B rows.

    A row whose `drop` is True is unconditional: the model replaces its label or text by its own
    null embedding but keeps `text_mask`, as the official systems do.
    """

    labels: Tensor | None = None
    """(B,) int64 class ids."""
    text: Tensor | None = None
    """(B, T, C) features, left padded with zeros."""
    text_mask: Tensor | None = None
    """(B, T) bool, True where `text` holds a token."""
    drop: Tensor | None = None
    """(B,) bool."""
    map: Tensor | None = None
    """(B, M) int64 codes of a map: a picture that says something of each place of another, its
    depth for example."""

    def class_ids(self, null: int) -> Tensor:
        """Labels, with the id `null` in the rows that are dropped: (B,) int64.

        Raises ValueError if there are no labels.
        """
        if self.labels is None:
            raise ValueError("this model is class-conditional: give labels")
        return self.labels if self.drop is None else self.labels.masked_fill(self.drop, null)

    @staticmethod
    def of_labels(labels: Tensor) -> Cond:
        """Class ids (B,); a negative one is an image without a label: unconditional."""
        return Cond(labels=labels.clamp(min=0), drop=labels < 0)

    @staticmethod
    def of_text(text: Tensor, mask: Tensor) -> Cond:
        """Features (B, T, C) and mask (B, T); a row without tokens is unconditional, all of its
        null text visible."""
        empty = ~mask.any(1)
        return Cond(text=text, text_mask=mask | empty[:, None], drop=empty)

    @property
    def batch(self) -> int:
        return len(self._some("batch size"))

    @property
    def device(self) -> torch.device:
        return self._some("device").device

    def _some(self, what: str) -> Tensor:
        """A field that is there, for `what` all have in common."""
        for field in (self.labels, self.text, self.map, self.drop):
            if field is not None:
                return field
        raise ValueError(f"a Cond without labels, text, map or drop has no {what}")

    def dropped(self, drop: Tensor) -> Cond:
        """The same with the rows of `drop` (B,) bool made unconditional as well."""
        return replace(self, drop=drop if self.drop is None else self.drop | drop)

    def null(self) -> Cond:
        """The unconditional branch of the whole batch."""
        return self.dropped(torch.ones(self.batch, dtype=torch.bool, device=self.device))

    def to(self, device: torch.device | str) -> Cond:
        return self._mapped(lambda field: field.to(device, non_blocking=True))

    def rows(self, index: Tensor | slice) -> Cond:
        return self._mapped(lambda field: field[index])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Cond:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Cond(**{name: change(v) for name, v in values.items() if v is not None})

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Batches one after another; a field that any of them has, all must have."""

        def join(name: str) -> Tensor | None:
            given = [value for c in conds if (value := getattr(c, name)) is not None]
            if not given:
                return None
            if len(given) != len(conds):
                raise ValueError(
                    "cannot join conditions of which only some have labels, text or a map"
                )
            return torch.cat(given)

        kept = [torch.zeros(c.batch, dtype=torch.bool, device=c.device) for c in conds]
        drops = [k if c.drop is None else c.drop for k, c in zip(kept, conds, strict=True)]
        joined = {name: join(name) for name in ("labels", "text", "text_mask", "map")}
        return Cond(**joined, drop=torch.cat(drops))


class Reads(NamedTuple):
    """What a generator is conditioned on: one of so many classes, features of a text, or codes of a
    map."""

    classes: int = 0
    """Class labels; 0 of a model of something else."""
    text_length: int = 0
    """Tokens of a text, T; 0 of a model of something else."""
    text_dim: int = 0
    """Width of the features of a token, C."""
    text_vocab: int = 0
    """Ids of tokens, where a feature is the id of a token and C is 1; 0: features are vectors."""
    map: TokenSpec | None = None
    """The codes of a map, one number at each position; None of a model of something else."""

    @property
    def text(self) -> tuple[int, int] | None:
        """(T, C) of a model of texts."""
        return (self.text_length, self.text_dim) if self.text_length else None

    def settings(self) -> dict[str, Any]:
        """What decides a configuration; what is not read decides nothing but that."""
        about = {"text_dim": self.text_dim, "text_vocab": self.text_vocab}
        grid, vocab = (self.map.grids[0], self.map.vocab) if self.map else ((), 0)
        told = {"map_grid": grid, "map_vocab": vocab, "text_length": self.text_length}
        return {"classes": self.classes, **told, **(about if self.text_length else {})}


class Draw(NamedTuple):
    """Codes drawn at a span."""

    codes: Tensor
    """(B, n, *trailing)."""
    logp: Tensor
    """(B, n) log-probability in nats, after guidance and filters; NaN if the head has none."""
    h: Tensor
    """Hidden states of all branches, (branches * B, n, D)."""
    vectors: Tensor | None = None
    """(B, n, C) what stands for the codes if not their codebook rows: a mixture, for a smoother
    picture."""
    sure: Tensor | None = None
    """(B, n) how sure a masked model is of each, where that is not `logp`."""


class Known(NamedTuple):
    """Codes that are given, not drawn."""

    codes: Tensor
    """(B, N, *trailing)."""
    mask: Tensor
    """(B, N) bool, True where the code is given."""


@dataclass
class Past:
    """What the guidance of a solver's steps before this one has summed up."""

    change: Tensor | None = None


class Guide(Protocol):
    """Guidance at one step: one convention, u + s * (c - u); s = 1 is off."""

    @property
    def clean(self) -> bool:
        """Whether `merge` measures lengths and angles, so that it must be given predictions of the
        clean latent, not of the noise, or logits less their mean."""
        ...

    def tile(self, x: Tensor) -> Tensor:
        """Copy rows to every branch: (B, ...) -> (branches * B, ...)."""
        ...

    def merge(self, pred: Tensor, past: Past | None = None) -> Tensor:
        """Combine the branches: (branches * B, ...) -> (B, ...). A solver that does so in each of
        its steps gives all of them the same `past`."""
        ...


class Tokenizer(Protocol):
    """Images to codes and back. Images are (B, 3, H, W) in [-1, 1]."""

    @property
    def spec(self) -> TokenSpec: ...
    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        ...

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor: ...
    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor: ...

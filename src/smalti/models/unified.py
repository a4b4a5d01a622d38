"""What every model of text and pictures in one row says of itself, and what draws behind its rows.

A model gives hidden states of positions of rows, given what is in a cache before them, and what it
predicts from them. The loops that draw pictures of one condition draw here too: their condition is
the number of a row, whose end is still to be drawn, and guidance compares rows.

Letters: B rows, L positions, n of one call, D width, V ids, N codes of a picture, K codes of a
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Span, TokenSpec
from smalti.heads.categorical import Softmax
from smalti.models.eye import Sight, TowerEyeConfig
from smalti.models.language import LanguageConfig
from smalti.models.towers import TowersConfig
from smalti.nn.cross_entropy import cross_entropy
from smalti.sampling.chance import Chance
from smalti.sampling.filters import draw
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import Solver
from smalti.text.sequence import CODE, IGNORED, Document, Part, Rows, Wrapping


@dataclass(frozen=True)
class Marks:
    """Ids that stand for no text."""

    start: int | None = 0
    """Before a document; None: nothing."""
    stops: tuple[int, ...] = (1,)
    """Behind a document, the first where one is written."""
    pad: int = 2
    """Where there is nothing."""
    nothing: int | None = None
    """In the place of a text that guidance leaves out; None: nothing."""


@dataclass(frozen=True)
class UnifiedConfig:
    """What the settings of every such model have in common."""

    drawing: ClassVar[bool] = True
    """Whether it draws pictures; else it reads them by an eye alone, and writes text."""
    frozen: ClassVar[bool] = False
    """Whether its language model is one that is trained before and stays as it is."""

    @property
    def spec(self) -> TokenSpec:
        """The codes of a picture."""
        raise NotImplementedError

    def fitted(self, spec: TokenSpec, words: int, marks: Marks) -> Self:
        """The same with what the tokenizers of pictures and of text decide: what codes are, how
        many ids text has, and which of them are marks.

        Raises ValueError if the model cannot write such codes.
        """
        raise NotImplementedError

    @property
    def sight(self) -> Sight | None:
        """What an eye gives of pictures that are only read; None: they are read as the codes that
        are drawn."""
        return None

    def seeing(self, sight: Sight) -> Self:
        """The same with what an eye decides: how many numbers it gives.

        Raises ValueError if the model has no eye, or reads another kind of numbers.
        """
        name = type(self).__name__.removesuffix("Config")
        raise ValueError(f"{name} reads pictures as the codes that it draws: it takes no eye")

    def speaking(self, language: LanguageConfig) -> Self:
        """The same with a language model that is trained already.

        Raises ValueError if the model takes none.
        """
        name = type(self).__name__.removesuffix("Config")
        raise ValueError(f"{name} learns its language model together with all else: it takes none")

    def eye_of(self, towers: TowersConfig) -> TowerEyeConfig:
        """How it takes an eye from towers."""
        return TowerEyeConfig.of(towers)

    def with_codebook(self, codebook: Any) -> Self:
        """The same with what the tokenizer's table of codes decides of a model that reads its
        vectors; of others nothing."""
        return self

    def check_spec(self, spec: TokenSpec) -> tuple[int, int]:
        """The one grid of codes as this model writes them, numbers or codes of one table as its
        own are. Raises ValueError for others."""
        mine, (grid, *others) = self.spec, spec.grids
        kinds = [(some.discrete, bool(some.depth), some.form) for some in (spec, mine)]
        if others or kinds[0] != kinds[1]:
            name = type(self).__name__.removesuffix("Config")
            raise ValueError(
                f"{name} writes pictures of one grid of codes {mine.words}, the tokenizer gives "
                f"{len(spec.grids)} of codes {spec.words}"
            )
        return grid


class Term(NamedTuple):
    """A part of what training minimises."""

    values: Tensor
    """(B, L) at each position."""
    where: Tensor
    """(B, L) bool: positions that count."""


def nats_of(logits: Callable[[Tensor], Tensor], h: Tensor, labels: Tensor) -> Tensor:
    """Nats (B, n) of labels (B, n) under the logits of hidden states (B, n, D), which are computed
    of these alone; 0 where a label is IGNORED."""
    where = labels != IGNORED
    nats = cross_entropy(logits(h[where]).float(), labels[where])
    return nats.new_zeros(labels.shape).masked_scatter(where, nats)


def behind(logits: Callable[[Tensor], Tensor], h: Tensor, labels: Tensor) -> Term:
    """The nats of labels (B, L - 1) that stand behind hidden states (B, L - 1, D), as `nats_of`
    takes them: a term of rows of L positions, of which the first has nothing before it."""
    nats, where = nats_of(logits, h, labels), labels != IGNORED
    return Term(F.pad(nats, (1, 0)), F.pad(where, (1, 0)))


class Unified(nn.Module):
    """A module that reads and writes text and pictures in one row."""

    loop: Literal["mixed"] = "mixed"
    FLOAT32: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of weights that stay in float32 when others are loaded in less."""
    NO_DECAY: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of weights that have no weight decay, beside norms and biases."""
    keeps_features: bool = False
    FROZEN: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of weights that training leaves as they are."""

    kinds: ClassVar[tuple[str, ...]] = ("text", "codes")
    """What `terms` gives."""

    config: Any
    spec: TokenSpec
    """What the codes of a picture are that is drawn; of a model that draws none, what it reads."""
    wrapping: Wrapping
    marks: Marks
    sight: Sight | None = None
    """What it reads of a picture that is only read; None: codes."""

    draws_by: Literal["causal", "masked", "denoised"] = "causal"
    """The loop that draws its pictures."""
    confidence: float | None = None
    """Where that is the masked one: the weight of the noise at first."""
    parts: int = 1
    """Where that is the masked one: parts of a position that are revealed by themselves."""
    depths: int = 1
    """Codes of a position that are drawn one after another, or levels of a picture, each by filters
    of its own."""
    prunes: bool = False
    """Whether late layers can leave positions of late scales out."""
    any_order: bool = False
    """Whether its pictures can be drawn in whatever order: training has shown it many."""
    any_grid: bool = False
    """Whether it draws pictures of other grids than its own: how they are written says which."""
    windows: bool = False
    """Whether it draws larger pictures by windows; none does."""

    @property
    def vocab(self) -> int:
        """V, ids that it reads and writes."""
        raise NotImplementedError

    @property
    def filtered(self) -> bool:
        """Whether codes are drawn from probabilities, which filters narrow."""
        return self.spec.discrete

    @property
    def solved(self) -> bool:
        """Whether numbers are drawn, by a solver."""
        return not self.spec.discrete

    def check_solver(self, solver: Solver) -> None:
        """Raise ValueError for a solver that does not fit what draws its numbers."""

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes of a picture: those of `spec`, where it draws any grid, else its own."""
        return spec if self.any_grid and spec is not None else self.spec

    def at(self, spec: TokenSpec | None) -> Self:
        """The same model with the same weights, which draws the codes of `spec` as its own."""
        other = copy(self)
        other.spec = self.draws(spec)
        return other

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        """The order in which the positions of a picture are drawn unless another is asked for,
        (N,); None: row by row."""
        return None

    @property
    def written(self) -> Tensor:
        """Which ids may be those of a text, (V,) bool, as far as the model knows: of what its text
        tokenizer writes those that the model has another use for are left out."""
        return torch.ones(self.vocab, dtype=torch.bool)

    def init_weights(self) -> None:
        """Draw new weights."""
        raise NotImplementedError

    def learn_from(self, codebook: Any) -> None:
        """Take over the vectors of the tokenizer's table of codes, where they are read."""

    def take(self, language: nn.Module) -> None:
        """Take the weights of a language model that is trained already."""
        raise NotImplementedError

    def cache(self, batch: int, length: int) -> Any:
        """An empty cache of so many rows and positions."""
        raise NotImplementedError

    def read(self, rows: Rows, begin: int, end: int, cache: Any) -> Tensor:
        """Hidden states (B, n, D) of the positions from `begin` to `end`, all before which the
        cache holds; it holds these as well then."""
        raise NotImplementedError

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, n, V) of the ids behind hidden states (B, n, D)."""
        raise NotImplementedError

    def nats(self, h: Tensor, rows: Rows) -> Tensor:
        """Nats (B, L) of ids of text that are learned, of the hidden states (B, L, D) of whole
        rows; 0 elsewhere and where nothing is before an id."""
        return behind(self.logits, h[:, :-1], rows.targets[:, 1:]).values

    def where(self, rows: Rows, noise: Noise) -> dict[str, Tensor]:
        """Where the `terms` of rows are, (B, L) bool, without reading them."""
        learned, codes = rows.targets != IGNORED, self.wrapping.is_code(rows.ids, self.spec)
        found = learned & ~codes, (learned & codes) | (rows.drawn & rows.learned)
        return dict(zip(self.kinds, found, strict=False))  # some write text alone

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """What training minimises, by kind: of text, and of pictures."""
        raise NotImplementedError

    def writer(self, rows: Rows, length: int, allowed: Tensor, penalty: float = 1.0) -> Writer:
        """What draws so many ids at the end of rows, of those that are allowed, (B, V) bool."""
        return Writer(self, rows, length, allowed, penalty)

    def picture(self, rows: Rows) -> Drawer:
        """What draws the picture at the end of rows, for one of the loops; of models that draw."""
        raise NotImplementedError

    # -- what guidance compares with

    def nothing(self, document: Document) -> Document:
        """A document that ends with a picture without what is before it."""
        ids = [i for i in (self.marks.start, self.marks.nothing) if i is not None]
        before = Part(torch.tensor(ids, dtype=torch.int64), learned=False)
        return [before, replace(document[-1], silent=True)]

    def pictures(self, document: Document) -> Document:
        """The same without its text alone."""
        before, last = self.nothing(document)
        return [before, *(part for part in document[:-1] if part.spec is not None), last]


@dataclass
class Context:
    """Rows whose end is drawn, and how far they have been read."""

    rows: Rows
    cache: Any
    read: int = 0
    """Positions that are in the cache."""


class Drawer:
    """What a loop takes for a model: it draws codes behind rows of a `Unified` one. The condition
    of the loop is the numbers of rows."""

    loop: Literal["causal", "masked", "denoised"] = "causal"
    smooth = False
    prunes = False
    reads = Reads()

    def __init__(self, model: Unified, rows: Rows, spec: TokenSpec) -> None:
        self.model, self.rows, self.spec = model, rows, spec

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        return self.spec

    def by_windows(self, spec: TokenSpec | None) -> bool:
        return False

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        return self.model.order(spec)

    def blocks(self, spec: TokenSpec | None = None) -> Sequence[int]:
        return [1] * self.spec.positions

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: it is in the context."""

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Context:
        """The rows with these numbers, of which nothing is read."""
        assert cond.labels is not None
        rows = self.rows.take(cond.labels)
        return Context(rows, self.model.cache(*rows.ids.shape))

    def read(self, context: Context, end: int) -> Tensor:
        """Read what is not read of a context up to a position: hidden states (B, n, D)."""
        begin, context.read = context.read, end
        return self.model.read(context.rows, begin, end, context.cache)


class InTurn(Drawer):
    """Draws codes at positions of rows, one after another; what is between them stands there
    already."""

    def __init__(self, model: Unified, rows: Rows, spec: TokenSpec, slots: Sequence[int]) -> None:
        super().__init__(model, rows, spec)
        self.slots = slots

    def ids(self, codes: Tensor) -> Tensor:
        """The ids (B,) of codes (B,)."""
        return codes

    def write(self, rows: Rows, slot: int, codes: Tensor) -> None:
        """Write codes (B, *trailing) down at a position of rows."""
        rows.ids[:, slot] = self.ids(codes)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (B, 1, K) of codes."""
        return self.model.logits(h)

    def hidden(self, codes: Tensor, context: Context, span: Span, cache: None = None) -> Tensor:
        """Hidden states (B, 1, D) from which the code of a span is predicted."""
        number = span.start
        assert number is not None
        if number:
            self.write(context.rows, self.slots[number - 1], codes[:, number - 1])
        return self.read(context, self.slots[number])[:, -1:]

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        """Draw the code of a span, (B, 1)."""
        h = self.hidden(chance.guide.tile(codes), context, span)
        return Softmax().sample(self.logits(h), chance)._replace(h=h)


class Writer(InTurn):
    """Draws ids of text at the end of rows.

    Args: how many ids; which may be written, (B, V) bool; the penalty of those that a row has
    already (Keskar et al. 2019, arXiv:1909.05858), 1 is off.
    """

    def __init__(
        self, model: Unified, rows: Rows, length: int, allowed: Tensor, penalty: float = 1.0
    ) -> None:
        end = rows.ids.shape[1]
        spec = TokenSpec(((1, length),), model.vocab)
        super().__init__(model, rows, spec, range(end - length, end))
        self.allowed, self.penalty = allowed, penalty

    def draw(
        self, codes: Tensor, context: Context, span: Span, cache: None, chance: Chance
    ) -> Draw:
        h = self.hidden(chance.guide.tile(codes), context, span)
        logits = Softmax().merged(self.logits(h), chance.guide)[:, 0]  # (B, V)
        if self.penalty != 1:
            again = torch.where(logits > 0, logits / self.penalty, logits * self.penalty)
            logits = again.where(self.there(context, logits), logits)
        logits = logits.masked_fill(~self.allowed, -torch.inf)
        ids, logp = draw(chance.filters(logits.unsqueeze(1)), chance.noise.uniform())
        return Draw(ids, logp, h)

    def there(self, context: Context, logits: Tensor) -> Tensor:
        """Which ids rows have already, (B, V) bool: what stands for a picture is none of them."""
        count, vocab = logits.shape
        ids, kept = (t[:count, : context.read] for t in (context.rows.ids, context.rows.kept))
        ids = ids.where(kept & (ids >= 0) & (ids < vocab), vocab)
        found = torch.zeros(count, vocab + 1, dtype=torch.bool, device=ids.device)
        return found.scatter(1, ids, True)[:, :vocab]


def places(wrapping: Wrapping, spec: TokenSpec, length: int) -> list[int]:
    """Where the codes stand of a picture at the end of rows of so many positions."""
    plan = wrapping.plan(spec)
    begin = length - len(wrapping.end(spec)) - len(plan)
    return [begin + i for i, planned in enumerate(plan) if planned == CODE]

"""What every generator says of itself, with the answers that most of them give.

Loops, pipelines and training ask nothing else of a model, so that none of them knows a system. A
model overrides what differs; what it computes stands in its own file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from smalti.arguments import an, by
from smalti.codes import Reads, TokenSpec
from smalti.sampling.solvers import Solver


@dataclass(frozen=True)
class GeneratorConfig:
    """What the settings of every generator have in common."""

    @property
    def spec(self) -> TokenSpec:
        """The codes that the model draws."""
        raise NotImplementedError

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with what the tokenizer's codes and the condition decide.

        Raises ValueError if the model cannot predict such codes.
        """
        grid = self.one_grid(tokenizer)
        self.check_kind(tokenizer)
        return self.with_known(grid=grid, **self.codes_of(tokenizer), **self.condition_of(reads))

    def check_kind(self, tokenizer: Any) -> None:
        """Raise ValueError if a tokenizer gives continuous codes, and discrete ones are predicted,
        or the other way round."""
        mine, given, kinds = self.spec.discrete, tokenizer.spec.discrete, ("continuous", "discrete")
        if mine != given:
            raise ValueError(
                f"{self.name} predicts {kinds[mine]} codes, "
                f"but the tokenizer, {an(type(tokenizer).__name__)}, gives {kinds[given]} ones"
            )

    def codes_of(self, tokenizer: Any) -> dict[str, int]:
        """What a position of a tokenizer's codes holds, by the names that configurations have for
        it. Raises ValueError if this one has no field for some of it, or predicts numbers of
        another form."""
        spec, known = tokenizer.spec, {f.name for f in fields(self)}
        codes = {"vocab": spec.vocab, "depth": spec.depth, "channels": spec.channels}
        if any(count and name not in known for name, count in codes.items()):
            raise ValueError(
                f"{self.name} predicts one number at each position, but the tokenizer, "
                f"{an(type(tokenizer).__name__)}, gives {held(spec)}"
            )
        if tokenizer.spec.form != self.spec.form:
            raise ValueError(
                f"{self.name} predicts {self.spec.form} numbers, but the tokenizer, "
                f"{an(type(tokenizer).__name__)}, gives {tokenizer.spec.form} ones"
            )
        return codes

    def condition_of(self, reads: Reads) -> dict[str, int]:
        """What decides what it reads, by the names that configurations have for it. Raises
        ValueError if this one reads features of texts, and ids of tokens are given."""
        if reads.text_vocab and "text_vocab" not in {f.name for f in fields(self)}:
            raise ValueError(
                f"{self.name} reads features of texts, but the text encoder gives ids of tokens: "
                "take another one, such as bytes"
            )
        return reads.settings()

    def check_stack(self, tokenizer: Any) -> None:
        """Raise ValueError unless a tokenizer gives a stack of numbers at each position."""
        spec: TokenSpec = tokenizer.spec
        if not spec.depth or spec.channels:
            raise ValueError(
                f"{self.name} predicts a stack of codes at each position, but the tokenizer, "
                f"{an(type(tokenizer).__name__)}, gives {held(spec)}"
            )

    @property
    def name(self) -> str:
        """Of the system, as its class has it."""
        return type(self).__name__.removesuffix("Config")

    def one_grid(self, tokenizer: Any) -> tuple[int, int]:
        """The grid of a tokenizer's codes. Raises ValueError if it gives several."""
        grid, *others = tokenizer.spec.grids
        if others:
            raise ValueError(
                f"{self.name} predicts one grid of codes, "
                f"but the tokenizer, {an(type(tokenizer).__name__)}, gives {1 + len(others)} grids"
            )
        return grid

    def with_known(self, **values: Any) -> Self:
        """The same with those of the values that it has a field for."""
        known = {f.name for f in fields(self)}
        chosen = {name: value for name, value in values.items() if name in known}
        return replace(self, **chosen)


def either(config: Any) -> Reads:
    """What a model reads that is of classes or of texts, as its configuration says: `classes`, or
    `text_length` and `text_dim`. Raises ValueError if it says both or neither."""
    classes, length = config.classes, config.text_length
    if (classes > 0) == (length > 0):
        raise ValueError(
            f"a model has either classes or a text, got classes {classes}, text_length {length}"
        )
    return Reads(classes, length, config.text_dim if length else 0)


def grids_in_words(spec: TokenSpec) -> str:
    """How many grids there are where scales are wanted: one, or several that are no scales."""
    if not spec.tables:
        return "1 grid"
    return f"{len(spec.grids)} grids, each of codes of a table of its own"


def held(spec: TokenSpec) -> str:
    """What a position holds, in words."""
    each = f"{spec.depth} " if spec.depth else ""
    if not spec.channels:
        return f"{each}numbers below {spec.vocab}"
    return f"{each}codes of {spec.channels} {'bits' if spec.discrete else 'continuous numbers'}"


class Generator(nn.Module):
    """A module that draws codes. B images, N positions."""

    loop: Literal["causal", "masked", "denoised", "mixed"] = "causal"
    """Which loop of `engine` draws it."""
    any_order: bool = False
    """Whether known codes may come first, in whatever order: training has shown it many."""
    any_grid: bool = False
    """Whether it has no weights of positions, so that it can draw other grids than its own."""
    windows: bool = False
    """Whether it draws larger grids than its own all the same, each code from the window of its own
    grid that is around it."""
    confidence: float | None = None
    """Masked models that reveal where they are surest: the weight of the noise at first."""
    between: bool = False
    """Whether the codes of a position are drawn between the layers: then no head has the loss of
    what `hidden` gives, and `draw` reads `Chance.known`."""
    keeps_features: bool = False
    """Whether a masked model can keep features from step to step (`refresh`)."""
    smooth: bool = False
    """Whether it can draw mixtures of codes (`Draw.vectors`)."""
    parts: int = 1
    """Masked models: how many parts of a position are hidden and revealed by themselves."""
    reads_padding: bool = False
    """Whether what stands in the place of missing words of a text is read like words."""
    known_weight: float | None = None
    """Masked models: what the loss of known codes counts in training; None: they predict none."""
    FLOAT32: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names of weights that stay in float32 when others are loaded in less."""
    NO_DECAY: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of weights that have no weight decay, beside norms and biases."""

    config: Any
    spec: TokenSpec
    head: Any
    """A `heads.base.Head`; with `between`, what it predicts codes with."""

    @property
    def draws_by(self) -> str:
        """The loop that draws its pictures."""
        return self.loop

    def check_solver(self, solver: Solver) -> None:
        """Raise ValueError for a solver that does not fit what draws its numbers."""
        self.head.way(solver)

    @property
    def filtered(self) -> bool:
        """Whether codes are drawn from probabilities, which filters narrow."""
        return self.spec.discrete

    @property
    def solved(self) -> bool:
        """Whether numbers are drawn, by a solver; of hybrid codes both is true."""
        return not self.spec.discrete

    @property
    def prunes(self) -> bool:
        """Models of scales: whether late layers can leave positions out (`Chance.pruning`)."""
        return False

    @property
    def reads(self) -> Reads:
        """What it is conditioned on."""
        return Reads(classes=self.config.classes)

    @property
    def reader(self) -> nn.Module:
        """The module that reads classes or texts, which new ones train anew."""
        return self.get_submodule("cls_embedding")

    def order(self, spec: TokenSpec | None = None) -> Tensor | None:
        """The order in which positions are drawn, (N,); None if it is row by row or scale by
        scale."""
        return None

    def blocks(self, spec: TokenSpec | None = None) -> list[int]:
        """Positions of each step of a causal model: one, or those of a scale."""
        spec = spec or self.spec
        if len(spec.grids) > 1:
            return [h * w for h, w in spec.grids]
        return [1] * spec.positions

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes to draw: those of `spec`, or its own if that is None.

        Raises ValueError if it cannot draw them.
        """
        if spec is None or spec == self.spec:
            return self.spec
        alike = (len(spec.grids) == 1) == (len(self.spec.grids) == 1)
        alike = alike and replace(spec, grids=self.spec.grids) == self.spec
        if self.any_grid and alike:
            return spec
        if self.windows and alike:
            (own,), (asked,) = self.spec.grids, spec.grids
            if asked[0] < own[0] or asked[1] < own[1]:
                raise ValueError(
                    f"this model draws by windows of {by(own)} codes, and a picture must be no "
                    f"smaller, got {by(asked)}"
                )
            return spec
        raise ValueError(f"this model draws {self.spec}, got {spec}")

    def by_windows(self, spec: TokenSpec | None) -> bool:
        """Whether the codes of `spec` are drawn by windows: each step then reads others."""
        return self.windows and spec is not None and spec != self.spec

    @property
    def random_loss(self) -> bool:
        """Whether its loss draws random numbers, which training gives it."""
        return not self.spec.discrete

    @property
    def depths(self) -> int:
        """How many codes of a position are drawn one after another, each by filters of its own."""
        return self.spec.depth or 1

    def split(self, codes: Tensor) -> Tensor:
        """Codes (B, N, *trailing) as their parts, (B, N * parts, ...), which is what a masked model
        of several parts draws and has a loss of."""
        return codes

    def join(self, units: Tensor) -> Tensor:
        """Parts (B, N * parts, ...) as codes (B, N, *trailing)."""
        return units

    def weighed(self, losses: Tensor, known: Tensor) -> Tensor:
        """Losses (B, N * parts), those of known parts times `known_weight` in training, else 0."""
        share = self.known_weight or 0.0 if self.training else 0.0
        return losses.where(~known, share * losses)

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors (B, n, C) that codes stand for, of a model that draws mixtures."""
        raise ValueError("smooth is for multi-scale models; this one has a single grid")

    def init_weights(self) -> None:
        """Draw new weights."""
        raise NotImplementedError

    def learn_from(self, tokenizer: Any) -> None:
        """Take over what a new model needs of the tokenizer whose codes it is to learn."""

    def learn_text(self, encoder: Any) -> None:
        """Take over what a new model needs of the text encoder whose features it is to read."""

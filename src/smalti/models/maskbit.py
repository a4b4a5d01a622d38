"""MaskBit: a bidirectional transformer that reads bits and fills in hidden groups of them.

Weber, Yu, Yu, Deng, Shen, Cremers, Chen 2024, "MaskBit: Embedding-free Image Generation via Bit
Tokens" (arXiv:2409.16211), commit 5ea3d73 of markweberdev/maskbit.

Unusual beside MaskGIT: no table of codes. The K bits of a position go in as -1 and +1, by one
product; m groups of them are hidden and revealed by themselves, and a hidden one is ZEROS. So the
model sees half of a code where it does not know the rest, and predicts each group by a softmax over
its 2^(K/m) ids. The class is the LAST token of the sequence, and training counts the loss at groups
that are shown as well. Codes may also be numbers below a power of two, of which the bits are read.

Published models draw classes. Here a text may stand in the place of the class: its words, of which
each has a position of its own, are seen by all, and padding by none.

Letters: B images, N positions, T tokens of the condition, K bits, m groups of a position, U = N * m
of a picture, D width, V ids of a group, W wanted groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import an
from smalti.codes import Cond, Draw, Reads, Rowwise, TokenSpec, Turn
from smalti.config import check
from smalti.heads.categorical import Softmax
from smalti.models.generator import Generator, GeneratorConfig, either, held
from smalti.nn.bert import LN_EPS, Block
from smalti.nn.code_embedding import signs
from smalti.nn.cross import nulled
from smalti.nn.groups import Groups, code_bits
from smalti.nn.linear import Linear
from smalti.nn.residual import dropped
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise


@dataclass(frozen=True)
class MaskBitConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 2
    """Codebook entries, a power of two; 2 with `channels`."""
    channels: int = 14
    """Bits K of a code; 0: a code is a number."""
    groups: int = 2
    """Groups m that share the bits of a code evenly; for a tokenizer's codes the next larger number
    that divides their bits."""
    classes: int = 1000
    """Class labels; the null class is one more row. 0 for a text-conditional model."""
    text_length: int = 0
    """Words of a text T. 0 for a class-conditional model."""
    text_dim: int = 256
    """Width of the features of a word."""
    layers: int = 24
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 1024
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 4096
    """Width of the feed-forward layers."""
    prenorm: bool = False
    """Normalise what residual branches read, as most transformers do, and not what they give."""
    dropout: float = 0.1
    """Of embeddings, attention probabilities and the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        sizes = ("vocab", "groups", "layers", "heads", "dim", "ffn_dim")
        check(self, pairs=("grid",), multiple=("dim", "heads"), positive=sizes)
        check(self, rates=("dropout",), counts=("channels", "classes", "text_length"))
        either(self)
        if code_bits(self.spec) % self.groups:
            raise ValueError(
                f"groups must divide the {code_bits(self.spec)} bits of a code, got {self.groups}"
            )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, channels=self.channels)

    @property
    def prefix(self) -> int:
        """T: one class token or the text."""
        return self.text_length or 1

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with what the tokenizer's codes and the condition decide.

        Raises ValueError if the codes are not bits, or numbers below a power of two.
        """
        spec: TokenSpec = tokenizer.spec
        if len(spec.grids) > 1 or not spec.discrete:
            return super().fitted(tokenizer, reads)
        try:
            bits = code_bits(spec)
        except ValueError:
            raise ValueError(
                f"{self.name} predicts groups of bits, which needs codes of bits or numbers below "
                f"a power of two, but the tokenizer, {an(type(tokenizer).__name__)}, gives "
                f"{held(spec)}"
            ) from None
        groups = min((n for n in range(self.groups, bits) if bits % n == 0), default=bits)
        known = replace(self, vocab=spec.vocab, channels=spec.channels, groups=groups)
        return super(type(self), known).fitted(tokenizer, reads)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    condition: Tensor
    """(B, T, D): the token of the class, or those of a text."""
    visible: Tensor | None
    """(B, 1, 1, N + T) bool, False at padding; None: everything is seen."""


class MaskBit(Generator):
    """Bits (B, N, K), or numbers (B, N), given a class or a text. A `MaskedModel` of m parts a
    position."""

    loop = "masked"
    confidence = 7.8
    known_weight = 0.0
    config: MaskBitConfig

    def __init__(self, config: MaskBitConfig) -> None:
        super().__init__()
        self.config, self.spec, self.parts = config, config.spec, config.groups
        bits = code_bits(self.spec)
        self.groups = Groups(self.spec, [bits // config.groups] * config.groups)
        self.bit_proj = Linear(bits, config.dim)
        if config.classes:
            self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        else:
            self.null = nn.Parameter(torch.empty(config.text_length, config.text_dim))
            self.text_proj = Linear(config.text_dim, config.dim)
        self.pos = nn.Parameter(torch.empty(self.spec.positions + config.prefix, config.dim))
        self.norm = nn.LayerNorm(config.dim, LN_EPS)
        sizes = config.dim, config.heads, config.ffn_dim, config.dropout, config.prenorm
        self.layers = nn.ModuleList([Block(*sizes) for _ in range(config.layers)])
        self.last_norm = nn.LayerNorm(config.dim, LN_EPS) if config.prenorm else nn.Identity()
        self.out = Linear(config.dim, config.dim)
        self.out_norm = nn.LayerNorm(config.dim, LN_EPS)
        self.predict = Linear(config.dim, sum(self.groups.sizes))
        self.head = Softmax()
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), cut off, and zero biases; a null text of rows of length 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos, std=0.02)
        if not self.config.classes:
            nn.init.normal_(self.null, std=self.config.text_dim**-0.5)

    @property
    def reads(self) -> Reads:
        return either(self.config)

    @property
    def reader(self) -> nn.Module:
        return self.cls_embedding if self.config.classes else self.text_proj

    def split(self, codes: Tensor) -> Tensor:
        """Codes (B, N, *trailing) to the ids of their groups, (B, U)."""
        return self.groups.split(codes).flatten(1)

    def join(self, units: Tensor) -> Tensor:
        """Ids of groups (B, U) to codes (B, N, *trailing)."""
        return self.groups.join(units.unflatten(1, (-1, self.parts)))

    def bits(self, units: Tensor, known: Tensor) -> Tensor:
        """What is read: -1 and +1 of the bits of groups (B, U) that are `known`, 0 of others,
        (B, N, K)."""
        found = signs(self.groups.unpack(units.unflatten(1, (-1, self.parts))), self.pos.dtype)
        shown = known.unflatten(1, (-1, self.parts))  # (B, N, m)
        return found * shown.repeat_interleave(self.groups.widths[0], -1)

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Prepared:
        """The token of the class or those of the text, and what of it is seen."""
        positions = self.draws(spec).positions
        if self.config.classes:
            ids = cond.class_ids(null=self.config.classes)
            return Prepared(self.cls_embedding(ids).unsqueeze(1), None)
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        text, mask = nulled(cond.text, cond.text_mask.bool(), cond.drop, self.null)
        return Prepared(self.text_proj(text), F.pad(mask, (positions, 0), value=True))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: every pass reads everything."""

    def hidden(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None = None) -> Tensor:
        """Logits (B, W, V) of the wanted groups; reads ids (B, U) of known ones."""
        x = self.bit_proj(self.bits(codes, turn.known))  # (B, N, D)
        x = torch.cat((x, cond.condition), 1) + self.pos  # (B, N + T, D)
        x = dropped(self.norm(x), self.config.dropout if self.training else 0.0, 0.0)
        for layer in self.layers:
            x = layer(x, cond.visible)
        x = self.last_norm(x[:, : self.spec.positions])  # (B, N, D)
        logits = self.predict(self.out_norm(F.gelu(self.out(x))))  # (B, N, m * V)
        logits = logits.unflatten(-1, (self.parts, -1)).flatten(1, 2)  # (B, U, V)
        if turn.wanted is not None:
            index = turn.wanted.unsqueeze(-1).expand(-1, -1, logits.shape[-1])
            logits = logits.gather(1, index)  # (B, W, V)
        return logits

    def draw(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None, chance: Chance) -> Draw:
        """Draw the ids (B, W) of the wanted groups."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of each unknown group given the known ones: (B, U) in nats; 0 at
        those, but in training `known_weight` times theirs. `known` (B, U) bool; None: nothing is
        known."""
        units = self.split(codes)
        if known is None:
            known = torch.zeros_like(units, dtype=torch.bool)
        h = self.hidden(units, self.prepare(cond), Turn(known, None, units.shape[1]))
        cells = torch.arange(units.shape[1], device=units.device)
        return self.weighed(self.head.loss(h, units, SlotNoise.of(noise, units, cells)), known)


def tiny() -> MaskBitConfig:
    """A model of a few thousand parameters, for tests."""
    return MaskBitConfig(
        grid=(4, 4), channels=6, classes=5, layers=2, heads=2, dim=32, ffn_dim=64, dropout=0.0
    )


def published(bits: int = 14) -> MaskBitConfig:
    """The published ones, of 10, 12, 14, 16 or 18 bits, 305 M parameters."""
    return MaskBitConfig(channels=bits)

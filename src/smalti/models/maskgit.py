"""MaskGIT: a bidirectional transformer that fills in hidden codes, those it is surest of first.

Chang, Zhang, Jiang, Liu, Freeman 2022, "MaskGIT: Masked Generative Image Transformer"
(arXiv:2202.04200).

Unusual: there is no order and no cache. Every pass sees all codes known so far, predicts all others
at once, and the surest are kept, so an image takes 8 to 12 passes. Layers are BERT's, with the norm
behind each residual branch. The class is the first token of the sequence. Remembered of the
official code and not built: it ties the output to the table of codes, and smooths labels by 0.1,
which here is a setting of the training.

Letters: B images, N positions, m wanted ones, D width, H heads, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.codes import Cond, Draw, Rowwise, TokenSpec, Turn
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import Generator, GeneratorConfig
from smalti.nn.bert import LN_EPS, Block
from smalti.nn.code_embedding import code_embedding
from smalti.nn.linear import Linear
from smalti.nn.residual import dropped
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise


@dataclass(frozen=True)
class MaskGITConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    vocab: int = 1024
    """Codebook entries, to which the mask token is one more row; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    layers: int = 24
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    dim: int = 768
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 3072
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Of attention probabilities and of the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        sizes = ("vocab", "classes", "layers", "heads", "dim", "ffn_dim")
        check(self, pairs=("grid",), multiple=("dim", "heads"), positive=sizes)
        check(self, rates=("dropout",), counts=("channels", "depth"))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    label: Tensor
    """(B, 1, D): the token of the class."""


class MaskGIT(Generator):
    """Codes (B, N) given a class. A `MaskedModel`."""

    loop = "masked"
    confidence = 4.5
    known_weight = 0.0
    config: MaskGITConfig
    NO_DECAY = ("*_embedding*.*", "pos")
    """What has no weight decay beside norms and biases."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.tok_embeddings = code_embedding(self.spec, config.dim, hidden=True)
        self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        self.pos = nn.Parameter(torch.empty(1 + self.spec.positions, config.dim))
        self.norm = nn.LayerNorm(config.dim, LN_EPS)
        sizes = config.dim, config.heads, config.ffn_dim, config.dropout
        self.layers = nn.ModuleList([Block(*sizes) for _ in range(config.layers)])
        self.out = Linear(config.dim, config.dim)
        self.out_norm = nn.LayerNorm(config.dim, LN_EPS)
        self.head = head_of(self.spec, config.dim, bias=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos, std=0.02)

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Prepared:
        """The token of the class."""
        self.draws(spec)
        ids = cond.class_ids(null=self.config.classes)
        return Prepared(self.cls_embedding(ids).unsqueeze(1))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: every pass reads everything."""

    def hidden(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None = None) -> Tensor:
        """Hidden states (B, m, D) of the wanted positions; reads codes (B, N) of known ones."""
        x = self.tok_embeddings(codes, turn.known)  # (B, N, D)
        x = torch.cat((cond.label, x), 1) + self.pos  # (B, 1 + N, D)
        x = dropped(self.norm(x), self.config.dropout if self.training else 0.0, 0.0)
        for layer in self.layers:
            x = layer(x)
        x = x[:, 1:]  # (B, N, D)
        if turn.wanted is not None:
            x = x.gather(1, turn.wanted.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, m, D)
        return self.out_norm(nn.functional.gelu(self.out(x)))

    def draw(
        self,
        codes: Tensor,
        cond: Prepared,
        turn: Turn,
        cache: None,
        chance: Chance,
    ) -> Draw:
        """Draw codes (B, m) of the wanted positions."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of each unknown code given the known ones: (B, N) in nats; 0 at
        those, but in training `known_weight` times theirs. `known` (B, N) bool; None: nothing is
        known."""
        if known is None:
            known = codes.new_zeros(codes.shape[:2], dtype=torch.bool)
        h = self.hidden(codes, self.prepare(cond), Turn(known, None, codes.shape[1]))
        cells = torch.arange(codes.shape[1], device=codes.device)
        return self.weighed(self.head.loss(h, codes, SlotNoise.of(noise, codes, cells)), known)


def tiny() -> MaskGITConfig:
    """A model of a few thousand parameters, for tests."""
    return MaskGITConfig(
        grid=(4, 4), vocab=32, classes=5, layers=2, heads=2, dim=32, ffn_dim=64, dropout=0.0
    )

"""TiTok's generators: MaskGIT on tokens without places, as a BERT or as a U-ViT.

Yu, Weber, Deng, Shen, Cremers, Chen 2024, "An Image is Worth 32 Tokens for Reconstruction and
Generation" (arXiv:2406.07550), in the form of bytedance/1d-tokenizer, commit 942a96f; the U-ViT is
that of Bao et al. 2022 (arXiv:2209.12152).

Unusual beside MaskGIT: logits are one product with what the last layer gives. Codes are drawn at
the temperature that the noise on how sure the model is has at that step, so that the last ones are
the likeliest, and how sure it is are plain logits, which are not normalised. A U-ViT has the norm
before each branch, and its second half is shown what the first one gave, the last layer first.

Letters: B images, N positions, m wanted ones, D width, H heads, V codebook entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smalti.codes import Cond, Draw, Rowwise, TokenSpec, Turn
from smalti.config import check
from smalti.heads.categorical import CategoricalHead
from smalti.models.generator import Generator, GeneratorConfig
from smalti.nn import bert
from smalti.nn.attention import attend
from smalti.nn.code_embedding import NumberEmbedding
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.residual import dropped
from smalti.sampling.chance import Chance
from smalti.sampling.filters import MIN_TEMPERATURE
from smalti.sampling.noise import Noise, SlotNoise


@dataclass(frozen=True)
class TiTokGeneratorConfig(GeneratorConfig):
    grid: tuple[int, int] = (1, 32)
    """Height and width of the code grid; tokens without places are one row."""
    vocab: int = 4096
    """Codebook entries, to which the mask token is one more row."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    network: Literal["vit", "uvit"] = "vit"
    """vit: a BERT; uvit: a U-ViT, which has a block more in its middle."""
    layers: int = 24
    """Transformer blocks; even in a uvit."""
    heads: int = 16
    """Attention heads."""
    dim: int = 768
    """Width D, a multiple of `heads`."""
    ffn_dim: int = 3072
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Of embeddings, attention probabilities and the outputs of attention and feed-forward."""

    def __post_init__(self) -> None:
        sizes = ("classes", "layers", "heads", "dim", "ffn_dim")
        check(self, pairs=("grid",), multiple=("dim", "heads"), several=("vocab",), positive=sizes)
        check(self, rates=("dropout",))
        if self.network == "uvit" and self.layers % 2:
            raise ValueError(f"layers of a uvit must be even, got {self.layers}")

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    label: Tensor
    """(B, 1, D): the token of the class."""


class BERT(nn.Module):
    """Layers of BERT, behind a norm: (B, n, D) to the same shape."""

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, bert.LN_EPS)
        sizes = config.dim, config.heads, config.ffn_dim, config.dropout
        self.layers = nn.ModuleList([bert.Block(*sizes) for _ in range(config.layers)])
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = dropped(self.norm(x), self.dropout if self.training else 0.0, 0.0)
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); in the second half of a U-ViT x is
    first joined with what a layer of the first half gave."""

    def __init__(self, config: TiTokGeneratorConfig, shown: bool = False) -> None:
        super().__init__()
        dim, self.heads, self.dropout = config.dim, config.heads, config.dropout
        self.join = Linear(2 * dim, dim) if shown else None
        self.norm1 = nn.LayerNorm(dim)
        self.wqkv = Linear(dim, 3 * dim, bias=False)
        self.wo = Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = MLP(dim, config.ffn_dim)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.join is not None and skip is not None:
            x = self.join(torch.cat((x, skip), -1))
        qkv = self.wqkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, hd)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, n, hd)
        y = self.wo(attend(q, k, v, dropout=dropout).transpose(1, 2).flatten(2))
        x = x + dropped(y, dropout, 0.0)
        return x + dropped(self.feed_forward(self.norm2(x)), dropout, 0.0)


class UViT(nn.Module):
    """Two halves and a block between them, before a norm: (B, n, D) to the same shape."""

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        half = range(config.layers // 2)
        self.first = nn.ModuleList([Block(config) for _ in half])
        self.middle = Block(config)
        self.second = nn.ModuleList([Block(config, shown=True) for _ in half])
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        x, skips = dropped(x, self.dropout if self.training else 0.0, 0.0), list[Tensor]()
        for layer in self.first:
            x = layer(x)
            skips.append(x)
        x = self.middle(x)
        for layer in self.second:
            x = layer(x, skips.pop())
        return self.norm(x)


class TiTokGenerator(Generator):
    """Codes (B, N) given a class. A `MaskedModel`."""

    loop = "masked"
    confidence = 4.5
    known_weight = 0.0
    config: TiTokGeneratorConfig
    NO_DECAY = ("*_embedding*.*", "pos")
    """What has no weight decay beside norms and biases."""

    def __init__(self, config: TiTokGeneratorConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.tok_embeddings = NumberEmbedding(config.vocab, config.dim, hidden=True)
        self.cls_embedding = nn.Embedding(config.classes + 1, config.dim)
        self.pos = nn.Parameter(torch.empty(1 + self.spec.positions, config.dim))
        self.trunk = BERT(config) if config.network == "vit" else UViT(config)
        self.head = CategoricalHead(config.dim, config.vocab, bias=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), cut off, and zero biases."""
        nn.init.trunc_normal_(self.pos, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

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
        x = self.trunk(torch.cat((cond.label, x), 1) + self.pos)[:, 1:]  # (B, N, D)
        if turn.wanted is None:
            return x
        return x.gather(1, turn.wanted.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, m, D)

    def draw(self, codes: Tensor, cond: Any, turn: Turn, cache: None, chance: Chance) -> Draw:
        """Draw codes (B, m) of the wanted positions, where the surest are kept at the temperature
        of the noise times that of the filters, and with their logits at the latter."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        if turn.doubt is None:
            return self.head.sample(h, chance)
        logits = self.head.merged(h, guide)  # (B, m, V)
        drawn, logp = chance.noise.draw(chance.filters(at_temperature(logits, turn.doubt)))
        sure = at_temperature(logits, chance.filters.warmth)
        return Draw(drawn, logp, h, sure=sure.gather(-1, drawn.unsqueeze(-1)).squeeze(-1))

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of each unknown code given the known ones: (B, N) in nats; 0 at
        those, but in training `known_weight` times theirs. `known` (B, N) bool; None: nothing is
        known."""
        if known is None:
            known = torch.zeros_like(codes, dtype=torch.bool)
        h = self.hidden(codes, self.prepare(cond), Turn(known, None, codes.shape[1]))
        cells = torch.arange(codes.shape[1], device=codes.device)
        return self.weighed(self.head.loss(h, codes, SlotNoise.of(noise, codes, cells)), known)


def at_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Logits (B, m, V) divided by a temperature, one or one of each row, (B,) or (1,)."""
    if isinstance(temperature, Tensor):
        return logits / temperature.clamp(min=MIN_TEMPERATURE).view(-1, 1, 1)
    return logits / max(temperature, MIN_TEMPERATURE)


def tiny() -> TiTokGeneratorConfig:
    """A model of a few thousand parameters, for tests."""
    return TiTokGeneratorConfig((1, 12), 32, 5, layers=2, heads=2, dim=32, ffn_dim=64, dropout=0.0)


S128 = TiTokGeneratorConfig((1, 128), network="uvit", layers=20, dim=1024, ffn_dim=4096)
"""The published one of 128 tokens, 295 M parameters."""
SHORT = TiTokGeneratorConfig((1, 32))
"""The published one of 32 tokens; of 64 it differs in the positions alone. 177 M parameters."""

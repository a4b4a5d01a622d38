"""RQ-Transformer: stacks of codes in raster order, a large transformer over positions and a small
one over depth.

Lee, Kim, Kim, Cho, Han 2022, "Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941).

Unusual: a position holds the vectors of its stack of codes, added up; they are those of the RQ-VAE,
which stay as they are, behind a product that learns. The head (`heads/depth.py`) reads the sums of
the first 1, 2, ... of them. Layers are GPT's, with a learned embedding of each position, and no
norm stands between the two transformers. A model of texts may also learn to predict the text.

Letters: B images, T prefix length, N positions, D width, C width of code vectors, V codes of a
depth, G depths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Reads, Rowwise, Span, TokenSpec
from smalti.config import check
from smalti.heads.depth import DepthConfig, DepthHead
from smalti.models.generator import GeneratorConfig, either
from smalti.models.raster_stack import TextLearner, place_of
from smalti.nn.attention import KVCache
from smalti.nn.code_embedding import CodeVectors, DepthTable, vectors_of
from smalti.nn.cross_entropy import cross_entropy
from smalti.nn.gpt import LN_EPS, Block
from smalti.nn.linear import Linear
from smalti.nn.mlp import Gelu
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class RQTransformerConfig(GeneratorConfig):
    grid: tuple[int, int] = (8, 8)
    """Height and width of the code grid."""
    vocab: int = 16384
    """Codes of a depth V; the most of all depths."""
    depth: int = 4
    """Codes at each position, G."""
    vocabs: tuple[int, ...] = ()
    """Codes of each depth, if they differ; () = `vocab` for all."""
    classes: int = 1000
    """Class labels; the null class is one more row. 0 for a text-conditional model."""
    text_length: int = 0
    """Tokens of the text prefix (published: 32). 0 for a class-conditional model."""
    text_dim: int = 1
    """Width of the text features; 1 with `text_vocab`: a feature is the id of a token."""
    text_vocab: int = 0
    """Ids of text tokens, which the model reads itself; 0: it reads features of a text encoder."""
    text_weight: float = 0.0
    """Share of the text's own loss in training, with `text_vocab` (published: 0.1)."""
    layers: int = 12
    """Transformer blocks over positions."""
    head_layers: int = 4
    """Transformer blocks over depth."""
    heads: int = 24
    """Attention heads over positions."""
    head_heads: int = 0
    """Attention heads over depth; 0: as many as over positions."""
    dim: int = 1536
    """Width D of both, a multiple of `heads`."""
    code_dim: int = 256
    """Width C of the tokenizer's code vectors."""
    shared_vectors: bool = True
    """Whether all depths of the tokenizer have the same code vectors."""
    body_vectors: bool = True
    """Whether positions hold the tokenizer's code vectors; if not, rows of a table that learns."""
    head_vectors: bool = True
    """Whether the head reads the tokenizer's code vectors; if not, rows of that table."""
    projected: bool = False
    """Whether a product reads the head's vectors where C is D; else it always does."""
    sums: bool = True
    """Whether the head reads the sum of the code vectors so far; if not, the last one."""
    shared_embedding: bool = True
    """One table for all depths, if any is read; if not, each has its own."""
    shared_classifier: bool = True
    """One classifier for all depths; if not, each has its own."""
    gelu: Gelu = "none"
    """The nonlinearity, exact or as one of its approximations."""
    dropout: float = 0.1
    """On the outputs of attention and feed-forward."""
    embedding_dropout: float = 0.0
    """On the embeddings."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("grid",),
            several=("vocab",),
            positive=("depth", "layers", "head_layers", "heads", "dim", "code_dim", "text_dim"),
            counts=("classes", "text_length", "text_vocab", "head_heads"),
            rates=("dropout", "embedding_dropout", "text_weight"),
            multiple=("dim", "heads"),
        )
        either(self)
        if self.dim % (self.head_heads or 1):
            raise ValueError(f"head_heads must divide dim {self.dim}, got {self.head_heads}")
        if self.text_vocab and self.text_dim != 1:
            raise ValueError(f"text_dim of ids must be 1, got {self.text_dim}")
        if self.text_weight and not self.text_vocab:
            raise ValueError(f"text_weight needs a text_vocab, got {self.text_weight}")
        if self.vocabs and (len(self.vocabs) != self.depth or max(self.vocabs) != self.vocab):
            raise ValueError(
                f"vocabs must be () or one for each of {self.depth} depths, the most of them "
                f"{self.vocab}, got {self.vocabs}"
            )

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each depth."""
        return self.vocabs or (self.vocab,) * self.depth

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def prefix(self) -> int:
        """T: one class token or the text."""
        return self.text_length or 1

    @property
    def over_depth(self) -> DepthConfig:
        """The settings of the head."""
        return DepthConfig(
            layers=self.head_layers,
            heads=self.head_heads or self.heads,
            dim=self.dim,
            block="gpt",
            gelu=self.gelu,
            positions=True,
            shared_classifier=self.shared_classifier,
            bias=True,
            sums=self.head_vectors and self.sums,
            dropout=self.dropout,
            projected=self.head_vectors and self.projected,
        )

    def fitted(self, tokenizer: Any, reads: Reads) -> RQTransformerConfig:
        """As of any model; the tokenizer's tables decide the width of its code vectors and whether
        all depths have the same."""
        self.check_stack(tokenizer)
        spec, config = tokenizer.spec, super().fitted(tokenizer, reads)
        vectors = vectors_of(tokenizer.codebook, spec.depth, spec.vocab)  # (G, V, C)
        alike = all(torch.equal(rows, vectors[0]) for rows in vectors)
        return replace(config, code_dim=vectors.shape[-1], shared_vectors=alike)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    prefix: Tensor
    """(B, T, D)."""
    positions: Tensor
    """(1, N, D) embedding of the position of the code in each place of the order; (B, N, D) with
    an order for each row."""
    visible: Tensor | None
    """(B, T + N) bool, False where a text position is padding; None without text."""


class RQTransformer(TextLearner):
    """Stacks of codes (B, N, G) given a class or a text. A `CausalModel`; one stack a step."""

    NO_DECAY = ("*positions",)
    config: RQTransformerConfig
    head: DepthHead

    def __init__(self, config: RQTransformerConfig) -> None:
        super().__init__()
        self.config, self.spec, dim = config, config.spec, config.dim
        if config.classes:
            self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        else:
            self.make_text(config)
        vectors, table = (self.new_book(kind) for kind in (True, False))
        head, other = (vectors, table) if config.head_vectors else (table, vectors)
        self.head = DepthHead(config.sizes, config.over_depth, head)
        if config.body_vectors != config.head_vectors:
            self.book = other
        if config.body_vectors:
            self.code_mlp = Linear(config.code_dim, dim)
        self.prefix_positions = nn.Parameter(torch.zeros(config.prefix, dim))
        self.positions = nn.Parameter(torch.zeros(config.spec.positions, dim))
        self.layers = nn.ModuleList(
            [Block(dim, config.heads, config.dropout, config.gelu) for _ in range(config.layers)]
        )
        self.init_weights()

    def new_book(self, vectors: bool) -> CodeVectors | DepthTable:
        """What stands for codes: vectors of the tokenizer, or rows of a table that learns."""
        c = self.config
        if vectors:
            return CodeVectors(c.depth, c.vocab, c.code_dim, c.shared_vectors)
        return DepthTable(c.sizes, c.dim, c.shared_embedding)

    def make_text(self, config: RQTransformerConfig) -> None:
        """What reads texts: a table of ids, or a product of features."""
        dim = config.dim
        self.null = nn.Parameter(torch.zeros(dim))
        if config.text_vocab:
            self.text = nn.Embedding(config.text_vocab, dim)
        else:
            self.text = Linear(config.text_dim, dim)
        if config.text_weight:
            self.text_norm = nn.LayerNorm(dim, LN_EPS)
            self.text_classifier = Linear(dim, config.text_vocab)

    def init_weights(self) -> None:
        """Normal(0, 0.02); zeros for biases and for the logits, so that the first loss of a
        code is ln V."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, CodeVectors):
                module.init_weights()
        for table in (self.positions, self.prefix_positions):
            nn.init.normal_(table, std=0.02)
        if self.config.text_length:
            nn.init.normal_(self.null, std=0.02)
        self.head.init_weights()

    def learn_from(self, tokenizer: Any) -> None:
        """Take over the vectors of the tokenizer's codes, where they are read."""
        for module in self.modules():
            if isinstance(module, CodeVectors):
                module.learn_from(tokenizer.codebook)

    @property
    def reads(self) -> Reads:
        c = self.config
        width = c.text_dim if c.text_length else 0
        return Reads(c.classes, c.text_length, width, c.text_vocab)

    @property
    def reader(self) -> nn.Module:
        return self.cls_embedding if self.config.classes else self.text

    # -- reading

    def embed_codes(self, codes: Tensor) -> Tensor:
        """What positions hold of stacks (B, n, G): (B, n, D). The product of each vector with its
        bias is added up, so the bias counts once for each depth."""
        c = self.config
        book = self.head.seen if c.body_vectors == c.head_vectors else self.book
        total = book(codes)
        if not c.body_vectors:
            return total
        return self.code_mlp(total) + (c.depth - 1) * self.code_mlp.bias

    def read_text(self, cond: Cond) -> Tensor:
        """Text features (B, T, C), or ids (B, T, 1), to embeddings (B, T, D)."""
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        if self.config.text_vocab:
            x = self.text(cond.text.squeeze(-1).long())
        else:
            x = self.text(cond.text.to(self.text.weight.dtype))
        return x if cond.drop is None else torch.where(cond.drop[:, None, None], self.null, x)

    def prepare(
        self, cond: Cond, orders: Tensor | None = None, spec: TokenSpec | None = None
    ) -> Prepared:
        """Prefix embeddings, positions and padding of a batch of conditions, drawn in `orders`,
        (N,) or (B, N)."""
        spec, visible = self.draws(spec), None
        if self.config.classes:
            ids = cond.class_ids(null=self.config.classes)
            prefix = self.cls_embedding(ids).unsqueeze(1)  # (B, 1, D)
        else:
            prefix = self.read_text(cond)  # (B, T, D)
            mask = torch.as_tensor(cond.text_mask)
            visible = F.pad(mask.bool(), (0, spec.positions), value=True)
        table = self.positions if orders is None else self.positions[orders]
        positions = table if table.dim() == 3 else table.unsqueeze(0)
        return Prepared(prefix + self.prefix_positions, positions, visible)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> KVCache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        c, weight = self.config, self.positions
        length = c.prefix + self.draws(spec).positions
        return KVCache(c.layers, batch, c.heads, length, c.head_dim, weight.dtype, weight.device)

    def sequence(
        self, codes: Tensor, cond: Prepared, span: Span, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states of a span, and of the prefix before slot 0 if it is the first."""
        before = (span.slots[1:] if span.first else span.slots) - 1
        x = self.embed_codes(arrange(codes, before))  # (B, n, D)
        x = x + arrange(cond.positions, before)
        if span.first:
            x = torch.cat((cond.prefix.to(x.dtype), x), 1)  # (B, T - 1 + n, D)
        x = F.dropout(x, self.config.embedding_dropout, self.training)
        place = place_of(span, self.config.prefix, None, cond.visible)
        for i, layer in enumerate(self.layers):
            x = layer(x, place, i, cache)
        return x

    # -- learning

    def text_share(self, x: Tensor, cond: Cond) -> Tensor:
        """The mean of a text's tokens, each times G, as stacks have so many codes: (B, 1)."""
        return self.config.depth * self.text_loss(x, cond)[:, None]

    def text_logits(self, x: Tensor) -> Tensor:
        """Of each token of a text but the first, (B, T - 1, ids), of a whole sequence's states."""
        states = self.text_norm(x[:, : self.config.text_length - 1])
        return self.text_classifier(states).float()

    def text_loss(self, x: Tensor, cond: Cond) -> Tensor:
        """Negative log-likelihood of a text's token behind those before it, the mean of each text,
        (B,): padding and texts that are dropped do not count."""
        logits = self.text_logits(x)
        ids = torch.as_tensor(cond.text).squeeze(-1).long()
        mask = torch.as_tensor(cond.text_mask)
        nats = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).view_as(ids[:, 1:])
        counted = mask[:, :-1] & mask[:, 1:]
        if cond.drop is not None:
            counted = counted & ~cond.drop[:, None]
        return (nats * counted).sum(1) / counted.sum(1).clamp(min=1)

    def soft_loss(self, codes: Tensor, targets: Tensor, cond: Cond) -> Tensor:
        """Cross-entropy of soft codes (B, N, G, V) given the codes (B, N, G) that go with them, as
        `RQVAE.soft_codes` makes both: (B, N, G) in nats."""
        span = Span.whole(self.spec.positions, codes.device)
        h = self.hidden(codes, self.prepare(cond), span)
        losses = [
            -(wanted[..., : logits.shape[-1]] * log_probabilities(logits)).sum(-1)
            for logits, wanted in zip(self.head.logits(h, codes), targets.unbind(2), strict=True)
        ]
        return torch.stack(losses, -1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Logits (..., V) less the logarithm of the sum of their exponentials, to which 1e-7 is
    added."""
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted - (shifted.exp().sum(-1, keepdim=True) + 1e-7).log()


def tiny() -> RQTransformerConfig:
    """A model of a few thousand parameters, for tests."""
    return RQTransformerConfig(
        grid=(4, 4),
        vocab=32,
        depth=3,
        classes=5,
        layers=2,
        head_layers=1,
        heads=2,
        dim=32,
        code_dim=4,
        dropout=0.0,
    )


def _sized(layers: int, head_layers: int, heads: int, dim: int) -> dict[str, Any]:
    return {"layers": layers, "head_layers": head_layers, "heads": heads, "dim": dim}


SIZES: dict[str, dict[str, Any]] = {
    "480M": _sized(12, 4, 24, 1536),
    "650M-text": _sized(26, 4, 20, 1280),
    "821M": _sized(24, 4, 24, 1536),
    "1.4B": _sized(42, 6, 24, 1536),
    "3.8B": _sized(42, 6, 40, 2560),
}
"""Layers over positions and over depth, heads and width of every published size."""

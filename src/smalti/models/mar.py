"""MAR: a masked transformer that draws continuous codes by diffusion, in random orders.

Li, Tian, Li, Deng, He 2024, "Autoregressive Image Generation without Vector Quantization"
(arXiv:2406.11838).

Unusual: as in a masked autoencoder, the encoder reads known codes only, so it has few rows while
little is known; the decoder fills the others with one learned vector and its place. The condition
enters as a run of equal rows (the buffer) before the codes. What comes out of the decoder at a
position is the condition of a small diffusion model of the code there (`heads/diffusion.py`).

Letters: B images, N positions, C channels of a code, D encoder width, E decoder width, H heads,
P buffer rows, r known positions that the encoder reads, m positions to predict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Rowwise, TokenSpec, Turn
from smalti.config import check
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.models.generator import Generator, GeneratorConfig
from smalti.models.mar_stack import Cache, Kept, Shape, Stack
from smalti.nn.adaln import LN_EPS
from smalti.nn.linear import Linear
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange


@dataclass(frozen=True)
class MARConfig(GeneratorConfig):
    grid: tuple[int, int] = (16, 16)
    """Height and width of the code grid."""
    channels: int = 16
    """Numbers of a code, C."""
    classes: int = 1000
    """Class labels; the null class is one more row."""
    encoder_layers: int = 12
    """Transformer blocks of the encoder."""
    decoder_layers: int = 12
    """Transformer blocks of the decoder."""
    heads: int = 12
    """Attention heads."""
    dim: int = 768
    """Width D of the encoder, a multiple of `heads`."""
    decoder_heads: int = 0
    """0 is as many as the encoder's."""
    decoder_dim: int = 0
    """Width E of the decoder; 0 is as wide as the encoder."""
    mlp_ratio: float = 4.0
    """Width of a feed-forward layer by that of its layer."""
    norm_eps: float = LN_EPS
    """Of the norms of encoder and decoder; that of what the encoder reads is always 1e-6."""
    buffer: int = 64
    """Rows P that carry the condition."""
    dropout: float = 0.1
    """Of the outputs of attention and feed-forward, and inside the feed-forward."""
    attention_dropout: float = 0.1
    """Of attention probabilities."""
    head: DiffusionConfig = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        layers = ("encoder_layers", "decoder_layers")
        check(
            self,
            pairs=("grid",),
            positive=("channels", "classes", *layers, "heads", "dim", "buffer"),
            counts=("decoder_heads", "decoder_dim"),
            rates=("dropout", "attention_dropout"),
            above_zero=("norm_eps", "mlp_ratio"),
        )
        for stack in (self.encoder, self.decoder):
            if stack.dim % stack.heads:
                raise ValueError(f"dim must be a multiple of heads, got {stack.dim}, {stack.heads}")
            if stack.ffn_dim < 1:
                raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves nothing of {stack.dim}")

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), channels=self.channels)

    @property
    def encoder(self) -> Shape:
        return self._stack(self.encoder_layers, self.heads, self.dim)

    @property
    def decoder(self) -> Shape:
        heads, dim = self.decoder_heads or self.heads, self.decoder_dim or self.dim
        return self._stack(self.decoder_layers, heads, dim)

    def _stack(self, layers: int, heads: int, dim: int) -> Shape:
        ffn_dim = int(dim * self.mlp_ratio)
        rates = self.dropout, self.attention_dropout
        return Shape(layers, heads, dim, ffn_dim, *rates, self.norm_eps)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    buffer: Tensor
    """(B, P, D): what the encoder reads before the codes."""


class Read(NamedTuple):
    """Codes that the encoder reads, embedded; the same for all branches of guidance."""

    x: Tensor
    """(B, r, D)."""
    positions: Tensor
    """(B, r), different ones; those of a step that computes all rows ascend where known."""
    known: Tensor
    """(B, r) bool; others only fill up rows of different length."""


class MAR(Generator):
    """Codes (B, N, C) given a class. A `MaskedModel`."""

    loop = "masked"
    config: MARConfig
    NO_DECAY = ("head.*",)
    keeps_features = True
    """What has no weight decay, as published: the head. Positions and classes have it."""

    def __init__(self, config: MARConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim, width = config.encoder.dim, config.decoder.dim
        positions, rows = self.spec.positions, config.buffer + self.spec.positions
        self.cls_embedding = nn.Embedding(config.classes + 1, dim)
        self.z_proj = Linear(config.channels, dim)
        self.z_norm = nn.LayerNorm(dim, LN_EPS)
        self.encoder_pos = nn.Parameter(torch.empty(rows, dim))
        self.encoder = Stack(config.encoder)
        self.decoder_embed = Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, width))
        self.decoder_pos = nn.Parameter(torch.empty(rows, width))
        self.decoder = Stack(config.decoder)
        self.head_pos = nn.Parameter(torch.empty(positions, width))
        self.head = DiffusionHead(width, config.channels, config.head)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier for linear layers, normal(0, 0.02) for tables and the mask; the head its own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        tables = (self.encoder_pos, self.decoder_pos, self.head_pos, self.mask_token)
        for table in (self.cls_embedding.weight, *tables):
            nn.init.normal_(table, std=0.02)
        self.head.init_weights()

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Prepared:
        """The buffer of each row."""
        self.draws(spec)
        label = self.cls_embedding(cond.class_ids(null=self.config.classes)).unsqueeze(1)
        return Prepared(self.z_norm(label + self.encoder_pos[: self.config.buffer]))

    def cache(self, batch: int, spec: TokenSpec | None = None) -> Cache:
        """An empty cache for `batch` rows (all branches), in the dtype of the weights."""
        self.draws(spec)
        shapes, table = (self.config.encoder, self.config.decoder), self.encoder_pos
        return Cache(*(shape.cache(batch, len(table), table) for shape in shapes))

    def read(self, codes: Tensor, turn: Turn, cache: Cache | None = None) -> Read:
        """Embed the known codes of (B, N, C) that the encoder computes at this turn."""
        new = None if cache is None else cache.reused(turn)
        if new is None:
            positions = (~turn.known).byte().argsort(stable=True)[:, : turn.reach]  # (B, r)
        else:
            positions = new[: len(codes)]  # (B, r), those of the first branch
        x = self.z_proj(arrange(codes.to(self.z_proj.weight), positions))  # (B, r, D)
        x = self.z_norm(x + self.encoder_pos[self.config.buffer + positions])
        return Read(x, positions, turn.known.gather(1, positions))

    def hidden(
        self, codes: Tensor, cond: Prepared, turn: Turn, cache: Cache | None = None
    ) -> Tensor:
        """What the head draws the wanted positions from, (B, m, E); reads codes (B, N, C) where
        they are known."""
        return self.trunk(self.read(codes, turn, cache), cond.buffer, turn, cache)

    def trunk(self, read: Read, buffer: Tensor, turn: Turn, cache: Cache | None = None) -> Tensor:
        """What `hidden` gives; all arguments have the rows of all branches."""
        wanted = turn.wanted
        if cache is None or wanted is None or cache.reused(turn) is None:
            h = self.all_rows(read, buffer, wanted, cache)
        else:
            h = self.some_rows(read, turn.known, wanted, cache)
        if cache is not None:
            cache.wanted = wanted
        return h + (self.head_pos if wanted is None else self.head_pos[wanted])

    def all_rows(
        self, read: Read, buffer: Tensor, wanted: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """Both stacks over all that they read; the last layer for what is wanted."""
        p, n = self.config.buffer, self.spec.positions
        x = torch.cat((buffer, read.x), 1)  # (B, P + r, D)
        mask = None if everywhere(read.known) else visible(read.known, p)
        kept = last = None
        if cache is not None:
            first = torch.arange(p, device=x.device).expand(len(x), -1)
            kept = Kept(cache.encoder, torch.cat((first, p + read.positions), 1), fresh=True)
            last = Kept(cache.decoder, torch.arange(p + n, device=x.device), fresh=True)
        x = self.canvas(self.encoder(x, mask, kept=kept), read)  # (B, P + N, E)
        every = torch.arange(n, device=x.device)
        rows = p + (every if wanted is None else wanted)
        return self.decoder(x, rows=rows, kept=last)  # (B, m, E)

    def canvas(self, h: Tensor, read: Read) -> Tensor:
        """What the decoder reads, from what the encoder makes of the buffer and `read`."""
        p, n = self.config.buffer, self.spec.positions
        h = self.decoder_embed(h)  # (B, P + r, E)
        given = self.given(h[:, p:], read.known)
        index = read.positions.unsqueeze(-1).expand(given.shape)
        x = self.mask_token.to(given).expand(len(h), n, -1).scatter(1, index, given)
        return torch.cat((h[:, :p], x), 1) + self.decoder_pos  # (B, P + N, E)

    def some_rows(self, read: Read, known: Tensor, wanted: Tensor, cache: Cache) -> Tensor:
        """The stacks over codes that were drawn last and what is wanted; other keys and values
        are those of earlier steps."""
        p = self.config.buffer
        places, mask = p + read.positions, visible(known, p)
        h = self.encoder(read.x, mask, kept=Kept(cache.encoder, places, fresh=False))
        given = self.given(self.decoder_embed(h), read.known)  # (B, r, E)
        unknown = self.mask_token.to(given).expand(*wanted.shape, -1)
        places = torch.cat((places, p + wanted), 1)  # (B, r + m)
        x = torch.cat((given, unknown), 1) + self.decoder_pos[places]
        rows = torch.arange(given.shape[1], x.shape[1], device=x.device)
        return self.decoder(x, rows=rows, kept=Kept(cache.decoder, places, fresh=False))

    def given(self, h: Tensor, known: Tensor) -> Tensor:
        """What the decoder reads at positions of h (B, r, E) that are `known` (B, r)."""
        return torch.where(known.unsqueeze(-1), h, self.mask_token)

    def draw(
        self,
        codes: Tensor,
        cond: Prepared,
        turn: Turn,
        cache: Cache | None,
        chance: Chance,
    ) -> Draw:
        """Draw the codes of the wanted positions, (B, m, C)."""
        guide = chance.guide
        read = Read(*(guide.tile(t) for t in self.read(codes, turn, cache)))  # once for all
        h = self.trunk(read, cond.buffer, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """The diffusion loss at unknown positions of codes (B, N, C), 0 at known ones: (B, N).

        Timesteps and noise of the head are addressed by `noise`; None is always the same.
        """
        if known is None:
            known = torch.zeros(codes.shape[:2], dtype=torch.bool, device=codes.device)
        low, high = (int(n) for n in torch.aminmax(known.sum(1)))
        unknown = known.byte().argsort(stable=True)[:, : known.shape[1] - low]  # (B, m)
        h = self.hidden(codes, self.prepare(cond), Turn(known, unknown, high))
        numbers = SlotNoise.of(noise, codes, unknown)
        loss = self.head.loss(h, arrange(codes, unknown), numbers)  # (B, m)
        loss = loss.masked_fill(known.gather(1, unknown), 0)
        return loss.new_zeros(known.shape).scatter(1, unknown, loss)


def everywhere(mask: Tensor) -> bool:
    """Whether a mask hides nothing, if that can be told without waiting for a device."""
    return mask.device.type == "cpu" and bool(mask.all())


def visible(known: Tensor, buffer: int) -> Tensor:
    """The mask of keys (B, r), behind a buffer that all see: (B, 1, 1, P + r)."""
    return F.pad(known, (buffer, 0), value=True)[:, None, None]


def tiny() -> MARConfig:
    """A model of a few thousand parameters, for tests."""
    head = DiffusionConfig(depth=2, width=16, repeat=2)
    return MARConfig(
        grid=(4, 4),
        channels=6,
        classes=5,
        encoder_layers=2,
        decoder_layers=2,
        heads=2,
        dim=32,
        buffer=3,
        dropout=0.0,
        attention_dropout=0.0,
        head=head,
    )


def _sized(layers: int, heads: int, dim: int, depth: int, width: int) -> dict[str, Any]:
    trunk = {"encoder_layers": layers, "decoder_layers": layers, "heads": heads, "dim": dim}
    return trunk | {"head": DiffusionConfig(depth=depth, width=width)}


SIZES: dict[str, dict[str, Any]] = {
    "B": _sized(12, 12, 768, 6, 1024),
    "L": _sized(16, 16, 1024, 8, 1280),
    "H": _sized(20, 16, 1280, 12, 1536),
}
"""Layers and widths of every published size."""

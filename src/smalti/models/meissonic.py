"""Meissonic: a masked transformer of two streams, words and codes, that draws pictures from texts.

Bai, Ye, Chow, Song, Chen, Li, Dong, Zhu, Yan 2024, "Meissonic: Revitalizing Masked Generative
Transformers for Efficient High-Resolution Text-to-Image Synthesis" (arXiv:2410.08261), commit
9360def of viiika/Meissonic.

Unusual beside MaskGIT: the first blocks keep words and codes in streams with weights of their own
that attend to both, the later ones are of one stream whose feed-forward runs beside attention. Each
block is modulated by one vector: the text as a whole, five micro-conditions (width and height of
the picture, where it was cut, how beautiful it is), and how far the drawing has come. Rows and
columns turn queries and keys, words are not turned, so that grids of any size are drawn. A
convolution makes one position of 2 x 2 codes, and another one unmakes it.

Letters: B images, N codes, n positions of the transformer, T words, C width of their features, D
width, H heads, hd = D / H, W wanted codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import Cond, Draw, Reads, Rowwise, TokenSpec, Turn
from smalti.config import check
from smalti.heads.of_codes import head_of
from smalti.models.generator import Generator, GeneratorConfig
from smalti.nn.adaln import modulate, normed
from smalti.nn.attention import attend
from smalti.nn.code_embedding import code_embedding
from smalti.nn.linear import Linear
from smalti.nn.mlp import MLP
from smalti.nn.norms import RMSNorm
from smalti.nn.rope import rope_1d, rotate
from smalti.sampling.chance import Chance
from smalti.sampling.noise import Noise, SlotNoise

EPS = 1e-6
SINUSOID = 256
"""Cosines and sines that stand for a number."""
THOUSAND = 1000.0
"""What times and guidance are multiplied by before they become cosines and sines."""


@dataclass(frozen=True)
class MeissonicConfig(GeneratorConfig):
    grid: tuple[int, int] = (64, 64)
    """Height and width of the code grid that the model learns; it draws others too."""
    vocab: int = 8192
    """Codebook entries, to which the mask token is one more row; 2 with `channels`."""
    channels: int = 0
    """Bits of a code; 0: a code is a number."""
    depth: int = 0
    """Codes at each position, drawn one after another; 0: one."""
    factor: int = 16
    """Pixels of a code along one side, by which the model is told how large a picture is."""
    text_length: int = 78
    """Features that a text has at most, T."""
    text_dim: int = 1024
    """Width of a feature, C."""
    word_dim: int = 0
    """How many numbers of a word's features are read; 0: all."""
    pooled: int = 0
    """Numbers of the last feature, if that is no word but the whole text as a vector; 0: it is a
    word, and the mean of the words stands for the text."""
    joint_layers: int = 14
    """Blocks of two streams."""
    single_layers: int = 28
    """Blocks of one stream, behind them."""
    heads: int = 8
    """Attention heads."""
    dim: int = 1024
    """Width D, the sum of `axes` times `heads`."""
    axes: tuple[int, int, int] = (16, 56, 56)
    """Numbers of a head that are not turned, that turn with the row, and with the column."""
    compress: bool = True
    """Whether the transformer sees 2 x 2 codes as one position."""
    clock: Literal["share", "steps"] = "share"
    """How far the drawing has come: share, the share of hidden codes; steps, as published, the
    steps that are left, and in training 1000 times the share of hidden codes."""
    guided: float | None = None
    """Guidance that the model is told; None, as published: it is told none."""
    beauty: float = 6.0
    """How beautiful its pictures are to be, the last of the micro-conditions."""
    dropout: float = 0.0
    """Of what attention and feed-forward give."""

    def __post_init__(self) -> None:
        sizes = ("vocab", "factor", "text_length", "text_dim", "heads", "dim")
        counts = ("channels", "depth", "word_dim", "pooled", "joint_layers", "single_layers")
        check(self, pairs=("grid",), positive=sizes, counts=counts, rates=("dropout",))
        if len(self.axes) != 3 or min(self.axes) < 2 or any(n % 2 for n in self.axes):
            raise ValueError(f"axes must be three even positive numbers, got {self.axes}")
        if sum(self.axes) * self.heads != self.dim:
            raise ValueError(
                f"dim must be heads {self.heads} times the sum of axes {self.axes}, got {self.dim}"
            )
        if max(self.word_dim, self.pooled) > self.text_dim:
            raise ValueError(
                f"word_dim and pooled must be at most text_dim {self.text_dim}, "
                f"got {self.word_dim} and {self.pooled}"
            )
        if self.pooled and self.text_length < 2:
            raise ValueError(f"text_length must be 2 or more with pooled, got {self.text_length}")
        check_even(self.grid, self.compress)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth, self.channels)

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a word and of a whole text that are read."""
        words = self.word_dim or self.text_dim
        return words, self.pooled or words

    def fitted(self, tokenizer: Any, reads: Reads) -> Self:
        """The same with the tokenizer's codes, their size in pixels, and the text. Raises
        ValueError if there is no text, or if the model cannot predict such codes."""
        if not reads.text_length:
            raise ValueError(
                "Meissonic draws from texts: take a recipe with a text encoder, such as "
                "emoji_meissonic"
            )
        return replace(super().fitted(tokenizer, reads), factor=tokenizer.factor)


def check_even(grid: tuple[int, int], compress: bool) -> None:
    """Raise ValueError unless a grid can be compressed, if it is to be."""
    if compress and (grid[0] % 2 or grid[1] % 2):
        raise ValueError(f"with compress both sides of grid must be even, got {grid}")


def places(grid: tuple[int, int]) -> Tensor:
    """Where the positions of a grid are, row by row, (n, 3): 0, row and column."""
    height, width = grid
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1).float()


@lru_cache(maxsize=32)
def turns(words: int, grid: tuple[int, int], axes: tuple[int, int, int]) -> Tensor:
    """How queries and keys of words and of a grid turn, (1, T + n, hd / 2) complex."""
    with torch.inference_mode(False):  # what is kept must also serve training
        at = F.pad(places(grid).long(), (0, 0, words, 0))  # (T + n, 3); words are at 0, 0, 0
        tables = [rope_1d(max(grid), width)[at[:, i]] for i, width in enumerate(axes)]
        return torch.view_as_complex(torch.cat(tables, 1).contiguous()).unsqueeze(0)


def sinusoid(numbers: Tensor) -> Tensor:
    """Cosines and sines (..., 256) of numbers (...), cosines first."""
    half = SINUSOID // 2
    steps = torch.arange(half, dtype=torch.float32, device=numbers.device)
    angles = numbers.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), -1)


class Embed(nn.Module):
    """w2(silu(w1 x)): numbers as a vector of width D."""

    def __init__(self, width: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, dim, bias=bias)
        self.w2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x.to(self.w1.weight.dtype))))


class Attention(nn.Module):
    """Queries, keys and values of a stream, and what is made of what they find."""

    def __init__(self, dim: int, heads: int, beside: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = Linear(dim, 3 * dim)
        self.q_norm = RMSNorm(dim // heads, EPS)
        self.k_norm = RMSNorm(dim // heads, EPS)
        self.wo = Linear(dim + beside, dim)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normalised, and values of (B, n, D), each (B, n, H, hd)."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v


def attended(q: Tensor, k: Tensor, v: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
    """What (B, n, H, hd) find, (B, n, D); turned by (n, 1, hd / 2), read where mask (B, 1, 1, n)
    is True."""
    q, k, v = (t.transpose(1, 2) for t in (rotate(q, turn), rotate(k, turn), v))
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


class Stream(nn.Module):
    """The words, or the codes, of a block of two streams."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.adaln = nn.Linear(dim, 6 * dim)
        self.attention = Attention(dim, config.heads)
        self.feed_forward = MLP(dim, 4 * dim, "tanh")

    def modulation(self, told: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the feed-forward, each (B, 1, D)."""
        return self.adaln(told).unsqueeze(1).chunk(6, -1)

    def residual(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        return x + gate * F.dropout(y, self.dropout, self.training)

    def finished(self, x: Tensor, y: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """The stream (B, n, D) with what attention found, and its feed-forward."""
        _, _, gate1, shift2, scale2, gate2 = parts
        x = self.residual(x, gate1, self.attention.wo(y))
        h = modulate(normed(x, EPS), shift2, scale2)
        return self.residual(x, gate2, self.feed_forward(h))


class JointBlock(nn.Module):
    """Two streams that attend to both."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.words = Stream(config)
        self.codes = Stream(config)

    def forward(
        self, words: Tensor, x: Tensor, told: Tensor, turn: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        streams = (self.words, words), (self.codes, x)
        parts = [stream.modulation(told) for stream, _ in streams]
        heads = [
            stream.attention.parts(modulate(normed(y, EPS), shift, scale))
            for (stream, y), (shift, scale, *_) in zip(streams, parts, strict=True)
        ]
        q, k, v = (torch.cat(both, 1) for both in zip(*heads, strict=True))  # (B, T + n, H, hd)
        found = attended(q, k, v, turn, mask).split((words.shape[1], x.shape[1]), 1)
        words, x = (
            stream.finished(y, new, part)
            for (stream, y), new, part in zip(streams, found, parts, strict=True)
        )
        return words, x


class SingleBlock(nn.Module):
    """One stream of words and codes, whose feed-forward runs beside attention."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        dim = config.dim
        self.dropout = config.dropout
        self.adaln = nn.Linear(dim, 3 * dim)
        self.attention = Attention(dim, config.heads, beside=4 * dim)
        self.wide = Linear(dim, 4 * dim)

    def forward(self, x: Tensor, told: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        shift, scale, gate = self.adaln(told).unsqueeze(1).chunk(3, -1)  # each (B, 1, D)
        h = modulate(normed(x, EPS), shift, scale)
        found = attended(*self.attention.parts(h), turn, mask)
        wide = F.gelu(self.wide(h), approximate="tanh")  # (B, T + n, 4D)
        y = self.attention.wo(torch.cat((found, wide), -1))
        return x + gate * F.dropout(y, self.dropout, self.training)


class Resampling(nn.Module):
    """Makes one position of 2 x 2 of them, or with `up` four of one."""

    def __init__(self, dim: int, up: bool) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, EPS)
        self.conv = (nn.ConvTranspose2d if up else nn.Conv2d)(dim, dim, 2, 2, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Positions (B, n, D) of a grid to (B, n / 4, D) or (B, 4n, D)."""
        x = self.norm(x).transpose(1, 2).unflatten(2, grid)  # (B, D, h, w)
        return self.conv(x).flatten(2).transpose(1, 2)


@dataclass
class Prepared(Rowwise):
    """All that no drawn code changes."""

    words: Tensor
    """(B, T, D), without the vector of the whole text."""
    mask: Tensor
    """(B, 1, 1, T + n) bool: which words and positions are read."""
    told: Tensor
    """(B, D): the text as a whole and the micro-conditions."""
    rotation: Tensor
    """(1, T + n, hd / 2) complex: how queries and keys are turned."""
    grid: tuple[int, int]
    """Height and width of the codes."""


class Meissonic(Generator):
    """Codes (B, N) given a text. A `MaskedModel`."""

    loop = "masked"
    confidence = 2.0
    any_grid = True
    config: MeissonicConfig
    NO_DECAY = ("tok_embeddings.*", "null")
    """What has no weight decay beside norms and biases."""

    def __init__(self, config: MeissonicConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        dim, (words, pooled) = config.dim, config.widths
        self.null = nn.Parameter(torch.empty(config.text_length, config.text_dim))
        self.text_proj = Linear(words, dim)
        self.text_norm = RMSNorm(dim, EPS)
        self.cond_embed = Embed(pooled + 5 * SINUSOID, dim, bias=False)
        self.text_embed = Embed(dim, dim)
        self.time_embed = Embed(SINUSOID, dim)
        self.guide_embed = None if config.guided is None else Embed(SINUSOID, dim)
        self.tok_embeddings = code_embedding(self.spec, dim, hidden=True)
        self.embed_norm = RMSNorm(dim, EPS)
        self.embed_proj = Linear(dim, dim, bias=False)
        self.down = Resampling(dim, up=False) if config.compress else None
        self.in_norm = RMSNorm(dim, EPS)
        self.in_proj = Linear(dim, dim, bias=False)
        joint = [JointBlock(config) for _ in range(config.joint_layers)]
        single = [SingleBlock(config) for _ in range(config.single_layers)]
        self.layers = nn.ModuleList([*joint, *single])
        self.last_norm = RMSNorm(dim, EPS)
        self.last_proj = Linear(dim, dim, bias=False)
        self.up = Resampling(dim, up=True) if config.compress else None
        self.out = Linear(dim, dim, bias=False)
        self.out_norm = RMSNorm(dim, EPS)
        self.head = head_of(self.spec, dim)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Products that keep the variance, cut off, and zero biases; blocks begin nearly off, and
        the head as if any code were as likely as any other."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                width = module.weight[0].numel()
                nn.init.trunc_normal_(module.weight, std=width**-0.5)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=1.0)
            if isinstance(module, Stream | SingleBlock):
                module.adaln.weight.mul_(0.1)
        nn.init.trunc_normal_(self.null, std=1.0)
        self.head.init_weights()

    # -- what it says of itself

    @property
    def reads(self) -> Reads:
        return Reads(0, self.config.text_length, self.config.text_dim)

    @property
    def reader(self) -> nn.Module:
        return self.text_proj

    @torch.no_grad()
    def learn_text(self, encoder: Any) -> None:
        """Let what an encoder that does not learn says of an empty text stand for no text."""
        if not encoder.learned:
            features, _ = encoder(encoder.tokenize([""]))
            self.null.copy_(features[0])
            encoder.release()

    def draws(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes to draw: those of `spec`, or its own. Raises ValueError for other codes, and
        for a grid that cannot be compressed."""
        spec = super().draws(spec)
        check_even(spec.grids[0], self.config.compress)
        return spec

    # -- what it reads

    def texts(self, cond: Cond) -> tuple[Tensor, Tensor, Tensor]:
        """Features of words (B, T, .) and which there are (B, T), and each text as a whole
        (B, .)."""
        if cond.text is None or cond.text_mask is None:
            raise ValueError("this model is text-conditional: give text and text_mask")
        text, mask = cond.text.to(self.null.dtype), cond.text_mask.bool()
        if cond.drop is not None:
            text = torch.where(cond.drop[:, None, None], self.null, text)
        words, pooled = self.config.widths
        if self.config.pooled:
            return text[:, :-1, :words], mask[:, :-1], text[:, -1, :pooled]
        text = text[..., :words]
        there = mask.unsqueeze(-1)
        return text, mask, (text * there).sum(1) / there.sum(1).clamp(min=1)

    def told(self, whole: Tensor, micro: Tensor) -> Tensor:
        """Texts as a whole (B, .) and micro-conditions (B, 5) as a vector, (B, D)."""
        micro = sinusoid(micro).flatten(1).to(whole.dtype)  # (B, 5 * 256)
        told = self.text_embed(self.cond_embed(torch.cat((whole, micro), 1)))
        if self.guide_embed is None or self.config.guided is None:
            return told
        guidance = torch.full((len(whole),), self.config.guided, device=whole.device)
        return told + self.guide_embed(sinusoid(THOUSAND * guidance))

    def micro(self, grid: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
        """The micro-conditions of a picture that was not cut, (1, 5): width, height, 0, 0 and its
        beauty."""
        height, width = (self.config.factor * side for side in grid)
        return torch.tensor([[width, height, 0.0, 0.0, self.config.beauty]], device=device)

    def prepare(self, cond: Cond, spec: TokenSpec | None = None) -> Prepared:
        """The text, what modulates the blocks, and how positions turn."""
        (grid,) = self.draws(spec).grids
        words, mask, whole = self.texts(cond)
        micro = self.micro(grid, whole.device).expand(len(whole), -1)
        inner = (grid[0] // 2, grid[1] // 2) if self.config.compress else grid
        turn = turns(words.shape[1], inner, self.config.axes).to(whole.device)
        mask = F.pad(mask, (0, inner[0] * inner[1]), value=True)
        words = self.text_norm(self.text_proj(words))  # (B, T, D)
        return Prepared(words, mask[:, None, None], self.told(whole, micro), turn, grid)

    def cache(self, batch: int, spec: TokenSpec | None = None) -> None:
        """None: every pass reads everything."""

    # -- the transformer

    def time(self, turn: Turn) -> Tensor:
        """How far the drawing has come, (B,) or (1,)."""
        share = (~turn.known).float().mean(1)
        if self.config.clock == "share":
            return share
        if turn.left is None:
            return THOUSAND * share
        return torch.as_tensor(turn.left, device=share.device).view(-1)

    def hidden(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None = None) -> Tensor:
        """Hidden states (B, W, D) of the wanted positions; reads codes (B, N) of known ones."""
        x = self.embed_proj(self.embed_norm(self.tok_embeddings(codes, turn.known)))  # (B, N, D)
        x = x if self.down is None else self.down(x, cond.grid)  # (B, n, D)
        x = self.in_proj(self.in_norm(x))
        told = F.silu(cond.told + self.time_embed(sinusoid(THOUSAND * self.time(turn))))
        words, rotation = cond.words, cond.rotation[0].unsqueeze(1)
        joint = self.config.joint_layers
        for layer in self.layers[:joint]:
            words, x = layer(words, x, told, rotation, cond.mask)
        x = torch.cat((words, x), 1)  # (B, T + n, D)
        for layer in self.layers[joint:]:
            x = layer(x, told, rotation, cond.mask)
        x = self.last_proj(self.last_norm(x[:, words.shape[1] :]))  # (B, n, D)
        if self.up is not None:
            x = self.up(x, (cond.grid[0] // 2, cond.grid[1] // 2))  # (B, N, D)
        if turn.wanted is not None:
            x = x.gather(1, turn.wanted.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, W, D)
        return self.out_norm(self.out(x))

    def draw(self, codes: Tensor, cond: Prepared, turn: Turn, cache: None, chance: Chance) -> Draw:
        """Draw codes (B, W) of the wanted positions."""
        guide = chance.guide
        h = self.hidden(guide.tile(codes), cond, turn.tile(guide), cache)
        return self.head.sample(h, chance)

    def loss(
        self, codes: Tensor, cond: Cond, known: Tensor | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Negative log-likelihood of each unknown code given the known ones: (B, N) in nats; 0 at
        those. `known` (B, N) bool; None: nothing is known."""
        if known is None:
            known = codes.new_zeros(codes.shape[:2], dtype=torch.bool)
        h = self.hidden(codes, self.prepare(cond), Turn(known, None, codes.shape[1]))
        cells = torch.arange(codes.shape[1], device=codes.device)
        loss = self.head.loss(h, codes, SlotNoise.of(noise, codes, cells))
        return self.weighed(loss, known)


def tiny() -> MeissonicConfig:
    """A model of a few thousand parameters, for tests."""
    return MeissonicConfig(
        grid=(4, 4),
        vocab=32,
        factor=4,
        text_length=6,
        text_dim=12,
        joint_layers=1,
        single_layers=1,
        heads=2,
        dim=32,
        axes=(4, 6, 6),
    )


SIZES: dict[str, dict[str, Any]] = {
    "1B": {"joint_layers": 14, "single_layers": 28, "heads": 8, "dim": 1024},
}
"""Layers, heads and width by name."""

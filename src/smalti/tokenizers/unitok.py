"""UniTok: images to a grid of stacks of sub-codes, by a hybrid of convolutions and a ViT.

Ma et al. 2025, "UniTok: A Unified Tokenizer for Visual Generation and Understanding"
(arXiv:2502.20321); the network is ViTamin (Chen et al. 2024, arXiv:2404.02132) and its
mirror image.

Unusual: a position holds K codes of K tables, each for some of its channels, and attention brings
tokens to the few channels that are quantized and back (`nn.projection`). The same codes are to be
understood: the mean of the tokens behind them is compared with what a text says (`features`).
Neither network knows positions but what its convolutions see at the borders, so other sizes than
that of training are possible.

Letters: B images, H, W image size, h, w code grid, N = h * w, E width of the tokens, C channels
that are quantized, K sub-codes, V codes of a table, F features that texts are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.attention import attend
from smalti.nn.conv import Upsample
from smalti.nn.linear import Linear
from smalti.nn.mobile import ChannelNorm, MobileBlock, MobileUpBlock, Stem, Unstem
from smalti.nn.projection import AttentionProjection, GeGLU
from smalti.nn.residual import drop_path_rates, dropped
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer
from smalti.tokenizers.quantize.multicode import MulticodeQuantizer


@dataclass(frozen=True)
class UniTokConfig(GridConfig):
    widths: tuple[int, ...] = (160, 320)
    """Channels of each stage of convolutions, at halved sizes; the stem has those of the first."""
    blocks: tuple[int, ...] = (2, 4)
    """Convolution blocks of each stage, in the encoder and in the decoder."""
    layers: int = 31
    """Transformer blocks of the encoder; the decoder has as many."""
    heads: int = 16
    """Attention heads of these."""
    width: int = 1024
    """Width E of the tokens, a multiple of `heads`."""
    vocab: int = 4096
    """Codes of one table, V."""
    dim: int = 64
    """Channels C that are quantized, of all tables together."""
    depth: int = 8
    """Codes at each position, K, a divisor of `dim`."""
    causal: bool = False
    """Whether a token sees only those before it on the way to the codes and back, as in weights
    published before April 2025."""
    features: int = 0
    """Features that are compared with texts, F; 0: the tokenizer has none."""
    drop_path: float = 0.0
    """Rate of the last block's dropped residual branches; earlier blocks have less."""

    def __post_init__(self) -> None:
        check(
            self,
            several=("vocab",),
            positive=("layers", "heads", "width", "dim", "depth"),
            counts=("features",),
            rates=("drop_path",),
            multiple=("width", "heads"),
        )
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(
                "widths and blocks must have a number for each of one or more stages, "
                f"got {self.widths}, {self.blocks}"
            )
        if min(self.widths + self.blocks) < 1:
            raise ValueError(
                f"widths and blocks must be positive, got {self.widths}, {self.blocks}"
            )
        if self.dim % self.depth:
            raise ValueError(f"dim must be a multiple of depth {self.depth}, got {self.dim}")
        if self.width % self.dim:
            raise ValueError(f"width must be a multiple of dim {self.dim}, got {self.width}")
        if any(side % self.factor for side in self.size):
            raise ValueError(f"size must be multiples of {self.factor} pixels, got {self.size}")

    @property
    def factor(self) -> int:
        """Image pixels per position, along one side."""
        return 4 * 2 ** len(self.widths)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth)


class Attention(nn.Module):
    """Attention of every token (B, N, E) to every other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), which normalises once more."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = GeGLU(dim, 2 * dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.branch(self.attn(self.norm1(x)))
        return x + self.branch(self.mlp(self.norm2(x)))

    def branch(self, y: Tensor) -> Tensor:
        return dropped(y, 0.0, self.drop_path) if self.training and self.drop_path else y


def transformer(config: UniTokConfig) -> nn.Sequential:
    """The blocks of the encoder or of the decoder, new."""
    rates = drop_path_rates(config.drop_path, config.layers)
    return nn.Sequential(*(Block(config.width, config.heads, rate) for rate in rates))


class Pool(nn.Module):
    """Features of the last stage to maps of tokens of half the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(before)
        self.proj = nn.Conv2d(before, after, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to maps of tokens (B, E, h, w)."""

    def __init__(self, config: UniTokConfig) -> None:
        super().__init__()
        first, *_ = config.widths
        self.stem = Stem(first)
        self.stages = nn.ModuleList()
        for (before, after), count in zip(
            pairwise((first, *config.widths)), config.blocks, strict=True
        ):
            later = [MobileBlock(after, after) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(MobileBlock(before, after, down=True), *later))
        self.pool = Pool(config.widths[-1], config.width)
        self.blocks = transformer(config)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = self.pool(x)  # (B, E, h, w)
        return as_map(self.norm(self.blocks(tokens(x))), x)


class Decoder(nn.Module):
    """Maps of tokens (B, E, h, w) to images (B, 3, H, W), not clamped."""

    def __init__(self, config: UniTokConfig) -> None:
        super().__init__()
        *_, last = config.widths
        self.blocks = transformer(config)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.up = Upsample(config.width, last)
        self.stages = nn.ModuleList()
        for (before, after), count in zip(
            pairwise((last, *config.widths[::-1])), config.blocks[::-1], strict=True
        ):
            later = [MobileUpBlock(after, after) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(MobileUpBlock(before, after, up=True), *later))
        self.out = Unstem(config.widths[0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(as_map(self.norm(self.blocks(tokens(x))), x))
        for stage in self.stages:
            x = stage(x)
        return self.out(x)


class UniTok(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w, K), row by row, and
    back."""

    def __init__(self, config: UniTokConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        heads = config.width // config.dim
        self.encoder = Encoder(config)
        self.quant_proj = AttentionProjection(config.width, config.dim, heads, config.causal)
        self.quantize = MulticodeQuantizer(config.vocab, config.dim, config.depth)
        self.post_quant_proj = AttentionProjection(config.dim, config.width, heads, config.causal)
        self.decoder = Decoder(config)
        if config.features:
            self.fc_norm = nn.LayerNorm(config.width, eps=1e-6)
            self.projection = Linear(config.width, config.features)
        self.init_weights()

    def init_weights(self) -> None:
        """As published: products and convolutions normal, by Xavier, with half the variance's
        root; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain=0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def understands(self) -> int:
        return self.config.features

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    @property
    def last_layer(self) -> Tensor:
        return self.get_parameter("decoder.out.conv2.weight")

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        x = self.encoder(images)
        return as_map(self.quant_proj(tokens(x)), x)

    def expanded(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), as maps of tokens (B, E, h, w)."""
        return as_map(self.post_quant_proj(tokens(latent)), latent)

    def render(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to images (B, 3, H, W), not clamped."""
        return self.decoder(self.expanded(latent))

    def features(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to what texts are compared with, (B, F).

        Raises ValueError if the tokenizer has none.
        """
        if not self.understands:
            raise ValueError("this tokenizer has no features of texts: its features are 0")
        return self.projection(self.fc_norm(tokens(self.expanded(latent)).mean(1)))


def tokens(x: Tensor) -> Tensor:
    """A map (B, D, h, w) as tokens (B, N, D), row by row."""
    return x.flatten(2).transpose(1, 2).contiguous()


def as_map(x: Tensor, like: Tensor) -> Tensor:
    """Tokens (B, N, D) as a map of the size of `like`, (B, D, h, w)."""
    return x.transpose(1, 2).unflatten(2, like.shape[2:]).contiguous()


def large() -> UniTokConfig:
    """The published one: ViTamin-L, eight tables of 4096, features of CLIP's width."""
    return UniTokConfig(features=768, drop_path=0.1)


def tiny() -> UniTokConfig:
    """A tokenizer of a few thousand parameters, for tests."""
    return UniTokConfig(
        size=(32, 32),
        widths=(8,),
        blocks=(1,),
        layers=1,
        heads=2,
        width=16,
        vocab=16,
        dim=8,
        depth=2,
    )

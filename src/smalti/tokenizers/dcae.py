"""DC-AE: images to few continuous codes of many numbers, and back.

Chen, Cai, Chen, Xie, Yang, Tang, Li, Lu, Han 2024, "Deep Compression Autoencoder for Efficient
High-Resolution Diffusion Models" (arXiv:2410.10733).

Unusual: a code stands for 32, 64 or 128 pixels of each side. So that so deep a network learns, what
goes down and up past the convolutions is space that becomes channels, and channels that become
space; convolutions learn what is missing. No distribution is learned: an image has one latent, and
codes are latents times `scale`, so that their standard deviation is about one. Deep levels have
linear attention, and no position is known, so other sizes than that of training are possible.

Letters: B images, H, W image size, h, w code grid, N = h * w, Z channels of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.deep_compression import (
    ACTIVATIONS,
    Activation,
    AttentionBlock,
    ChannelRMSNorm,
    Down,
    ResidualBlock,
    averaged,
    repeated,
    up,
)
from smalti.tokenizers.base import ImageTokenizer, TokenizerConfig, check_images, check_latent

Learns = Literal["whole", "middle", "head"]
"""What training moves: all; the levels next to the latent on both sides; what makes pixels."""


@dataclass(frozen=True)
class HalfConfig:
    """The encoder or the decoder. Levels are named by their pixels per place, along one side."""

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    """Channels of the levels 1, 2, 4 and so on."""
    blocks: tuple[int, ...] = (0, 4, 8, 2, 2, 2)
    """Blocks of each level. Where the first is 0, there is no such level: images are halved at
    once. The last may be 0 too."""
    attention_at: tuple[int, ...] = (8, 16, 32)
    """Levels whose blocks have attention; those of all others are residual blocks."""
    kernels: tuple[tuple[int, int], ...] = ()
    """More heads of attention: a level, and the side of the kernel with which queries, keys and
    values are convolved for them; Sana: 8 5 16 5 32 5."""
    batch_norm_at: tuple[int, ...] = ()
    """Levels with norms over the batch; those of all others are over the channels of a place."""
    activations: tuple[Activation, ...] = ()
    """Of the residual blocks of each level; () = silu in all."""
    shuffle: bool = True
    """Whether sizes change by squares of places that become channels, or channels that become
    squares; else by a convolution of stride 2, or one behind places that are repeated."""
    shortcut: bool = True
    """Whether means of channels go past the encoder's last convolution, and repeated channels past
    the decoder's first one."""

    def __post_init__(self) -> None:
        count, known = len(self.widths), [2**i for i in range(len(self.widths))]
        if not count or min(self.widths) < 1:
            raise ValueError(f"widths must be one or more positive integers, got {self.widths}")
        for name in ("blocks", "activations"):
            values = getattr(self, name)
            if len(values) != count and (name == "blocks" or values):
                raise ValueError(f"{name} must be of the {count} levels of widths, got {values}")
        if min(self.blocks) < 0 or 0 in self.blocks[1:-1] or not any(self.blocks):
            raise ValueError(
                "blocks must be positive, but that the first and the last of several levels may be "
                f"0, got {self.blocks}"
            )
        if unknown := sorted(set(self.activations) - set(ACTIVATIONS)):
            raise ValueError(
                f"activations must be of {', '.join(ACTIVATIONS)}, got {', '.join(unknown)}"
            )
        for name in ("attention_at", "batch_norm_at"):
            if not set(getattr(self, name)) <= set(known):
                raise ValueError(f"{name} must be of the levels {known}, got {getattr(self, name)}")
        if any(level not in known or side < 1 or side % 2 == 0 for level, side in self.kernels):
            raise ValueError(
                f"kernels must be pairs of one of the levels {known} and an odd number, "
                f"got {self.kernels}"
            )
        if any(4 * before.width % after.width for before, after in pairwise(self.levels)):
            raise ValueError(
                "four times the width of a level must be a multiple of that of the next, "
                f"got widths {self.widths}"
            )

    @property
    def levels(self) -> list[Level]:
        """Those that there are, from the largest size to the smallest."""
        found = list[Level]()
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            kernels = tuple(side for level, side in self.kernels if level == 2**i)
            found.append(
                Level(
                    i,
                    width,
                    blocks,
                    2**i in self.attention_at,
                    kernels,
                    2**i in self.batch_norm_at,
                    self.activations[i] if self.activations else "silu",
                )
            )
        return found if self.blocks[0] else found[1:]


class Level(NamedTuple):
    number: int
    width: int
    blocks: int
    attention: bool
    kernels: tuple[int, ...]
    batch_norm: bool
    activation: Activation

    def block(self, head_dim: int) -> nn.Module:
        """One of its blocks, new."""
        if self.attention:
            return AttentionBlock(self.width, head_dim, self.kernels, self.batch_norm)
        return ResidualBlock(self.width, self.activation, self.batch_norm)


DECODER = HalfConfig(
    blocks=(0, 5, 10, 2, 2, 2),
    batch_norm_at=(1, 2, 4),
    activations=("relu", "relu", "relu", "silu", "silu", "silu"),
)
"""That of the published f32c32."""


@dataclass(frozen=True)
class DCAEConfig(TokenizerConfig):
    size: tuple[int, int] = (512, 512)
    """Height and width of the images in pixels, multiples of the downsampling factor."""
    latent: int = 32
    """Channels Z of a latent."""
    encoder: HalfConfig = field(default_factory=HalfConfig)
    """From pixels to the latent."""
    decoder: HalfConfig = field(default_factory=lambda: DECODER)
    """From the latent to pixels."""
    head_dim: int = 32
    """Numbers of an attention head."""
    last_activation: Activation = "relu"
    """Before the convolution that makes pixels."""
    scale: float = 1.0
    """Codes are latents times this: one over their standard deviation, which training measures."""

    def __post_init__(self) -> None:
        check(self, positive=("latent", "head_dim"), above_zero=("scale",))
        halves = self.encoder, self.decoder
        if len(self.encoder.widths) != len(self.decoder.widths):
            raise ValueError(
                "encoder and decoder must have as many levels, got widths "
                f"{self.encoder.widths}, {self.decoder.widths}"
            )
        if any(half.shortcut and half.widths[-1] % self.latent for half in halves):
            raise ValueError(
                f"the last of widths must be a multiple of latent {self.latent}, which shortcuts "
                f"ask for, got {self.encoder.widths[-1]}, {self.decoder.widths[-1]}"
            )
        for half in halves:
            attending = [level.width for level in half.levels if level.attention]
            if any(width < self.head_dim for width in attending):
                raise ValueError(
                    f"head_dim must be no more than the widths with attention, {attending}, got "
                    f"{self.head_dim}"
                )
        if any(side % self.factor for side in self.size):
            raise ValueError(f"size must be multiples of {self.factor} pixels, got {self.size}")

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return 2 ** (len(self.encoder.widths) - 1)

    @property
    def spec(self) -> TokenSpec:
        height, width = self.size
        grid = (height // self.factor, width // self.factor)
        return TokenSpec((grid,), channels=self.latent)


class Autoencoded(NamedTuple):
    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    latent: Tensor
    """(B, Z, h, w)."""


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, Z, h, w)."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        half, levels = config.encoder, config.encoder.levels
        first, last = levels[0], levels[-1]
        if half.blocks[0]:
            self.conv_in = nn.Conv2d(3, first.width, 3, padding=1)
        else:
            self.conv_in = Down(3, first.width, half.shuffle, shortcut=False)
        stages = [nn.Sequential() for _ in half.widths]
        for level in levels:
            stages[level.number].extend(level.block(config.head_dim) for _ in range(level.blocks))
        for level, below in pairwise(levels):
            stages[level.number].append(Down(level.width, below.width, half.shuffle))
        self.down_blocks = nn.ModuleList(stages)
        self.conv_out = nn.Conv2d(last.width, config.latent, 3, padding=1)
        self.shortcut = half.shortcut

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for stage in self.down_blocks:
            x = stage(x)
        z = self.conv_out(x)  # (B, Z, h, w)
        return z + averaged(x, z.shape[1]) if self.shortcut else z


class Decoder(nn.Module):
    """Latents (B, Z, h, w) to images (B, 3, H, W), not clamped."""

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        half, levels = config.decoder, config.decoder.levels
        first, last = levels[0], levels[-1]
        self.conv_in = nn.Conv2d(config.latent, last.width, 3, padding=1)
        stages = [nn.Sequential() for _ in half.widths]
        for level, below in pairwise(levels):
            stages[level.number].append(up(below.width, level.width, half.shuffle))
        for level in levels:
            stages[level.number].extend(level.block(config.head_dim) for _ in range(level.blocks))
        self.up_blocks = nn.ModuleList(stages)
        self.norm_out = ChannelRMSNorm(first.width)
        self.activation = ACTIVATIONS[config.last_activation]()
        if half.blocks[0]:
            self.conv_out = nn.Conv2d(first.width, 3, 3, padding=1)
        else:
            self.conv_out = up(first.width, 3, half.shuffle, shortcut=False)
        self.shortcut = half.shortcut

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        x = x + repeated(z, x.shape[1]) if self.shortcut else x
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(self.activation(self.norm_out(x)))


class DCAE(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, N, Z), row by row, and back."""

    any_grid = True
    scaled = True
    config: DCAEConfig

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @property
    def last_layer(self) -> Tensor:
        last = self.decoder.conv_out
        return last.weight if isinstance(last, nn.Conv2d) else last.get_parameter("conv.weight")

    def part(self, learns: Learns) -> list[nn.Module]:
        """What training moves; levels of the middle are the smallest, that of the head is the
        largest."""
        down = [stage for stage in self.encoder.down_blocks if any(stage.children())]
        ups = [stage for stage in self.decoder.up_blocks if any(stage.children())]
        if learns == "whole":
            return [self]
        if learns == "middle":
            return [down[-1], self.encoder.conv_out, self.decoder.conv_in, ups[-1]]
        return [ups[0], self.decoder.norm_out, self.decoder.conv_out]

    def latent(self, images: Tensor) -> Tensor:
        """(B, Z, h, w), as the encoder gives them."""
        return self.encoder(images)

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, Z, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(latent)

    def forward(self, images: Tensor) -> Autoencoded:
        latent = self.latent(images)
        return Autoencoded(self.render(latent), latent)

    def spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(images)
        return latent, torch.zeros_like(latent)

    def rescale(self, std: float) -> dict[str, float]:
        """Give codes the scale at which their standard deviation is one."""
        scale = 1 / std
        self.config = replace(self.config, scale=scale)
        return {"latent_std": std, "scale": scale}

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N, Z).

        Raises ValueError for images of another size than that of `spec`, or pixels that are no
        numbers.
        """
        check_images(images, self.size_of(spec))
        codes = self.latent(images) * self.config.scale
        return check_latent(codes.float().flatten(2).transpose(1, 2))

    def embedded(self, codes: Tensor) -> Tensor:
        return codes.transpose(1, 2).unflatten(2, self.spec.grids[0])

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N, Z) to images (B, 3, H, W), about [-1, 1], not clamped."""
        latent = codes.transpose(1, 2).unflatten(2, self.gives(spec).grids[0])
        return self.render(latent / self.config.scale)


def tiny() -> DCAEConfig:
    """A tokenizer of some thousand parameters, for tests."""
    encoder = HalfConfig((4, 8, 16), (1, 1, 1), attention_at=(4,), kernels=((4, 3),))
    decoder = HalfConfig((4, 8, 16), (0, 1, 1), attention_at=(4,), batch_norm_at=(1, 2))
    return DCAEConfig(
        size=(16, 16), latent=8, encoder=encoder, decoder=decoder, head_dim=8, scale=0.5
    )


def deep(widths: tuple[int, ...], latent: int, size: int, scale: float) -> DCAEConfig:
    """A published DC-AE, trained on ImageNet or on a mixture of photos: wide levels have two blocks
    with attention."""
    count = len(widths) - 3
    attention = tuple(2**i for i in range(3, len(widths)))
    encoder = HalfConfig(widths, (0, 4, 8) + count * (2,), attention)
    decoder = replace(
        DECODER,
        widths=widths,
        blocks=(0, 5, 10) + count * (2,),
        attention_at=attention,
        activations=3 * ("relu",) + count * ("silu",),
    )
    return DCAEConfig((size, size), latent, encoder, decoder, scale=scale)


def f32c32(size: int = 512) -> DCAEConfig:
    """The published f32c32: 16 x 16 codes of 32 numbers for 512 pixels, 323 M parameters."""
    return deep((128, 256, 512, 512, 1024, 1024), 32, size, 0.3189)


def f64c128(size: int = 512) -> DCAEConfig:
    """The published f64c128: 8 x 8 codes of 128 numbers for 512 pixels, 677 M parameters."""
    return deep((128, 256, 512, 512, 1024, 1024, 2048), 128, size, 0.2889)


def f128c512(size: int = 512) -> DCAEConfig:
    """The published f128c512: 4 x 4 codes of 512 numbers for 512 pixels, 1.12 B parameters."""
    return deep((128, 256, 512, 512, 1024, 1024, 2048, 2048), 512, size, 0.4883)


def sana(size: int = 1024) -> DCAEConfig:
    """That of Sana: 32 x 32 codes of 32 numbers for 1024 pixels, 312 M parameters. Every level has
    a norm over channels; attention sees its neighbourhood as well."""
    widths, kernels = (128, 256, 512, 512, 1024, 1024), ((8, 5), (16, 5), (32, 5))
    encoder = HalfConfig(widths, (2, 2, 2, 3, 3, 3), kernels=kernels, shuffle=False)
    decoder = replace(encoder, blocks=6 * (3,))
    return DCAEConfig((size, size), 32, encoder, decoder, scale=0.41407)

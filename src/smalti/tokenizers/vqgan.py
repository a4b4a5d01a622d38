"""LlamaGen's VQGAN: images to one grid of codes and back.

Sun et al. 2024 (arXiv:2406.06525) after Esser et al. 2020 (arXiv:2012.09841). Unusual beside the
first VQGAN: a codebook of only 8 dimensions, l2-normalised, and one more residual block per level
in the decoder. Levels of the decoder are stored in the order in which they run, deepest first.

Letters: B images, H, W image size, h, w code grid, Z latent channels, C codebook dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.nn.conv import Downsample, ResnetBlock, SpatialAttention, Upsample, group_norm
from smalti.tokenizers.quantize.vq import Quantized, VectorQuantizer


@dataclass(frozen=True)
class VQGANConfig:
    size: tuple[int, int] = (256, 256)
    """Height and width of the images in pixels, multiples of the downsampling factor."""
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    decoder_multipliers: tuple[int, ...] = ()
    """The same for the decoder's levels, as many; () = those of the encoder."""
    blocks: int = 2
    """Residual blocks per level in the encoder; the decoder has one more."""
    latent: int = 256
    """Channels Z between the convolutions and the codebook."""
    vocab: int = 16384
    """Codebook entries."""
    dim: int = 8
    """Codebook dimensions C."""
    l2_norm: bool = True
    """Normalise latents and codebook rows when they are compared and decoded."""
    attention: bool = True
    """Attention at the deepest level and in the middle."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patch", "channels", "blocks", "latent", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.vocab < 2:
            raise ValueError(f"vocab must be at least 2, got {self.vocab}")
        if not self.multipliers or min(self.multipliers + self.decoder_multipliers) < 1:
            raise ValueError(
                "multipliers must be one or more positive integers, "
                f"got {self.multipliers} and, of the decoder, {self.decoder_multipliers}"
            )
        if len(self.decoder_multipliers) not in (0, len(self.multipliers)):
            raise ValueError(
                f"decoder_multipliers must be as many as multipliers {self.multipliers}, "
                f"got {self.decoder_multipliers}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if any(s < 1 or s % self.factor for s in self.size):
            raise ValueError(f"size must be multiples of {self.factor} pixels, got {self.size}")

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> TokenSpec:
        h, w = self.size
        return TokenSpec(((h // self.factor, w // self.factor),), self.vocab)


def _middle(channels: int, config: VQGANConfig) -> nn.ModuleList:
    return nn.ModuleList(
        [
            ResnetBlock(channels, channels, config.dropout),
            SpatialAttention(channels) if config.attention else nn.Identity(),
            ResnetBlock(channels, channels, config.dropout),
        ]
    )


class Level(nn.Module):
    """Residual blocks of one resolution, with attention if asked for, then resampling."""

    def __init__(
        self, in_channels: int, channels: int, blocks: int, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * blocks
        self.res = nn.ModuleList(
            [ResnetBlock(a, b, dropout) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.attn = nn.ModuleList([SpatialAttention(channels) for _ in range(blocks * attention)])
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """Images (B, 3, H, W) to latents (B, Z, h, w)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        self.patch = config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        before = config.channels
        for i, width in enumerate(widths):
            attention = config.attention and i == last
            level = Level(before, width, config.blocks, attention, config.dropout)
            if i < last:
                level.downsample = Downsample(width)
            self.conv_blocks.append(level)
            before = width
        self.mid = _middle(before, config)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for level in self.conv_blocks:
            x = level(x)  # half the size, but for the last
        for block in self.mid:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents (B, Z, h, w) to images (B, 3, H, W)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        multipliers = config.decoder_multipliers or config.multipliers
        widths = [config.channels * m for m in reversed(multipliers)]
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], config)
        self.conv_blocks = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            attention = config.attention and i == 0
            level = Level(before, width, config.blocks + 1, attention, config.dropout)
            if i < len(widths) - 1:
                level.upsample = Upsample(width)
            self.conv_blocks.append(level)
            before = width
        self.patch = config.patch
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, 3 * config.patch**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in self.conv_blocks:
            x = level(x)  # twice the size, but for the last
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.patch)


class Reconstruction(NamedTuple):
    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    latent: Tensor
    """(B, C, h, w) before quantization."""
    quantized: Quantized


def check_images(images: Tensor, size: tuple[int, int]) -> None:
    """Raise ValueError unless images are (B, 3, H, W) of this height and width."""
    if tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"images must be (B, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}")


class VQGAN(nn.Module):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.vocab, config.dim, config.l2_norm)
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance an adaptive GAN loss."""
        return self.decoder.conv_out.weight

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        return self.quant_conv(self.encoder(images))

    def render(self, latent: Tensor) -> Tensor:
        """Codebook vectors (B, C, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, C, h, w)
        quantized = self.quantize(z, entropy)
        return Reconstruction(self.render(quantized.latent.to(z.dtype)), z, quantized)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to codes (B, h * w). Raises ValueError for another image size."""
        check_images(images, self.config.size)
        return self.quantize.encode(self.latent(images)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h * w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        grid = codes.unflatten(1, self.spec.grids[0])
        return self.render(self.quantize.decode(grid))


def tiny() -> VQGANConfig:
    """A model of a few thousand parameters, for tests."""
    return VQGANConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, latent=16, vocab=32, dim=4
    )


def vq16(size: int = 256) -> VQGANConfig:
    """The published VQ-16: 16 x 16 codes for 256 pixels, 71.9 M parameters."""
    return VQGANConfig(size=(size, size))


def vq8(size: int = 256) -> VQGANConfig:
    """The published VQ-8: 32 x 32 codes for 256 pixels, 70.1 M parameters."""
    return VQGANConfig(size=(size, size), multipliers=(1, 2, 2, 4))

"""The convolutions of DualViTok: an encoder of pixels, and a decoder that both codebooks guide.

Huang et al. 2025, "ILLUME+" (arXiv:2504.01934), after MoVQGAN (`nn/guided.py`) and DC-AE (Chen, Cai
et al. 2024, arXiv:2410.10733).

Unusual: where the size is halved, pixels become channels (space to depth), whose means are added to
what a convolution makes of them; where it is doubled, channels become pixels, and are repeated
before. So is it between the latents and the features of the deepest level.

B images, H, W image size, h, w code grid, Z latent channels, C channels of features, G channels of
what stands for codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.config import check
from smalti.nn import autoencoder
from smalti.nn.conv import Upsample
from smalti.nn.guided import GuidedAttention, GuidedBlock, GuidedNorm, guided_levels


@dataclass(frozen=True)
class PixelConfig:
    """Levels of convolutions, from full size on; the defaults are those of the encoder."""

    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: int = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    attends: tuple[int, ...] = (4,)
    """Levels with attention; the middle always has it."""
    latent: int = 32
    """Channels Z between the convolutions and the codes."""
    shortcuts: bool = True
    """Whether pixels become channels, and channels pixels, where the size changes."""
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published."""
    dropout: float = 0.0
    """Dropout inside the residual blocks, of the encoder."""

    def __post_init__(self) -> None:
        check(self, positive=("channels", "blocks", "latent", "patch"), rates=("dropout",))
        last = len(self.multipliers) - 1
        if last < 0 or min(self.multipliers) < 1:
            raise ValueError(
                f"multipliers must be one or more positive integers, got {self.multipliers}"
            )
        if any(not 0 <= level <= last for level in self.attends):
            raise ValueError(f"attends must be levels from 0 to {last}, got {self.attends}")
        if self.shortcuts and self.channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {self.channels}")
        if self.shortcuts and self.channels * self.multipliers[-1] % self.latent:
            raise ValueError(
                "the width of the last level must be a multiple of latent, got "
                f"{self.channels * self.multipliers[-1]}, {self.latent}"
            )

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * m for m in self.multipliers]

    # what `nn.autoencoder` asks beside

    @property
    def size(self) -> tuple[int, int]:
        return (self.factor, self.factor)

    @property
    def decoder_multipliers(self) -> tuple[int, ...]:
        return ()

    @property
    def attention(self) -> bool:
        return True


class Gather(nn.Module):
    """Features (B, C, 2h, 2w) to (B, C, h, w): 2 x 2 pixels become channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.conv(x), 2) + averaged(F.pixel_unshuffle(x, 2), x.shape[1])


class Spread(nn.Module):
    """Features (B, C, h, w) to (B, C, 2h, 2w): channels become 2 x 2 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2) + F.pixel_shuffle(x.repeat_interleave(4, 1), 2)


def averaged(x: Tensor, channels: int) -> Tensor:
    """Features (B, n C, h, w) as means of n neighbours, (B, C, h, w)."""
    return x.unflatten(1, (channels, -1)).mean(2)


class PixelEncoder(autoencoder.Encoder):
    """Images (B, 3, H, W) to latents (B, Z, h, w)."""

    def __init__(self, config: PixelConfig) -> None:
        super().__init__(config, attention=config.attends)
        self.shortcuts = config.shortcuts
        if config.shortcuts:
            for level, width in zip(self.conv_blocks[:-1], config.widths, strict=False):
                level.downsample = Gather(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(x, self.patch))
        for level in (*self.conv_blocks, *self.mid):
            x = level(x)  # half the size, but for the last ones
        x = F.silu(self.norm_out(x))
        z = self.conv_out(x)
        return z + averaged(x, z.shape[1]) if self.shortcuts else z


class PixelDecoder(nn.Module):
    """Latents (B, Z, h, w), and what stands for codes as a guide (B, G, h, w), to images
    (B, 3, H, W), not clamped."""

    def __init__(self, config: PixelConfig, guide: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        last, enlarge = len(widths) - 1, Spread if config.shortcuts else Upsample
        self.shortcuts, self.patch = config.shortcuts, config.patch
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid = nn.ModuleList([GuidedBlock(widths[0], widths[0], guide) for _ in range(2)])
        self.mid.insert(1, GuidedAttention(widths[0], guide))
        attends = [last - level for level in config.attends]
        self.up = guided_levels(widths, guide, config.blocks + 1, attends, enlarge)
        self.norm_out = GuidedNorm(widths[-1], guide)
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)

    def forward(self, z: Tensor, guide: Tensor) -> Tensor:
        x = self.conv_in(z)
        if self.shortcuts:
            x = x + z.repeat_interleave(x.shape[1] // z.shape[1], 1)
        for block in (*self.mid, *self.up):
            x = block(x, guide)  # of the last ones each but one doubles the size
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x, guide))), self.patch)

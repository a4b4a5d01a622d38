"""MaskBit's tokenizer: MaskGIT's VQGAN whose codes are the signs of its latents, without a table.

Weber et al. 2024, "MaskBit: Embedding-free Image Generation via Bit Tokens" (arXiv:2409.16211),
commit 5ea3d73 of markweberdev/maskbit. Unusual beside the VQGAN of `maskgit_vqgan.py`, of which it
has the residual blocks and the decoder: the encoder halves the size by convolutions, and a code is
K bits, each of them 1 where its channel of the latent is above 0. Images are in [0, 1] inside:
every public method takes and gives [-1, 1].

Letters: B images, H, W image size, h, w code grid, K bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.conv import Downsample, group_norm
from smalti.tokenizers.maskgit_vqgan import Decoder, Level, blocks
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer, check_levels
from smalti.tokenizers.quantize.lfq import LookupFree


@dataclass(frozen=True)
class MaskBitVQGANConfig(GridConfig):
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: int = 2
    """Residual blocks per level, and in the middle."""
    decoder_blocks: int = 0
    """The same of the decoder; 0: as many."""
    strided: bool = True
    """Halve the size by a convolution with stride 2; False: by averages of 2 x 2 pixels."""
    bits: int = 14
    """Bits K of a code, and channels of the latents."""
    temperature: float = 0.01
    """Of the soft codes whose entropy is a loss."""
    entropy_rate: float = 1.0
    """Weight of the entropy of the mean code beside that of each position."""
    entropy_group: int = 18
    """The entropy loss is that of so many bits at a time, which takes 2 to that many numbers."""

    def __post_init__(self) -> None:
        check(
            self,
            pairs=("size",),
            positive=("channels", "blocks", "bits", "entropy_group"),
            counts=("decoder_blocks",),
            above_zero=("temperature",),
            amounts=("entropy_rate",),
        )
        check_levels(self)

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def levels(self) -> list[int]:
        """The width of each level."""
        return [self.channels * m for m in self.multipliers]

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), 2, channels=self.bits)


class Encoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to latents (B, K, h, w)."""

    def __init__(self, config: MaskBitVQGANConfig) -> None:
        super().__init__()
        levels = config.levels
        widths = [config.channels, *levels]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            [Level(a, b, config.blocks) for a, b in zip(widths, levels, strict=False)]
        )
        self.halve = nn.ModuleList(
            [Downsample(a) if config.strided else nn.AvgPool2d(2) for a in levels[:-1]]
        )
        self.mid = blocks(levels[-1], levels[-1], config.blocks)
        self.norm_out = group_norm(levels[-1])
        self.conv_out = nn.Conv2d(levels[-1], config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, halve in zip(self.down, [*self.halve, nn.Identity()], strict=True):
            x = halve(level(x))  # half the size, but for the last
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class MaskBitVQGAN(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to bits (B, h * w, K), row by row, and back."""

    def __init__(self, config: MaskBitVQGANConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        count = config.decoder_blocks or config.blocks
        self.decoder = Decoder(config.bits, config.levels, count)
        self.quantize = LookupFree(
            config.bits,
            config.entropy_group,
            config.temperature,
            config.entropy_rate,
            clamped=True,
        )

    def latent(self, images: Tensor) -> Tensor:
        """(B, K, h, w) before quantization."""
        return self.encoder((images + 1) / 2)

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, K, h, w) of -1 and 1 to images (B, 3, H, W), not clamped."""
        return self.decoder(latent) * 2 - 1


def tiny() -> MaskBitVQGANConfig:
    """A model of a few thousand parameters, for tests."""
    return MaskBitVQGANConfig(size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, bits=6)


def f16(bits: int = 14, size: int = 256) -> MaskBitVQGANConfig:
    """The published ones, of 10, 12, 14, 16 or 18 bits: 16 x 16 codes for 256 pixels."""
    return MaskBitVQGANConfig(size=(size, size), bits=bits)

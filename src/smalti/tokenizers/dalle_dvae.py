"""DALL-E's dVAE: a picture as the likeliest of V codes at each cell of a grid.

Ramesh, Pavlov, Goh, Gray, Voss, Radford, Chen, Sutskever 2021, "Zero-Shot Text-to-Image Generation"
(arXiv:2102.12092).

Unusual: the encoder gives logits of all codes, and no distance is measured. In training a cell is a
mixture of codes, drawn by a softmax of logits and Gumbel numbers that grows sharper with time. The
decoder gives the two numbers of a logit-Laplace distribution of each colour, whose values lie
between 0 and 1 and are never equal to either, so pixels are squeezed into [0.1, 0.9]. There is no
norm; what a block adds to its input is small.

Letters: B images, H, W image size, h, w code grid, V codes, C channels of what stands for a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer, check_levels
from smalti.tokenizers.quantize.vq import Quantized, as_map

MARGIN = 0.1
"""How far the values of pixels are kept from 0 and from 1."""


@dataclass(frozen=True)
class DalleDVAEConfig(GridConfig):
    channels: int = 256
    """Width of the encoder's first level."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    blocks: int = 2
    """Residual blocks per level of the encoder."""
    decoder_channels: int = 0
    """Width of the decoder's last level; 0: that of the encoder's first."""
    decoder_blocks: int = 0
    """Residual blocks per level of the decoder; 0: as many as the encoder has."""
    dim: int = 128
    """Channels C of what stands for a code."""
    vocab: int = 8192
    """Codes V."""

    def __post_init__(self) -> None:
        check(
            self,
            several=("vocab",),
            positive=("channels", "blocks", "dim"),
            counts=("decoder_channels", "decoder_blocks"),
        )
        check_levels(self)

    @property
    def factor(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)


class Block(nn.Module):
    """skip(x) + gain * (four convolutions, a ReLU before each), through a quarter of the width."""

    def __init__(self, width: int, out: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        inner = max(out // 4, 1)
        widths = (width, inner, inner, inner, out)
        self.gain = gain
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
                for i, kernel in enumerate(kernels)
            ]
        )
        self.skip = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in self.convs:
            h = conv(h.relu())
        return self.skip(x) + self.gain * h


def levels_of(
    first: int, widths: list[int], blocks: int, kernels: tuple[int, ...]
) -> nn.ModuleList:
    """Levels of so many blocks and of these widths, behind a map of width `first`."""
    gain, before = (len(widths) * blocks) ** -2, [first, *widths]
    return nn.ModuleList(
        [
            nn.Sequential(
                *(Block(before[k] if i == 0 else w, w, kernels, gain) for i in range(blocks))
            )
            for k, w in enumerate(widths)
        ]
    )


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) in [0.1, 0.9] to logits (B, V, h, w); levels end in a pooling of the
    largest of four."""

    def __init__(self, config: DalleDVAEConfig) -> None:
        super().__init__()
        c = config
        widths = [c.channels * m for m in c.multipliers]
        self.conv_in = nn.Conv2d(3, c.channels, 7, padding=3)
        self.levels = levels_of(c.channels, widths, c.blocks, (3, 3, 3, 1))
        self.conv_out = nn.Conv2d(widths[-1], c.vocab, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for k, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2) if k else x)
        return self.conv_out(x.relu())


class Decoder(nn.Module):
    """What stands for codes (B, C, h, w) to mean and logarithm of the width of each colour's
    logit-Laplace distribution, (B, 6, H, W); pixels are repeated between levels."""

    def __init__(self, config: DalleDVAEConfig) -> None:
        super().__init__()
        c = config
        width, blocks = c.decoder_channels or c.channels, c.decoder_blocks or c.blocks
        widths = [width * m for m in reversed(c.multipliers)]
        self.levels = levels_of(c.dim, widths, blocks, (1, 3, 3, 3))
        self.conv_out = nn.Conv2d(widths[-1], 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        for k, level in enumerate(self.levels):
            x = level(F.interpolate(x, scale_factor=2.0) if k else x)
        return self.conv_out(x.relu())


class Likeliest(nn.Module):
    """Logits (B, V, h, w) to the codes with the largest; the first one on ties.

    What stands for a code is a row of the decoder's first layer, and what stands for a mixture of
    codes is that of their rows.
    """

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)

    def encode(self, logits: Tensor) -> Tensor:
        """Codes (B, h, w) of logits (B, V, h, w)."""
        return logits.argmax(1)

    def decode(self, codes: Tensor) -> Tensor:
        """What stands for codes (B, h, w), (B, C, h, w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()

    def mixed(self, shares: Tensor) -> Tensor:
        """What stands for shares of codes (B, V, h, w), (B, C, h, w)."""
        rows = shares.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, V)
        return as_map(rows @ self.embedding.weight.to(rows.dtype), shares)

    def forward(self, logits: Tensor, entropy: bool = False) -> Quantized:
        """The likeliest codes, whose gradient goes to logits as that of their softmax. Raises
        ValueError for an entropy loss, which there is none of."""
        if entropy:
            raise ValueError("the dVAE has no entropy loss: entropy must be 0")
        codes, soft = self.encode(logits), logits.float().softmax(1)
        passed = self.mixed(soft - soft.detach())  # zeros
        return Quantized(self.decode(codes) + passed, codes, {})


class Relaxed(NamedTuple):
    """A picture through a mixture of codes, as in training."""

    logits: Tensor
    """(B, V, h, w) of the codes, float32."""
    stats: Tensor
    """(B, 6, H, W) means and logarithms of widths of the colours, float32."""


class DalleDVAE(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    quantize: Likeliest

    def __init__(self, config: DalleDVAEConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Likeliest(config.vocab, config.dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal numbers that keep the variance of what a convolution sums, and zeros for biases;
        of what stands for codes one row is summed, so it has variance 1."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.quantize.embedding.weight, std=1.0)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    def latent(self, images: Tensor) -> Tensor:
        """Logits of the codes, (B, V, h, w)."""
        return self.encoder(self.squeezed(images))

    def render(self, latent: Tensor) -> Tensor:
        return self.shown(self.decoder(latent))

    def squeezed(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the values that are learned, in [0.1, 0.9]."""
        return squeezed((images + 1) / 2)

    def shown(self, stats: Tensor) -> Tensor:
        """The likeliest colours, (B, 3, H, W) in [-1, 1], of what the decoder gives,
        (B, 6, H, W)."""
        return 2 * unsqueezed(stats[:, :3].sigmoid()) - 1

    def mixed(self, images: Tensor, temperature: float) -> Relaxed:
        """Images through mixtures of codes: softmaxes, by this temperature, of logits and Gumbel
        numbers, which are torch's."""
        logits = self.latent(images).float()
        shares = F.gumbel_softmax(logits, temperature, dim=1)  # (B, V, h, w)
        return Relaxed(logits, self.decoder(self.quantize.mixed(shares)).float())


def squeezed(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as values in [0.1, 0.9]."""
    return (1 - 2 * MARGIN) * pixels + MARGIN


def unsqueezed(values: Tensor) -> Tensor:
    """Values in [0, 1] as pixels in [0, 1]: the other way, cut off at either end."""
    return ((values - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


def tiny() -> DalleDVAEConfig:
    """A tokenizer of a few thousand parameters, for tests."""
    return DalleDVAEConfig(size=(16, 16), channels=4, multipliers=(1, 2), blocks=1, dim=6, vocab=32)

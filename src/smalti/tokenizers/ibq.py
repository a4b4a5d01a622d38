"""IBQ: a VQGAN whose table is large, of many dimensions, and all in use.

Shi, Luo, Ge, Yang, Shan, Wang 2024, "Taming Scalable Visual Tokenizer for Autoregressive Image
Generation" (arXiv:2412.02692).

Unusual: 2^18 codes of 256 dimensions, neither normalised nor few, because every code learns from
every latent (`quantize.ibq`). Its convolutions are those of the first VQGAN (`nn.autoencoder`),
with four blocks per level and attention on the deepest level of encoder and decoder alike.

Letters: B images, H, W image size, h, w code grid, Z latent channels, C codebook dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.base import (
    ImageTokenizer,
    Reconstruction,
    TokenizerConfig,
    check_images,
    check_latent,
)
from smalti.tokenizers.quantize.ibq import IndexPropagation


@dataclass(frozen=True)
class IBQTokenizerConfig(TokenizerConfig):
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    decoder_multipliers: tuple[int, ...] = ()
    """The same for the decoder's levels, as many; () = those of the encoder."""
    blocks: int = 4
    """Residual blocks per level in the encoder; the decoder has one more."""
    latent: int = 256
    """Channels Z between the convolutions and the codebook."""
    vocab: int = 16384
    """Codebook entries."""
    dim: int = 256
    """Codebook dimensions C."""
    temperature: float = 0.01
    """Of the softmax whose entropy the entropy loss takes."""
    attention: bool = True
    """Attention in the middle of encoder and decoder, and at the levels of `attention_at`."""
    attention_at: tuple[int, ...] = (16,)
    """Pixels per cell, along one side, of the levels with attention."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        autoencoder.check_shape(self)
        check(self, several=("vocab",), positive=("dim",), above_zero=("temperature",))

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return autoencoder.factor(self)

    @property
    def spec(self) -> TokenSpec:
        h, w = self.size
        return TokenSpec(((h // self.factor, w // self.factor),), self.vocab)

    @property
    def attends(self) -> list[int]:
        """The levels with attention, from full size on."""
        cells = [self.patch * 2**i for i in range(len(self.multipliers))]
        found = [i for i, cell in enumerate(cells) if cell in self.attention_at]
        return found if self.attention else []


class IBQTokenizer(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

    any_grid = True

    def __init__(self, config: IBQTokenizerConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config, attention=config.attends)
        self.decoder = Decoder(config, config.attends)
        self.quantize = IndexPropagation(config.vocab, config.dim, config.temperature)
        self.quant_conv = nn.Conv2d(config.latent, config.dim, 1)
        self.post_quant_conv = nn.Conv2d(config.dim, config.latent, 1)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

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

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, h * w). Raises ValueError for images of another size
        than that of `spec`."""
        check_images(images, self.size_of(spec))
        return self.quantize.encode(check_latent(self.latent(images))).flatten(1)

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, h * w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        grid = codes.unflatten(1, self.gives(spec).grids[0])  # (B, h, w)
        return self.render(self.quantize.decode(grid))


def tiny() -> IBQTokenizerConfig:
    """A model of a few thousand parameters, for tests."""
    return IBQTokenizerConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        latent=16,
        vocab=32,
        dim=4,
        attention_at=(4,),
    )


def f16(vocab: int = 16384, size: int = 256) -> IBQTokenizerConfig:
    """The published ones, of 1024, 8192, 16384 and 262144 codes: 16 x 16 codes for 256 pixels."""
    return IBQTokenizerConfig(size=(size, size), vocab=vocab)

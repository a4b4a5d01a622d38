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

from torch import nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.one_grid import ConvConfig, ConvTokenizer
from smalti.tokenizers.quantize.ibq import IndexPropagation


@dataclass(frozen=True)
class IBQTokenizerConfig(ConvConfig):
    blocks: int = 4
    """Residual blocks per level in the encoder; the decoder has one more."""
    vocab: int = 16384
    """Codebook entries."""
    dim: int = 256
    """Codebook dimensions C."""
    temperature: float = 0.01
    """Of the softmax whose entropy the entropy loss takes."""
    attention_at: tuple[int, ...] = (16,)
    """Pixels per cell, along one side, of the levels with attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), positive=("dim",), above_zero=("temperature",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab)

    @property
    def attends(self) -> list[int]:
        """The levels with attention, from full size on."""
        cells = [self.patch * 2**i for i in range(len(self.multipliers))]
        found = [i for i, cell in enumerate(cells) if cell in self.attention_at]
        return found if self.attention else []


class IBQTokenizer(ConvTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w), row by row, and back."""

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

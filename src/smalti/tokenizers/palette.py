"""A palette: each pixel is one code, the nearest of a few hundred colours.

Chen, Radford, Child, Wu, Jun, Luan, Sutskever 2020, "Generative Pretraining from Pixels" (ICML
2020), whose 512 colours are k-means centres of pixels. Unusual: there is no network. A picture of
32 x 32 pixels has 1,024 codes of 9 bits, where three bytes a pixel would be 3,072 of 8.

Letters: B images, H, W image size, V colours.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.tokenizers.one_grid import GridConfig, GridTokenizer
from smalti.tokenizers.quantize.vq import VectorQuantizer


@dataclass(frozen=True)
class PaletteConfig(GridConfig):
    vocab: int = 512
    """Colours V."""

    def __post_init__(self) -> None:
        check(self, pairs=("size",), several=("vocab",))

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return 1

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.size,), self.vocab)


class Palette(GridTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, H * W), row by row, and back."""

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.quantize = VectorQuantizer(config.vocab, dim=3, l2_norm=False)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """The pixels themselves, (B, 3, H, W)."""
        return images

    def render(self, latent: Tensor) -> Tensor:
        """The colours themselves, (B, 3, H, W)."""
        return latent


def tiny() -> PaletteConfig:
    """A palette of a few colours, for tests."""
    return PaletteConfig(size=(8, 8), vocab=32)

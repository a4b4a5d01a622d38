"""VILA-U's tower: images to stacks of codes of what a SigLIP sees, and back to images.

Wu et al. 2024, "VILA-U: a Unified Foundation Model Integrating Visual Understanding and Generation"
(arXiv:2409.04429).

Unusual: the encoder is the tower that sees of a SigLIP, up to its last block but one. What it sees
is quantized, depth by depth (`quantize.residual`), and drawn by the decoder of the first VQGAN; the
rest of the tower reads the same codes, and is compared with what a text says (`features`). Where
the decoder makes another size of the grid, what stands for codes is resized before.

Letters: B images, H, W image size, h, w code grid, N = h * w positions, D depths, C width of the
tower and of the codes, Z latent channels of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder
from smalti.nn.vision import TowerConfig, VisionTower
from smalti.tokenizers.one_grid import ConvConfig, StackTokenizer
from smalti.tokenizers.quantize.residual import ResidualQuantizer

SIGLIP_LARGE = TowerConfig(24, 16, 1024, 4096)
"""The tower that sees of SigLIP-L, of pictures of 256 pixels."""
SIGLIP_SO = TowerConfig(27, 16, 1152, 4304)
"""That of SigLIP-SO400M, of pictures of 384 pixels."""


@dataclass(frozen=True)
class VILAUConfig(ConvConfig):
    """The fields of the first VQGAN are those of the decoder."""

    vision: TowerConfig = field(default_factory=lambda: SIGLIP_LARGE)
    """The tower; its width C is that of the codes."""
    cell: int = 16
    """Image pixels of each side that the tower sees as one."""
    vocab: int = 16_384
    """Codes of a table."""
    depth: int = 4
    """Codes at each position, D."""
    shared: bool = True
    """One table for all depths; if not, each has its own."""
    deep_attention: bool = True
    """With `attention`, whether the deepest level has it; False: the middle alone."""
    understands: bool = True
    """Whether the rest of the tower is there, for features that texts are compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, several=("vocab",), positive=("cell", "depth"))
        if self.decoder_multipliers:
            raise ValueError("a decoder without an encoder has no decoder_multipliers")
        if min(self.size) < self.cell:
            raise ValueError(f"size must be at least a cell of {self.cell}, got {self.size}")
        if self.vision.layers < 2:
            raise ValueError(f"vision.layers must be at least 2, got {self.vision.layers}")

    @property
    def factor(self) -> int:
        """Image pixels per position, along one side; a rest at the border is not seen."""
        return self.cell

    @property
    def drawn(self) -> tuple[int, int]:
        """Height and width of what the decoder makes an image of."""
        height, width = self.size
        factor = autoencoder.factor(self)
        return height // factor, width // factor

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), self.vocab, self.depth)


class Seen(NamedTuple):
    """What the tower reads of a configuration."""

    patch: int
    patches: int
    vision: TowerConfig
    features: int
    kind: str = "siglip"


class VILAU(StackTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, h * w, D), row by row, and
    back."""

    any_grid = False

    def __init__(self, config: VILAUConfig) -> None:
        super().__init__()
        self.config, self.spec, width = config, config.spec, config.vision.dim
        seen = Seen(config.cell, config.spec.positions, config.vision, width)
        self.tower = VisionTower(seen)
        if not config.understands:
            del self.tower.layers[-1]
            del self.tower.norm, self.tower.head
        self.quantize = ResidualQuantizer(config.vocab, width, config.depth, config.shared)
        self.post_quant_conv = nn.Conv2d(width, config.latent, 1)
        deepest = len(config.multipliers) - 1
        self.decoder = Decoder(config, [deepest] * (config.attention and config.deep_attention))
        nn.init.normal_(self.tower.positions, std=0.02)

    @property
    def understands(self) -> int:
        return self.config.vision.dim if self.config.understands else 0

    def size_of(self, spec: TokenSpec | None) -> tuple[int, int]:
        self.gives(spec)
        return self.size

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        x = self.tower.patches(images)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.tower.positions  # (B, N, C)
        for layer in self.tower.layers[: self.config.vision.layers - 1]:
            x = layer(x)
        return x.transpose(1, 2).unflatten(2, grid).contiguous()

    def render(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to images (B, 3, H, W), not clamped."""
        if latent.shape[2:] != self.config.drawn:
            latent = F.interpolate(latent, self.config.drawn, mode="bilinear")
        return self.decoder(self.post_quant_conv(latent))

    def features(self, latent: Tensor) -> Tensor:
        """What stands for codes, (B, C, h, w), to what texts are compared with, (B, C).

        Raises ValueError if the tokenizer has none.
        """
        if not self.understands:
            raise ValueError("this tokenizer has no features of texts: it does not understand")
        x = self.tower.layers[-1](latent.flatten(2).transpose(1, 2))  # (B, N, C)
        return self.tower.whole(self.tower.norm(x))


def tiny() -> VILAUConfig:
    """A tokenizer of a few thousand parameters, for tests."""
    return VILAUConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        latent=16,
        vision=TowerConfig(3, 2, 16, 32),
        cell=4,
        vocab=32,
        depth=3,
        understands=False,
    )


def large() -> VILAUConfig:
    """The published one of 256 pixels: 16 x 16 positions of four codes."""
    return VILAUConfig()


def so400m() -> VILAUConfig:
    """The published one of 384 pixels: 27 x 27 positions of sixteen codes."""
    return VILAUConfig(size=(384, 384), vision=SIGLIP_SO, cell=14, depth=16)

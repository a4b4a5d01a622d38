"""The eye of ILLUME+: features of a ViT and of an encoder of pixels, as they are before they become
codes (`tokenizers/dual.py`).

Huang, Wang, Yang et al. 2025 (arXiv:2504.01934). B pictures, F features of the ViT, Z channels of
the encoder, E the larger of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.arguments import by
from smalti.codes import TokenSpec
from smalti.config import check
from smalti.models.eye import Eye, Sight
from smalti.nn.finite import require_finite
from smalti.nn.frozen_vit import FrozenViT, FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.tokenizers.base import check_images
from smalti.tokenizers.dual_pixels import PixelConfig, PixelEncoder


@dataclass(frozen=True)
class DualEyeConfig:
    size: tuple[int, int] = (256, 256)
    """Height and width of the pictures in pixels."""
    vit: FrozenViTConfig = field(default_factory=FrozenViTConfig)
    """What sees the first level."""
    encoder: PixelConfig = field(default_factory=PixelConfig)
    """The convolutions of the second."""

    def __post_init__(self) -> None:
        check(self, pairs=("size",))
        if any(side % self.encoder.factor for side in self.size):
            raise ValueError(
                f"size must be multiples of {self.encoder.factor} pixels, got {by(self.size)}"
            )
        self.vit.grid(self.size)

    @property
    def sight(self) -> Sight:
        """Vectors of both levels, one behind the other, of one width."""
        (height, width), factor = self.size, self.encoder.factor
        grids = (self.vit.grid(self.size), (height // factor, width // factor))
        return Sight(TokenSpec(grids, channels=max(self.vit.features, self.encoder.latent)))


class DualEye(Eye):
    """Pictures to features (B, N, E) of both levels, filled up with zeros to one width."""

    def __init__(self, config: DualEyeConfig) -> None:
        super().__init__()
        self.config, self.sight = config, config.sight
        self.vit, self.encoder = FrozenViT(config.vit), PixelEncoder(config.encoder)

    @property
    def size(self) -> tuple[int, int]:
        return self.config.size

    def encode(self, images: Tensor) -> Tensor:
        check_images(images, self.size)
        levels = [x.flatten(2).mT for x in (self.vit(images), self.encoder(images))]
        width = self.sight.spec.channels
        whole = torch.cat([F.pad(x, (0, width - x.shape[-1])) for x in levels], 1)
        return require_finite(whole, "features of the eye").float()


def tiny() -> DualEyeConfig:
    """An eye of some thousand parameters, for tests."""
    tower = TowerConfig(1, 2, 8, 16, "sigmoid")
    return DualEyeConfig(
        size=(8, 8),
        vit=FrozenViTConfig(patch=2, merge=2, features=12, vision=tower),
        encoder=PixelConfig(channels=8, multipliers=(1, 2), blocks=1, attends=(1,), latent=4),
    )

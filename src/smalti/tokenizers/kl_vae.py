"""The KL-VAE: images to continuous codes and back, as MAR, Fluid and latent diffusion have it.

Rombach et al. 2021 (arXiv:2112.10752), trained again for MAR (Li et al. 2024, arXiv:2406.11838).
Unusual beside a VQGAN: nothing is quantized. The encoder gives a normal distribution for each
latent, whose mean is its code; generators learn from samples of it. Codes are latents times
`scale`, which is measured after training, so that their standard deviation is about one. The
decoder has no attention but in its middle.

Letters: B images, H, W image size, h, w latent size, Z latent channels, g neighbours in a row that
make one code, N = h / g * w / g codes, C = Z * g * g their channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.devices.float64 import wide
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder, Encoder, levels_at
from smalti.tokenizers.base import ImageTokenizer, TokenizerConfig, check_images, check_latent


@dataclass(frozen=True)
class KLVAEConfig(TokenizerConfig):
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
    latent: int = 16
    """Latent channels Z."""
    group: int = 1
    """Neighbours g of each side that make one code: its channels are Z x g x g, in this order."""
    scale: float = 1.0
    """Codes are latents times this: one over their standard deviation, which training measures."""
    attention: bool = True
    """Attention in the middle of encoder and decoder, and at the levels of `attention_at`."""
    attention_at: tuple[int, ...] = (16,)
    """Pixels per cell, along one side, of the encoder's levels with attention."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        autoencoder.check_shape(self)
        check(self, positive=("group",), above_zero=("scale",))
        if any(s % self.factor for s in self.size):
            raise ValueError(
                f"size must be multiples of {self.factor} pixels, which make one code, "
                f"got {self.size}"
            )

    @property
    def factor(self) -> int:
        """Image pixels per code, along one side."""
        return autoencoder.factor(self) * self.group

    @property
    def spec(self) -> TokenSpec:
        h, w = self.size
        grid = (h // self.factor, w // self.factor)
        return TokenSpec((grid,), channels=self.latent * self.group**2)


class Posterior(NamedTuple):
    """A normal distribution of each latent."""

    mean: Tensor
    """(B, Z, h, w)."""
    logvar: Tensor
    """(B, Z, h, w), in [-30, 20]."""

    @property
    def std(self) -> Tensor:
        return (0.5 * self.logvar).exp()

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, Z, h, w) of standard normal noise of this shape."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """Divergence of each image's latents from the standard normal distribution: (B,) nats."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class Autoencoded(NamedTuple):
    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped, of a sample of the posterior."""
    posterior: Posterior


class KLVAE(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, N, C), row by row, and back."""

    any_grid = True
    distributions = True
    scaled = True
    config: KLVAEConfig

    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        levels = levels_at(config, config.attention_at)
        self.encoder = Encoder(config, 2 * config.latent, levels)
        self.decoder = Decoder(config, attention=())
        self.quant_conv = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 1)

    def posterior(self, images: Tensor) -> Posterior:
        moments = self.quant_conv(self.encoder(images)).float()  # (B, 2Z, h, w)
        mean, logvar = moments.chunk(2, 1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, Z, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, images: Tensor) -> Autoencoded:
        posterior = self.posterior(images)
        latent = posterior.sample(torch.randn_like(posterior.mean))  # (B, Z, h, w)
        return Autoencoded(self.render(latent), posterior)

    def spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.posterior(images)
        return posterior.mean, wide(posterior.logvar).exp()

    def rescale(self, std: float) -> dict[str, float]:
        """Give codes the scale at which their standard deviation is one."""
        scale = 1 / std
        self.config = replace(self.config, scale=scale)
        return {"latent_std": std, "scale": scale}

    def codes(self, latent: Tensor) -> Tensor:
        """Latents (B, Z, h, w) as codes (B, N, C): scaled and grouped."""
        grouped = F.pixel_unshuffle(latent * self.config.scale, self.config.group)
        return grouped.flatten(2).transpose(1, 2)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N, C), the means of their distributions.

        Raises ValueError for images of another size than that of `spec`, or pixels that are no
        numbers.
        """
        return self.moments(images, spec)[..., : self.spec.channels]

    def moments(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to means and standard deviations of codes, (B, N, 2C).

        Raises ValueError as `encode` does.
        """
        check_images(images, self.size_of(spec))
        posterior = self.posterior(images)
        moments = torch.cat((self.codes(posterior.mean), self.codes(posterior.std)), -1)
        return check_latent(moments)

    def embedded(self, codes: Tensor) -> Tensor:
        return codes.transpose(1, 2).unflatten(2, self.spec.grids[0])

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N, C) to images (B, 3, H, W), about [-1, 1], not clamped."""
        grid = self.gives(spec).grids[0]
        latent = codes.transpose(1, 2).unflatten(2, grid)  # (B, C, h / g, w / g)
        return self.render(F.pixel_shuffle(latent, self.config.group) / self.config.scale)


def tiny() -> KLVAEConfig:
    """A model of a few thousand parameters, for tests."""
    return KLVAEConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        latent=4,
        scale=0.5,
        attention_at=(4,),
    )


def kl16(size: int = 256) -> KLVAEConfig:
    """The published KL-16: 16 x 16 codes of 16 channels for 256 pixels, 66.5 M parameters."""
    return KLVAEConfig(size=(size, size), scale=0.2325)

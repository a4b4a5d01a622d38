"""VAR's tokenizer: images to grids of codes, coarse to fine, and back.

Tian et al. 2024 (arXiv:2404.02905). Unusual: every scale codes what the coarser ones left over, so
the codes of the first k scales alone are a picture already. The convolutions are those of a VQGAN
(`nn.autoencoder`), 3x3 ones stand before and behind the quantizer.

Letters: B images, H, W image size, h, w the last grid, C codebook dimensions, N codes of all
scales.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.nn import autoencoder
from smalti.nn.autoencoder import Decoder, Encoder
from smalti.tokenizers.base import (
    ImageTokenizer,
    Reconstruction,
    TokenizerConfig,
    check_images,
    check_latent,
)
from smalti.tokenizers.quantize import multiscale
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, pyramid

VAR256 = pyramid(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""The published schedule for 256 pixels, 680 codes."""
VAR512 = pyramid(1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
"""The published schedule for 512 pixels, 2240 codes."""


@dataclass(frozen=True)
class MultiScaleConfig(TokenizerConfig):
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 160
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    decoder_multipliers: tuple[int, ...] = ()
    """The same for the decoder's levels, as many; () = those of the encoder."""
    blocks: int = 2
    """Residual blocks per level in the encoder; the decoder has one more."""
    scales: tuple[tuple[int, int], ...] = VAR256
    """(height, width) of each grid of codes, coarse to fine; the last has the latents' size."""
    vocab: int = 4096
    """Codebook entries, of one codebook for all scales."""
    dim: int = 32
    """Codebook dimensions C, which are the latent channels as well."""
    phis: int = 4
    """Convolutions behind the upsampling, shared by neighbouring scales; 0 = one for each."""
    phi_ratio: float = 0.5
    """Share of the convolution in a phi; the rest is the identity."""
    l2_norm: bool = False
    """Compare directions of latents and codebook rows, not distances."""
    kernel: int = 3
    """Size of the convolutions before and behind the quantizer, odd."""
    attention: bool = True
    """Attention at the deepest level and in the middle."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        multiscale.check_scales(self.scales, self.vocab, self.dim, self.phis, self.phi_ratio)
        autoencoder.check_shape(self)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {self.kernel}")
        (height, width), factor = self.size, self.factor
        if self.scales[-1] != (height // factor, width // factor):
            raise ValueError(
                f"the last of scales must be {(height // factor, width // factor)}, which is size "
                f"{self.size} / {factor}, got {self.scales[-1]}"
            )

    @property
    def latent(self) -> int:
        """Channels between the convolutions and the codebook."""
        return self.dim

    @property
    def factor(self) -> int:
        """Image pixels per code of the last scale, along one side."""
        return autoencoder.factor(self)

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, self.vocab)


class MultiScaleVQVAE(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, N), scale by scale, and back."""

    pyramid = True

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = MultiScaleQuantizer(
            config.scales, config.vocab, config.dim, config.phis, config.phi_ratio, config.l2_norm
        )
        dim, kernel = config.dim, config.kernel
        self.quant_conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2)
        self.post_quant_conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2)

    @property
    def codebook(self) -> nn.Module:
        return self.quantize

    def latent(self, images: Tensor) -> Tensor:
        """(B, C, h, w) before quantization."""
        return self.quant_conv(self.encoder(images))

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W), not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, C, h, w)
        quantized = self.quantize(z, entropy)
        return Reconstruction(self.render(quantized.latent.to(z.dtype)), z, quantized)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N). Raises ValueError for another image size, and for
        other scales than its own."""
        check_images(images, self.size_of(spec))
        return self.quantize.encode(check_latent(self.latent(images)))

    def embedded(self, codes: Tensor) -> Tensor:
        return self.quantize.decode(codes)

    def decode(
        self, codes: Tensor, spec: TokenSpec | None = None, scales: int | None = None
    ) -> Tensor:
        """Codes (B, N), or vectors (B, N, C) in their place, to images (B, 3, H, W), about
        [-1, 1], not clamped; of the first `scales` scales, which is all if None. Raises ValueError
        for a `spec` with other scales than its own."""
        self.gives(spec)
        return self.render(self.quantize.decode(codes, scales))

    @property
    def levels(self) -> int:
        return len(self.spec.grids)

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        return self.decode(codes, spec, levels)


def tiny() -> MultiScaleConfig:
    """A model of a few thousand parameters, for tests."""
    return MultiScaleConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        scales=pyramid(1, 2, 3, 4),
        vocab=32,
        dim=4,
    )


def var256() -> MultiScaleConfig:
    """The published tokenizer, ch160 V4096 z32: 680 codes for 256 pixels, 108.9 M parameters."""
    return MultiScaleConfig()


def var512() -> MultiScaleConfig:
    """The same weights for 512 pixels: 2240 codes."""
    return MultiScaleConfig(size=(512, 512), scales=VAR512)

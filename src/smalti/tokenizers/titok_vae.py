"""TiTok's VAE: a picture as 32 to 128 continuous codes that stand for no places.

Yu et al. 2024 (arXiv:2406.07550), Kim et al. 2025 (arXiv:2501.07730), in the form of
bytedance/1d-tokenizer, commit 942a96f. TiTok (`titok.py`) whose encoder gives a normal distribution
of each code in the place of a code, as a KL-VAE does.

Letters: B images, H, W image size, K tokens, C channels of a code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.devices.float64 import wide
from smalti.tokenizers.base import check_images, check_latent
from smalti.tokenizers.kl_vae import Autoencoded, Posterior
from smalti.tokenizers.titok import TokensConfig, TokensTokenizer, TrunkConfig


@dataclass(frozen=True)
class TiTokVAEConfig(TokensConfig):
    dim: int = 16
    scale: float = 1.0
    """Codes are latents times this: one over their standard deviation, which training measures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, above_zero=("scale",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(((1, self.tokens),), channels=self.dim)


class TiTokVAE(TokensTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes (B, K, C), and back."""

    distributions = True
    scaled = True
    config: TiTokVAEConfig

    def __init__(self, config: TiTokVAEConfig) -> None:
        super().__init__(config, 2 * config.dim)

    def posterior(self, images: Tensor) -> Posterior:
        """Distributions of latents (B, C, 1, K)."""
        mean, logvar = self.latent(images).float().chunk(2, 1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def forward(self, images: Tensor) -> Autoencoded:  # pyright: ignore[reportIncompatibleMethodOverride]
        posterior = self.posterior(images)
        latent = posterior.sample(torch.randn_like(posterior.mean))  # (B, C, 1, K)
        return Autoencoded(self.render(latent), posterior)

    def spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.posterior(images)
        return posterior.mean, wide(posterior.logvar).exp()

    def rescale(self, std: float) -> dict[str, float]:
        """Give codes the scale at which their standard deviation is one."""
        scale = 1 / std
        self.config = replace(self.config, scale=scale)
        return {"latent_std": std, "scale": scale}

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, K, C), the means of their distributions. Raises
        ValueError for images of another size, or pixels that are no numbers."""
        return self.moments(images, spec)[..., : self.config.dim]

    def moments(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to means and standard deviations of codes, (B, K, 2C). Raises
        ValueError as `encode` does."""
        check_images(images, self.size_of(spec))
        posterior = self.posterior(images)
        moments = torch.cat((posterior.mean, posterior.std), 1) * self.config.scale
        return check_latent(moments.squeeze(2).mT)

    def embedded(self, codes: Tensor) -> Tensor:
        return codes.mT.unsqueeze(2)

    def decode(
        self, codes: Tensor, spec: TokenSpec | None = None, text: Tensor | None = None
    ) -> Tensor:
        """Codes (B, K, C), and of a TA-TiTok features (B, T, text_dim) of a text, to images
        (B, 3, H, W), about [-1, 1], not clamped."""
        self.gives(spec)
        return self.render(self.embedded(codes) / self.config.scale, text)


def tiny() -> TiTokVAEConfig:
    """A model of a few thousand parameters, for tests."""
    trunk = TrunkConfig(1, 2, 16)
    return TiTokVAEConfig((16, 16), 4, tokens=6, dim=4, encoder=trunk, decoder=trunk)

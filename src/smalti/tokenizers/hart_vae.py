"""HART's tokenizer: VAR's, whose last scale is completed by what codes cannot say.

Tang, Wu, Yang, Xie, Chen, Chen, Zhang, Zhao, Liu, Han 2024, "HART: Efficient Visual Generation with
Hybrid Autoregressive Transformer" (arXiv:2410.10812). Unusual: one decoder renders latents as the
encoder gives them and latents of codes alone (`quantize.hybrid`), because training shows it both.

Letters: B images, H, W image size, C codebook dimensions, N positions of all scales.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig, MultiScaleVQVAE
from smalti.tokenizers.quantize.hybrid import HybridQuantizer
from smalti.tokenizers.quantize.multiscale import pyramid

HART1024 = pyramid(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
"""The published schedule for 1024 pixels, 9451 codes."""


@dataclass(frozen=True)
class HARTVAEConfig(MultiScaleConfig):
    discrete: float = 0.5
    """Share of the pictures that training renders from their codes alone, without the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, shares=("discrete",))

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, channels=self.dim)


class HARTVAE(MultiScaleVQVAE):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to vectors (B, N, C), scale by scale, and back.

    `decode` also takes codes (B, N), int64: a picture without the rest.
    """

    def __init__(self, config: HARTVAEConfig) -> None:
        super().__init__(config)
        self.quantize = HybridQuantizer(
            config.scales,
            config.vocab,
            config.dim,
            config.phis,
            config.phi_ratio,
            config.l2_norm,
            config.discrete,
        )

    def discrete(self, codes: Tensor) -> Tensor:
        """The codes (B, N) of vectors (B, N, C), without the rest."""
        return self.quantize.codes(codes)


def tiny() -> HARTVAEConfig:
    """A model of a few thousand parameters, for tests."""
    return HARTVAEConfig(
        size=(16, 16),
        channels=8,
        multipliers=(1, 2, 2),
        blocks=1,
        scales=pyramid(1, 2, 3, 4),
        vocab=32,
        dim=4,
    )


def hart1024() -> HARTVAEConfig:
    """The published tokenizer for 1024 pixels: the sizes of VAR's, 9451 codes."""
    return HARTVAEConfig(size=(1024, 1024), scales=HART1024)

"""Infinity's tokenizer: images to grids of bits, coarse to fine, and back.

Han et al. 2024, "Infinity: Scaling Bitwise AutoRegressive Modeling for High-Resolution Image
Synthesis" (arXiv:2412.04431).

Unusual: a position holds 16 to 64 bits, which no table could list, so the quantizer has no weights.
There is no attention and nothing else that knows a size: one network serves every aspect ratio and
every number of pixels, each with its own schedule of scales (`schedule`). In the largest model a
position of codes covers 2 x 2 cells of the latent (`cells`). The convolutions are those of a VQGAN
(`nn.autoencoder`).

Letters: B images, H, W image size, h, w the last grid of positions, K bits and channels of a latent
cell, c x c cells of a position, N positions of all scales, C = K c^2 bits of a position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor, nn

from smalti.arguments import by
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
from smalti.tokenizers.quantize.bsq import Grids, MultiScaleBSQ
from smalti.tokenizers.quantize.multiscale import check_grids, pyramid

HEIGHTS = {
    1.0: "1 2 4 6 8 12 16 20 24 32 40 48 64",
    1.25: "1 2 3 5 10 15 20 25 30 35 45 55 70",
    1.333: "1 2 4 8 12 16 20 24 28 36 48 60 72",
    1.5: "1 2 3 6 9 15 21 27 33 39 48 63 78",
    1.75: "1 2 3 7 11 14 21 28 35 42 56 70 84",
    2.0: "1 2 4 6 10 16 22 30 38 46 60 74 90",
    2.5: "1 2 5 10 15 20 25 30 40 50 65 80 100",
    3.0: "1 2 6 9 15 21 27 36 45 54 72 90 111",
}
WIDTHS = {
    1.0: HEIGHTS[1.0],
    1.25: "1 2 3 4 8 12 16 20 24 28 36 44 56",
    1.333: "1 2 3 6 9 12 15 18 21 27 36 45 54",
    1.5: "1 2 2 4 6 10 14 18 22 26 32 42 52",
    1.75: "1 2 3 4 6 8 12 16 20 24 32 40 48",
    2.0: "1 2 2 3 5 8 11 15 19 23 30 37 45",
    2.5: "1 2 2 4 6 8 10 12 16 20 26 32 40",
    3.0: "1 2 2 3 5 7 9 12 15 18 24 30 37",
}
BUDGETS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Scales of each published number of pixels."""


def _published() -> dict[float, Grids]:
    sides = {r: (HEIGHTS[r].split(), WIDTHS[r].split()) for r in HEIGHTS}
    tall = {
        r: tuple((int(h), int(w)) for h, w in zip(*both, strict=True)) for r, both in sides.items()
    }
    flat = {
        int(1000 / r) / 1000: tuple((w, h) for h, w in grids)
        for r, grids in tall.items()
        if r != 1.0
    }
    return dict(sorted((tall | flat).items()))


SCHEDULES = _published()
"""The published scales of the largest pictures of each aspect ratio, height / width."""


def schedule(ratio: float = 1.0, budget: str = "0.06M") -> Grids:
    """The published scales of an aspect ratio, height / width, and a number of pixels.

    Raises ValueError, naming those that there are, for others.
    """
    if ratio not in SCHEDULES:
        known = ", ".join(f"{r:g}" for r in SCHEDULES)
        raise ValueError(f"ratio (height / width) must be one of {known}, got {ratio}")
    if budget not in BUDGETS:
        raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    return SCHEDULES[ratio][: BUDGETS[budget]]


def ratio_of(grids: Grids) -> float | None:
    """The aspect ratio of whose published schedule these are the first scales; None of others, and
    of so few that several begin with them."""
    found = [ratio for ratio, whole in SCHEDULES.items() if whole[: len(grids)] == grids]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class InfinityVAEConfig(TokenizerConfig):
    patch: int = 1
    """Pixels of each side folded into channels before the first convolution; 1 as published, 2
    makes small models several times faster."""
    channels: int = 128
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4, 4)
    """Width of each level as a multiple of `channels`; each but the last halves the size."""
    decoder_multipliers: tuple[int, ...] = ()
    """The same for the decoder's levels, as many; () = those of the encoder."""
    blocks: int = 2
    """Residual blocks per level in the encoder; the decoder has one more."""
    scales: tuple[tuple[int, int], ...] = schedule()
    """(height, width) of each grid of positions, coarse to fine; the last is that of the image."""
    bits: int = 32
    """Bits of a latent cell, K, and its channels."""
    cells: int = 1
    """Latent cells of each side that a position of codes covers; 2 in the largest model."""
    dropout: float = 0.0
    """Dropout inside the residual blocks."""

    def __post_init__(self) -> None:
        check_grids(self.scales)
        check(self, positive=("bits", "cells"))
        autoencoder.check_shape(self)
        height, width = self.size
        if any(s % self.factor for s in self.size):
            raise ValueError(f"size must be multiples of {self.factor} pixels, got {self.size}")
        if self.scales[-1] != (grid := (height // self.factor, width // self.factor)):
            raise ValueError(
                f"the last of scales must be {grid}, which is size {self.size} / {self.factor}, "
                f"got {self.scales[-1]}"
            )

    @property
    def latent(self) -> int:
        """Channels between the convolutions and the quantizer."""
        return self.bits

    @property
    def attention(self) -> bool:
        """Whether there is attention, which there is not."""
        return False

    @property
    def factor(self) -> int:
        """Image pixels per position of the last scale, along one side."""
        return autoencoder.factor(self) * self.cells

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec(self.scales, vocab=2, channels=self.bits * self.cells**2)


class InfinityVAE(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to bits (B, N, C), scale by scale, and back."""

    any_grid = True
    pyramid = True
    config: InfinityVAEConfig

    def __init__(self, config: InfinityVAEConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = MultiScaleBSQ(config.scales, config.bits, config.cells)
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = groups(module.num_channels)

    def gives(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes of images: those of `spec`, of any scales, or its own if that is None.

        Raises ValueError if it has no such codes.
        """
        if spec is None or spec == self.spec:
            return self.spec
        if replace(spec, grids=self.spec.grids) != self.spec:
            raise ValueError(f"{type(self).__name__} gives {self.spec}, got {spec}")
        try:
            check_grids(spec.grids)
        except ValueError as error:
            known = type(self).__name__
            raise ValueError(f"{known} gives {self.spec}, got {spec}: {error}") from None
        return spec

    def spec_of(self, size: tuple[int, int]) -> TokenSpec:
        """The codes of images of this height and width in pixels: its own, or those of a published
        schedule.

        Raises ValueError, naming the sizes that there are, for any other size.
        """
        published = [schedule(ratio, budget) for budget in BUDGETS for ratio in SCHEDULES]
        every = {(h * self.factor, w * self.factor): g for g in published for h, w in g[-1:]}
        every[self.size] = self.spec.grids
        if size not in every:
            known = ", ".join(by(one) for one in sorted(every, key=lambda s: (s[0] * s[1], s)))
            raise ValueError(f"size must be one of {known}, got {by(size)}")
        return self.gives(replace(self.spec, grids=every[size]))

    def latent(self, images: Tensor) -> Tensor:
        """(B, K, c h, c w) before quantization."""
        return self.encoder(images)

    def render(self, latent: Tensor) -> Tensor:
        """Latents (B, K, c h, c w) to images (B, 3, H, W), not clamped."""
        return self.decoder(latent)

    def forward(self, images: Tensor, entropy: bool = False) -> Reconstruction:
        z = self.latent(images)  # (B, K, c h, c w)
        quantized = self.quantize(z, entropy)
        return Reconstruction(self.render(quantized.latent.to(z.dtype)), z, quantized)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N, C). Raises ValueError if their size is not that of
        the last scale."""
        check_images(images, self.size_of(spec))
        return self.quantize.encode(check_latent(self.latent(images)), self.gives(spec).grids)

    def embedded(self, codes: Tensor) -> Tensor:
        return self.quantize.decode(codes, None, self.spec.grids)

    def decode(
        self, codes: Tensor, spec: TokenSpec | None = None, scales: int | None = None
    ) -> Tensor:
        """Codes (B, N, C), or vectors (B, N, C) in their place, to images (B, 3, H, W), about
        [-1, 1], not clamped; of the first `scales` scales, which is all if None."""
        return self.render(self.quantize.decode(codes, scales, self.gives(spec).grids))

    @property
    def levels(self) -> int:
        return len(self.spec.grids)

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        return self.decode(codes, spec, levels)


def groups(channels: int) -> int:
    """How many groups of channels are normalised: 32, or 24 where that divides them, as published;
    fewer where neither does."""
    if channels % 32 and channels % 24 == 0:
        return 24
    return math.gcd(32, channels)


def tiny() -> InfinityVAEConfig:
    """A model of a few thousand parameters, for tests."""
    return InfinityVAEConfig(
        size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, scales=pyramid(1, 2, 4), bits=6
    )


def published(bits: int, ratio: float = 1.0, budget: str = "1M") -> InfinityVAEConfig:
    """The published tokenizer of 16, 24, 32 or 64 bits, stride 16, for a schedule."""
    return at(InfinityVAEConfig(bits=bits), schedule(ratio, budget))


def published_d56(ratio: float = 1.0, budget: str = "1M") -> InfinityVAEConfig:
    """The tokenizer of the largest model: stride 8, 14 bits, 2 x 2 cells of them in a position."""
    large = InfinityVAEConfig(multipliers=(1, 2, 4, 4), bits=14, cells=2)
    return at(large, schedule(ratio, budget))


def at(config: InfinityVAEConfig, scales: Grids) -> InfinityVAEConfig:
    """The same tokenizer for images of these scales."""
    height, width = scales[-1]
    size = (height * config.factor, width * config.factor)
    return replace(config, size=size, scales=scales)

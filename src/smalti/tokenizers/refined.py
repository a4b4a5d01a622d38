"""Codes of another tokenizer, and a renderer that makes better or larger pictures of them.

ILLUME+ (Huang, Wang, Yang et al. 2025, arXiv:2504.01934) draws the codes of DualViTok and has a
diffusion model refine what they show: SDXL's U-Net, to whose latents vectors of both levels of
codes are added as channels, resized to its grid. Pictures may be twice as large as those that were
coded. Here a small flow of pixels does so (`renderer.py`), which knows no latents and no text.

Unusual: the tokenizer inside stays as it is, and codes are its own. So a model that learned them
can have its pictures made by this one, as often as it is trained anew (`smalti repack`).

Letters: B images, H, W image size, h, w cells of the map of vectors, N of them, C numbers of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import by
from smalti.codes import TokenSpec
from smalti.config import check, one_of
from smalti.nn.adapters import AdapterConfig
from smalti.tokenizers import dual
from smalti.tokenizers.base import ImageTokenizer, check_images, check_levels
from smalti.tokenizers.dual import DualConfig
from smalti.tokenizers.kinds import KINDS, tokenizer_of
from smalti.tokenizers.renderer import FlowConfig, FlowTokenizer, Renderer, RendererConfig


@dataclass(frozen=True)
class RefinedConfig(FlowConfig):
    size: tuple[int, int] = (512, 512)
    """Height and width of the pictures in pixels: those of the pictures that the tokenizer inside
    codes, or as many times as many."""
    tokenizer: Any = one_of(lambda: KINDS, DualConfig)
    """What codes; the tokenizer that a run is given decides it."""
    cells: tuple[int, int] = (16, 16)
    """h and w, which the tokenizer decides."""
    channels: int = 64
    """C, which the tokenizer decides."""
    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What makes pictures. Its patches are at most as large as cells."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, pairs=("cells",), positive=("channels",))

    def check_around(self) -> None:
        """Raise ValueError unless pictures have a size that goes with the tokenizer, and patches
        one that goes with its cells. A run may name sizes before it is given a tokenizer."""
        (height, width), coded = self.size, self.tokenizer.size
        if self.size != (self.scale * coded[0], self.scale * coded[1]):
            double = by((2 * coded[0], 2 * coded[1]))
            raise ValueError(
                f"size must be that of the pictures which are coded, {by(coded)}, or a whole "
                f"multiple of it, such as {double}, got {by(self.size)}"
            )
        side = min(height // self.cells[0], width // self.cells[1])
        if self.renderer.patch > side:
            raise ValueError(
                f"renderer.patch must be at most {side} pixels, so that each of the "
                f"{by(self.cells)} cells is seen, got {self.renderer.patch}"
            )

    @property
    def scale(self) -> int:
        """How many times as high and wide pictures are as those that are coded."""
        return max(1, self.size[0] // self.tokenizer.size[0])

    @property
    def factor(self) -> int:
        """Image pixels per code of the last grid, along one side."""
        return self.size[0] // self.spec.grids[-1][0]

    @property
    def spec(self) -> TokenSpec:
        return self.tokenizer.spec

    def coding(self, tokenizer: ImageTokenizer) -> Self:
        """The same around a tokenizer.

        Raises ValueError if it codes pictures of another size, or says no vectors of its codes.
        """
        with torch.no_grad():
            device = next(tokenizer.parameters()).device
            channels, rows, columns = tokenizer.embedded(tokenizer.spec.empty(1, device)).shape[1:]
        given = {"tokenizer": tokenizer.config, "cells": (rows, columns), "channels": channels}
        config = replace(self, **given)
        config.check_around()
        return config


class Refined(FlowTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to codes of the tokenizer inside, and back."""

    config: RefinedConfig

    def __init__(self, config: RefinedConfig) -> None:
        super().__init__()
        config.check_around()
        self.config, self.spec = config, config.spec
        self.tokenizer: ImageTokenizer = tokenizer_of(config.tokenizer).requires_grad_(False)
        self.placed = self.tokenizer.placed
        if config.renderer.layers:
            self.renderer = Renderer(config.renderer, config.size, config.cells, config.channels)

    def code_by(self, tokenizer: nn.Module) -> None:
        """Take the weights of the tokenizer whose configuration `coding` was given."""
        self.tokenizer.load_state_dict(tokenizer.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Only the renderer is ever in training mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @property
    def coder(self) -> ImageTokenizer:
        return self.tokenizer

    @property
    def levels(self) -> int:
        return self.tokenizer.levels

    def size_of(self, spec: TokenSpec | None) -> tuple[int, int]:
        self.gives(spec)
        return self.size

    def vectors(self, codes: Tensor) -> Tensor:
        return self.tokenizer.embedded(codes).flatten(2).transpose(1, 2)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N, *trailing), of pixels that are the means of squares
        where pictures are larger than those that are coded. Raises ValueError for images of another
        size."""
        check_images(images, self.size_of(spec))
        small = F.avg_pool2d(images, self.config.scale) if self.config.scale > 1 else images
        return self.tokenizer.encode(small)

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        """Images of all levels of codes, or, of the first ones alone, those of the tokenizer
        inside."""
        check_levels(levels, self.levels)
        if levels == self.levels:
            return self.decode(codes, spec)
        return F.interpolate(self.tokenizer.preview(codes, levels, spec), self.size)


def tiny(**changes: Any) -> RefinedConfig:
    """A tokenizer of some thousand parameters, for tests, with pictures twice as large."""
    small = RendererConfig(AdapterConfig("mlp", 2, 12, 24, 5, 2), 2, 2, 16, 4)
    sizes: dict[str, Any] = {"size": (32, 32), "cells": (8, 8), "channels": 8, "evaluations": 2}
    given: dict[str, Any] = sizes | {"tokenizer": dual.tiny(), "renderer": small} | changes
    return RefinedConfig(**given)

"""Features as codes of pictures: what a frozen ViT sees, and a renderer that makes pictures of it.

MetaMorph (Tong et al. 2024, arXiv:2412.14164) draws features of a SigLIP, which a diffusion model
makes visible: a U-Net of Stable Diffusion whose texts an adapter of features replaces. Here a small
flow does so (`renderer.py`).

Unusual: encoding is seeing, so a picture comes back as something that looks alike to the ViT.

Letters: B images, H, W image size, N features of a picture, C numbers of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor, nn

from smalti.arguments import by
from smalti.codes import Form, TokenSpec
from smalti.config import check
from smalti.nn.adapters import AdapterConfig
from smalti.nn.features import formed, reduced
from smalti.nn.frozen_vit import FrozenViT, FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.tokenizers.base import check_images, check_latent
from smalti.tokenizers.renderer import FlowConfig, FlowTokenizer, Renderer, RendererConfig

HALF = (0.5, 0.5, 0.5)
SO400M = FrozenViTConfig(
    "siglip", 384, 14, 1, 1152, HALF, HALF, TowerConfig(27, 16, 1152, 4304), normed=False
)
"""SigLIP-so400m/14 at 384 pixels, as MetaMorph takes it: before its last norm."""


@dataclass(frozen=True)
class RenderedConfig(FlowConfig):
    size: tuple[int, int] = (512, 512)
    """Height and width of the pictures in pixels, multiples of the renderer's patch and of the
    grid; the ViT sees them in its own size."""
    vit: FrozenViTConfig = field(default_factory=lambda: SO400M)
    """What sees, a siglip or a clip; the towers that a run is given decide it."""
    grid: tuple[int, int] = (8, 8)
    """Height and width of a picture in features; patches are brought to it."""
    form: Form = "unit"
    """Whether features are as the ViT gives them (plain), have the length one (unit), or are
    softmaxes of either."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, pairs=("grid",))
        if self.vit.kind == "qwen" or self.vit.merge > 1:
            raise ValueError(
                "features are those of the patches of a siglip or a clip, vit.merge 1; got "
                f"{self.vit.kind}, {self.vit.merge}"
            )
        rows, columns = self.grid
        if self.size[0] % rows or self.size[0] // rows * columns != self.size[1]:
            raise ValueError(
                f"size must be whole, square cells of grid {by(self.grid)}, got {by(self.size)}"
            )

    @property
    def factor(self) -> int:
        """Image pixels per feature, along one side."""
        return self.size[0] // self.grid[0]

    @property
    def spec(self) -> TokenSpec:
        return TokenSpec((self.grid,), channels=self.vit.vision.dim, form=self.form)

    def seeing(self, towers: Any) -> Self:
        """The same with the ViT of towers of this configuration, each of whose patches is a
        feature."""
        return replace(self, vit=replace(self.vit.of(towers), merge=1))


class Rendered(FlowTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to features (B, N, C), row by row, and back."""

    config: RenderedConfig

    def __init__(self, config: RenderedConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.vit = FrozenViT(config.vit)
        if config.renderer.layers:
            channels = config.spec.channels
            self.renderer = Renderer(config.renderer, config.size, config.grid, channels)

    def see_with(self, towers: nn.Module) -> None:
        """Take the weights of the tower that sees of towers whose configuration `seeing` was
        given."""
        self.vit.see_with(towers)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to features (B, N, C), float32.

        Raises ValueError for images of another size, or pixels that are no numbers.
        """
        check_images(images, self.size_of(spec))
        hidden = self.vit(images).flatten(2).transpose(1, 2)  # (B, patches, C)
        return check_latent(formed(reduced(hidden, self.config.grid).float(), self.config.form))

    def vectors(self, codes: Tensor) -> Tensor:
        return codes

    def embedded(self, codes: Tensor) -> Tensor:
        return codes.transpose(1, 2).unflatten(2, self.config.grid)


def tiny(**changes: Any) -> RenderedConfig:
    """A tokenizer of some thousand parameters, for tests."""
    tower = TowerConfig(2, 2, 16, 32)
    vit = FrozenViTConfig("siglip", 8, 4, 1, 16, HALF, HALF, tower, normed=False)
    small = AdapterConfig("mlp", 2, 12, 24, 5, 2)
    renderer = RendererConfig(small, layers=2, heads=2, dim=16, patch=4)
    sizes: dict[str, Any] = {"size": (16, 16), "vit": vit, "grid": (2, 2), "evaluations": 2}
    given: dict[str, Any] = sizes | {"renderer": renderer} | changes
    return RenderedConfig(**given)

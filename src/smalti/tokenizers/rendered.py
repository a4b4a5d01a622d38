"""Features as codes of pictures: what a frozen ViT sees, and a renderer that makes pictures of it.

MetaMorph (Tong et al. 2024, arXiv:2412.14164) draws features of a SigLIP, which a diffusion model
makes visible: a U-Net of Stable Diffusion whose texts an adapter of features replaces. Here the
renderer is a small transformer in whose rows a time and patches of a picture with noise in it stand
(Bao et al. 2022, "All are Worth Words: A ViT Backbone for Diffusion Models",
arXiv:2209.12152), and says the picture without the noise, along a flow.

Unusual: encoding is seeing, so a picture comes back as something that looks alike to the ViT. The
noise that a picture is made of is always the same, so that the same codes are the same picture.

Letters: B images, H, W image size, p pixels of a patch along one side, P patches, N features of a
picture, C numbers of each, T tokens of the adapter, D width of the renderer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import by
from smalti.codes import Form, TokenSpec
from smalti.config import check
from smalti.nn.adapters import AdapterConfig, adapter
from smalti.nn.features import formed, reduced
from smalti.nn.frozen_vit import FrozenViT, FrozenViTConfig
from smalti.nn.linear import Linear
from smalti.nn.times import TimeEmbedding
from smalti.nn.vision import Block, TowerConfig
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import TIMES, Solver, path
from smalti.tokenizers.base import ImageTokenizer, TokenizerConfig, check_images, check_latent

HALF = (0.5, 0.5, 0.5)
SO400M = FrozenViTConfig(
    "siglip", 384, 14, 1, 1152, HALF, HALF, TowerConfig(27, 16, 1152, 4304), normed=False
)
"""SigLIP-so400m/14 at 384 pixels, as MetaMorph takes it: before its last norm."""


@dataclass(frozen=True)
class RendererConfig:
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What makes features the tokens that are read."""
    layers: int = 12
    """Transformer blocks; 0: there is no renderer, and features cannot be decoded."""
    heads: int = 12
    """Attention heads."""
    dim: int = 768
    """D, a multiple of `heads`."""
    patch: int = 16
    """p, height and width of a patch in pixels."""

    def __post_init__(self) -> None:
        check(self, counts=("layers",), positive=("heads", "dim", "patch"))
        check(self, multiple=("dim", "heads"))


@dataclass(frozen=True)
class RenderedConfig(TokenizerConfig):
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
    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What makes pictures of features."""
    evaluations: int = 8
    """Of the flow, from noise to a picture."""
    guidance: float = 1.0
    """How much the features count, u + s * (c - u); 1 is off."""

    def __post_init__(self) -> None:
        check(self, pairs=("size", "grid"), positive=("evaluations",), above_zero=("guidance",))
        if self.vit.kind == "qwen" or self.vit.merge > 1:
            raise ValueError(
                "features are those of the patches of a siglip or a clip, vit.merge 1; got "
                f"{self.vit.kind}, {self.vit.merge}"
            )
        patch, (rows, columns) = self.renderer.patch, self.grid
        if any(side % patch for side in self.size):
            raise ValueError(f"size must be multiples of {patch} pixels, got {by(self.size)}")
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


class Renderer(nn.Module):
    """Pictures with noise in them, times and features to the pictures without the noise. What an
    adapter makes of each feature alone is added to the patches where it stands; learned tokens that
    looked at all features stand in the row."""

    def __init__(self, config: RenderedConfig) -> None:
        super().__init__()
        mine, (height, width) = config.renderer, config.size
        self.patch, self.grid = mine.patch, (height // mine.patch, width // mine.patch)
        self.cells = config.grid if mine.adapter.kind == "mlp" else None
        dim, pixels = mine.dim, 3 * mine.patch**2
        self.adapter = adapter(config.spec.channels, mine.adapter)
        self.tokens = Linear(mine.adapter.width, dim)
        self.patches = Linear(pixels, dim)
        self.places = nn.Parameter(torch.empty(self.grid[0] * self.grid[1], dim))
        self.time = TimeEmbedding(dim)
        shape = TowerConfig(mine.layers, mine.heads, dim, 4 * dim)
        self.layers = nn.ModuleList([Block(shape) for _ in range(mine.layers)])
        self.norm = nn.LayerNorm(dim)
        self.out = Linear(dim, pixels)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Layers as PyTorch has them, places Normal(0, 0.3); a new renderer gives grey."""
        nn.init.normal_(self.places, std=0.3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def read(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """What is read of features (B, N, C), (B, T, D); where `kept`, (B,) bool, is False, that of
        no features."""
        tokens = self.adapter(features)
        if kept is not None:
            tokens = tokens * kept[:, None, None]
        return self.tokens(tokens)

    def forward(self, x: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Pictures x (B, 3, H, W) with noise in them, times (B,) from 0, all noise, to 1, and what
        is read of features (B, T, D) to pictures (B, 3, H, W)."""
        patches = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)  # (B, P, 3 p p)
        h = self.patches(patches) + self.places
        row = [self.time(TIMES * times).unsqueeze(1).to(h.dtype)]
        if self.cells is None:
            row.append(tokens.to(h.dtype))
        else:
            cells = tokens.transpose(1, 2).unflatten(2, self.cells)
            spread = F.interpolate(cells.float(), self.grid, mode="bilinear")
            h = h + spread.flatten(2).transpose(1, 2).to(h.dtype)  # (B, P, D)
        h = torch.cat((*row, h), 1)  # (B, 1 + P, D), or with the tokens
        for layer in self.layers:
            h = layer(h)
        found = self.out(self.norm(h[:, -patches.shape[1] :]))
        return F.pixel_shuffle(found.transpose(1, 2).unflatten(2, self.grid), self.patch)


class Back(NamedTuple):
    """Pictures as they come back."""

    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""


class Rendered(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to features (B, N, C), row by row, and back."""

    config: RenderedConfig

    def __init__(self, config: RenderedConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.vit = FrozenViT(config.vit)
        if config.renderer.layers:
            self.renderer = Renderer(config)

    def see_with(self, towers: nn.Module) -> None:
        """Take the weights of the tower that sees of towers whose configuration `seeing` was
        given."""
        self.vit.see_with(towers)

    def forward(self, images: Tensor) -> Back:
        """Images (B, 3, H, W) and back. Training renders otherwise (`train/rendering.py`)."""
        return Back(self.decode(self.encode(images)))

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to features (B, N, C), float32.

        Raises ValueError for images of another size, or pixels that are no numbers.
        """
        check_images(images, self.size_of(spec))
        hidden = self.vit(images).flatten(2).transpose(1, 2)  # (B, patches, C)
        return check_latent(formed(reduced(hidden, self.config.grid).float(), self.config.form))

    def require_renderer(self) -> None:
        """Raise ValueError if there is none."""
        if not self.config.renderer.layers:
            raise ValueError(
                "these features have no renderer, as renderer.layers is 0, so they cannot be seen: "
                "smalti train makes one, by a recipe such as shapes_renderer"
            )

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Features (B, N, C) to images (B, 3, H, W), about [-1, 1], not clamped. Raises ValueError
        if there is no renderer."""
        self.gives(spec)
        self.require_renderer()
        way, s = path(Solver("euler", str(self.config.evaluations)), "flow"), self.config.guidance
        branches = [self.renderer.read(codes)]
        if s != 1:
            nothing = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
            branches.append(self.renderer.read(codes, nothing))
        tokens = torch.cat(branches)

        def denoise(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
            times = x.new_full((len(tokens),), way.times[i] / TIMES)
            found = self.renderer(x.repeat(len(branches), 1, 1, 1), times, tokens)
            if s != 1:
                given, without = found.chunk(2)
                found = without + s * (given - without)
            return found, found

        return way.solve(denoise, self.noise(codes)[None], 1.0)

    def noise(self, codes: Tensor) -> Tensor:
        """The noise (B, 3, H, W) that pictures are made of, the same of all."""
        patch, (h, w) = self.config.renderer.patch, self.renderer.grid
        same = Noise.request(0, 1, device=codes.device).normal(torch.arange(h * w), 3 * patch**2)
        pixels = F.pixel_shuffle(same.transpose(1, 2).unflatten(2, (h, w)), patch)
        return pixels.to(codes.dtype).expand(len(codes), -1, -1, -1)


def tiny(**changes: Any) -> RenderedConfig:
    """A tokenizer of some thousand parameters, for tests."""
    tower = TowerConfig(2, 2, 16, 32)
    vit = FrozenViTConfig("siglip", 8, 4, 1, 16, HALF, HALF, tower, normed=False)
    small = AdapterConfig("mlp", 2, 12, 24, 5, 2)
    renderer = RendererConfig(small, layers=2, heads=2, dim=16, patch=4)
    sizes: dict[str, Any] = {"size": (16, 16), "vit": vit, "grid": (2, 2), "evaluations": 2}
    given: dict[str, Any] = sizes | {"renderer": renderer} | changes
    return RenderedConfig(**given)

"""What makes pictures of a map of vectors, along a flow: the decoder of tokenizers whose codes are
features (`rendered.py`), and of such as decode the codes of another one (`refined.py`).

A small transformer in whose rows a time and patches of a picture with noise in it stand (Bao et al.
2022, "All are Worth Words: A ViT Backbone for Diffusion Models", arXiv:2209.12152) says the picture
without the noise.

Unusual: the noise that a picture is made of is always the same, so that the same codes are the same
picture.

Letters: B images, H, W image size, p pixels of a patch along one side, P patches, N vectors of a
picture, C numbers of each, T tokens of the adapter, D width of the renderer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import by
from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.adapters import AdapterConfig, adapter
from smalti.nn.linear import Linear
from smalti.nn.times import TimeEmbedding
from smalti.nn.vision import Block, TowerConfig
from smalti.sampling.noise import Noise
from smalti.sampling.solvers import TIMES, Solver, path
from smalti.tokenizers.base import ImageTokenizer, TokenizerConfig


@dataclass(frozen=True)
class RendererConfig:
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What makes vectors the tokens that are read."""
    layers: int = 12
    """Transformer blocks; 0: there is no renderer, and codes cannot be decoded."""
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
class FlowConfig(TokenizerConfig):
    """What the settings of tokenizers whose pictures a renderer makes have in common."""

    renderer: RendererConfig = field(default_factory=RendererConfig)
    """What makes pictures."""
    evaluations: int = 8
    """Of the flow, from noise to a picture."""
    guidance: float = 1.0
    """How much what is read counts, u + s * (c - u); 1 is off."""

    def __post_init__(self) -> None:
        check(self, pairs=("size",), positive=("evaluations",), above_zero=("guidance",))
        if any(side % self.renderer.patch for side in self.size):
            patch = self.renderer.patch
            raise ValueError(f"size must be multiples of {patch} pixels, got {by(self.size)}")


class Renderer(nn.Module):
    """Pictures of a size with noise in them, times and vectors on a grid of cells to the pictures
    without the noise. What an adapter makes of each vector alone is added to the patches where it
    stands; learned tokens that looked at all vectors stand in the row."""

    def __init__(
        self, config: RendererConfig, size: tuple[int, int], cells: tuple[int, int], channels: int
    ) -> None:
        super().__init__()
        height, width = size
        self.patch, self.grid = config.patch, (height // config.patch, width // config.patch)
        self.cells = cells if config.adapter.kind == "mlp" else None
        dim, pixels = config.dim, 3 * config.patch**2
        self.adapter = adapter(channels, config.adapter)
        self.tokens = Linear(config.adapter.width, dim)
        self.patches = Linear(pixels, dim)
        self.places = nn.Parameter(torch.empty(self.grid[0] * self.grid[1], dim))
        self.time = TimeEmbedding(dim)
        shape = TowerConfig(config.layers, config.heads, dim, 4 * dim)
        self.layers = nn.ModuleList([Block(shape) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(dim)
        self.out = Linear(dim, pixels)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Layers as PyTorch has them, places Normal(0, 0.3); a new renderer gives grey."""
        nn.init.normal_(self.places, std=0.3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def read(self, vectors: Tensor, kept: Tensor | None = None) -> Tensor:
        """What is read of vectors (B, N, C), (B, T, D); where `kept`, (B,) bool, is False, that of
        no vectors."""
        tokens = self.adapter(vectors)
        if kept is not None:
            tokens = tokens * kept[:, None, None]
        return self.tokens(tokens)

    def forward(self, x: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Pictures x (B, 3, H, W) with noise in them, times (B,) from 0, all noise, to 1, and what
        is read of vectors (B, T, D) to pictures (B, 3, H, W)."""
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


class FlowTokenizer(ImageTokenizer):
    """A `Tokenizer` whose pictures `renderer` makes of `vectors` of its codes. Nothing else of it
    learns (`train/rendering.py`)."""

    config: Any
    renderer: Renderer

    def forward(self, images: Tensor) -> Back:
        """Images (B, 3, H, W) and back. Training renders otherwise (`train/rendering.py`)."""
        return Back(self.decode(self.encode(images)))

    def vectors(self, codes: Tensor) -> Tensor:
        """What is read of codes (B, N, *trailing): vectors (B, N, C)."""
        raise NotImplementedError

    def require_renderer(self) -> None:
        """Raise ValueError if there is none."""
        if not self.config.renderer.layers:
            raise ValueError(
                "these features have no renderer, as renderer.layers is 0, so they cannot be seen: "
                "smalti train makes one, by a recipe such as shapes_renderer"
            )

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N, *trailing) to images (B, 3, H, W), about [-1, 1], not clamped. Raises
        ValueError if there is no renderer."""
        self.gives(spec)
        self.require_renderer()
        way, s = path(Solver("euler", str(self.config.evaluations)), "flow"), self.config.guidance
        vectors = self.vectors(codes)
        branches = [self.renderer.read(vectors)]
        if s != 1:
            nothing = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
            branches.append(self.renderer.read(vectors, nothing))
        tokens = torch.cat(branches)

        def denoise(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
            times = x.new_full((len(tokens),), way.times[i] / TIMES)
            found = self.renderer(x.repeat(len(branches), 1, 1, 1), times, tokens)
            if s != 1:
                given, without = found.chunk(2)
                found = without + s * (given - without)
            return found, found

        return way.solve(denoise, self.noise(vectors)[None], 1.0)

    def noise(self, vectors: Tensor) -> Tensor:
        """The noise (B, 3, H, W) that pictures are made of, the same of all."""
        patch, (h, w) = self.config.renderer.patch, self.renderer.grid
        same = Noise.request(0, 1, device=vectors.device).normal(torch.arange(h * w), 3 * patch**2)
        pixels = F.pixel_shuffle(same.transpose(1, 2).unflatten(2, (h, w)), patch)
        return pixels.to(vectors.dtype).expand(len(vectors), -1, -1, -1)

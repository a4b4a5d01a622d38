"""DualViTok: images to two grids of codes, of what a frozen ViT sees and of pixels, and back.

Huang, Wang, Yang et al. 2025, "ILLUME+: Illuminating Unified MLLM with Dual Visual Tokenization and
Diffusion Refinement" (arXiv:2504.01934), as illume-unified-mllm/ILLUME_plus has it. With no table
for pixels it is the semantic tokenizer of ILLUME (Wang, Lu et al. 2024, arXiv:2412.06673).

Unusual: the first codes are of features of a ViT that was made to understand, and a decoder of
their own gives these features back; the second are of a network of convolutions. The picture is
made of both, the semantic ones spread over the grid of the others; before training it is made of
the second alone. Positions are those of the semantic grid, then those of the pixel grid; codes are
numbered through, those of pixels behind those of meaning.

ILLUME draws by a diffusion model that reads its codes; here a decoder of convolutions stands for
that.

Letters: B images, H, W image size, F features of the ViT, D width of the semantic transformers, S
and P dimensions of the two tables, h, w grids.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.arguments import by
from smalti.codes import TokenSpec
from smalti.config import check
from smalti.nn.frozen_vit import FrozenViT, FrozenViTConfig
from smalti.nn.guided import GuidedNorm
from smalti.nn.linear import Linear
from smalti.nn.rope import rope_2d_halves
from smalti.nn.vision import Block, TowerConfig
from smalti.tokenizers.base import (
    ImageTokenizer,
    TokenizerConfig,
    check_images,
    check_latent,
    check_levels,
)
from smalti.tokenizers.dual_pixels import PixelConfig, PixelDecoder, PixelEncoder
from smalti.tokenizers.quantize.simvq import SimVQ
from smalti.tokenizers.quantize.vq import Quantized

EPS = 1e-6
"""Added to the variance where features of the ViT are normalised."""


@dataclass(frozen=True)
class DualConfig(TokenizerConfig):
    """A tokenizer; the defaults are those of the released one, of 256 pixels."""

    vit: FrozenViTConfig = field(default_factory=FrozenViTConfig)
    """What sees; towers that a run is given decide it."""
    width: int = 1280
    """D, a multiple of `heads`."""
    layers: int = 4
    """Transformer blocks before the semantic codes."""
    decoder_layers: int = 4
    """Those behind them, which give the features back."""
    heads: int = 16
    """Attention heads of both."""
    semantic_vocab: int = 32768
    """Codes of the semantic table."""
    semantic_dim: int = 32
    """S."""
    pixel_vocab: int = 98304
    """Codes of the table of pixels; 0: there are none, and a picture is made of semantic codes."""
    pixel_dim: int = 32
    """P."""
    norms: tuple[bool, bool] = (False, True)
    """Whether a norm with weights stands behind the last layer of the encoder of features, and of
    their decoder."""
    rotate: bool = False
    """Whether gradients are turned, not passed straight through, where codes are looked up."""
    encoder: PixelConfig = field(default_factory=PixelConfig)
    """The convolutions that pixels are coded by."""
    decoder: PixelConfig = field(default_factory=lambda: PixelConfig(channels=384, latent=64))
    """Those that make the picture."""

    def __post_init__(self) -> None:
        sizes = ("width", "layers", "decoder_layers", "heads", "semantic_dim", "pixel_dim")
        check(self, pairs=("size",), positive=sizes, several=("semantic_vocab",))
        check(self, counts=("pixel_vocab",), multiple=("width", "heads"))
        if self.width // self.heads % 4:
            raise ValueError(
                f"width must be a multiple of 4 times heads, got {self.width}, {self.heads}"
            )
        if self.pixel_vocab and self.encoder.factor != self.decoder.factor:
            raise ValueError(
                "encoder and decoder must have cells of as many pixels, got "
                f"{self.encoder.factor}, {self.decoder.factor}"
            )
        if any(side % self.decoder.factor for side in self.size):
            raise ValueError(
                f"size must be multiples of {self.decoder.factor} pixels, got {by(self.size)}"
            )
        self.vit.grid(self.size)

    @property
    def guide(self) -> int:
        """Dimensions of what stands for the codes of a cell."""
        return self.semantic_dim + (self.pixel_dim if self.pixel_vocab else 0)

    @property
    def factor(self) -> int:
        """Image pixels per code of the last grid, along one side."""
        return self.size[0] // self.spec.grids[-1][0]

    def seeing(self, towers: Any) -> Self:
        """The same with the ViT of towers, of which as many patches as before become one feature.

        Raises ValueError if the features of a picture are no whole number.
        """
        return replace(self, vit=self.vit.of(towers))

    @property
    def cells(self) -> tuple[int, int]:
        """Height and width of a picture in cells of the decoder."""
        height, width = self.size
        return height // self.decoder.factor, width // self.decoder.factor

    @property
    def spec(self) -> TokenSpec:
        seen = self.vit.grid(self.size)
        if not self.pixel_vocab:
            return TokenSpec((seen,), self.semantic_vocab)
        tables = (self.semantic_vocab, self.pixel_vocab)
        return TokenSpec((seen, self.cells), sum(tables), tables=tables)


class Meaning(nn.Module):
    """Blocks that see all of a map (B, C, h, w), between two linear layers: to (B, out, h, w)."""

    def __init__(
        self, config: DualConfig, sizes: tuple[int, int], layers: int, normed: bool
    ) -> None:
        super().__init__()
        (channels, out), width, self.heads = sizes, config.width, config.heads
        shape = TowerConfig(layers, config.heads, width, 4 * width, "sigmoid")
        self.proj_in = Linear(channels, width)
        self.layers = nn.ModuleList([Block(shape) for _ in range(layers)])
        self.proj_out = Linear(width, out)
        self.norm = nn.LayerNorm(out) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = self.proj_in(x.flatten(2).transpose(1, 2))  # (B, N, D)
        turn = rope_2d_halves(height, width, x.shape[-1] // self.heads).to(x.device)
        for layer in self.layers:
            x = layer(x, turn=turn)
        x = self.norm(self.proj_out(x))
        return x.transpose(1, 2).unflatten(2, (height, width)).contiguous()


class Dual(NamedTuple):
    """What training needs of a tokenizer of two levels."""

    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    target: Tensor
    """(B, F, h, w) features of the ViT, normalised."""
    features: Tensor
    """(B, F, h, w) those that semantic codes give back."""
    semantic: Quantized
    pixels: Quantized | None
    """None of a tokenizer without codes of pixels."""

    @property
    def losses(self) -> dict[str, Tensor]:
        """What pulls codes and latents of both levels together, and how far features come back: the
        mean of 1 less their cosines."""
        levels = {"semantic": self.semantic, "pixel": self.pixels}
        found = {
            f"{name}_{kind}": loss
            for name, level in levels.items()
            if level is not None
            for kind, loss in level.losses.items()
        }
        features, target = self.features.float(), self.target.float()
        return found | {"features": (1 - F.cosine_similarity(features, target, dim=1)).mean()}


class DualTokenizer(ImageTokenizer):
    """A `Tokenizer`: images (B, 3, H, W) in [-1, 1] to semantic codes (B, h * w), row by row, and
    behind them those of pixels, and back."""

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        features, dim = config.vit.features, config.semantic_dim
        self.vit = FrozenViT(config.vit)
        self.semantic_encoder = Meaning(config, (features, dim), config.layers, config.norms[0])
        self.semantic_quantize = SimVQ(config.semantic_vocab, dim, config.rotate)
        self.semantic_decoder = Meaning(
            config, (dim, features), config.decoder_layers, config.norms[1]
        )
        if config.pixel_vocab:
            self.encoder = PixelEncoder(config.encoder)
            self.quant_conv = nn.Conv2d(config.encoder.latent, config.pixel_dim, 1)
            self.pixel_quantize = SimVQ(config.pixel_vocab, config.pixel_dim, config.rotate)
        self.post_quant_conv = nn.Conv2d(config.guide, config.decoder.latent, 1)
        self.decoder = PixelDecoder(config.decoder, config.guide)
        if config.pixel_vocab:
            self.begin_with_pixels()

    @torch.no_grad()
    def begin_with_pixels(self) -> None:
        """Have the decoder begin as one of pixel codes alone. What semantic codes add is learned:
        heard from the start they make the picture worse for as long as it trains."""
        norms = [m for m in self.decoder.modules() if isinstance(m, GuidedNorm)]
        for conv in (self.post_quant_conv, *(c for m in norms for c in (m.scale, m.shift))):
            conv.weight[:, : self.config.semantic_dim] = 0

    def see_with(self, towers: nn.Module) -> None:
        """Take the weights of the tower that sees of towers whose configuration `seeing` was
        given."""
        self.vit.see_with(towers)

    @property
    def levels(self) -> int:
        return len(self.spec.grids)

    def size_of(self, spec: TokenSpec | None) -> tuple[int, int]:
        self.gives(spec)
        return self.size

    # -- what is coded

    def target(self, images: Tensor) -> Tensor:
        """Features of the ViT, each normalised over its channels: (B, F, h, w)."""
        with torch.no_grad():
            x = self.vit(images).permute(0, 2, 3, 1)
            return F.layer_norm(x, x.shape[-1:], eps=EPS).permute(0, 3, 1, 2)

    def pixel_latent(self, images: Tensor) -> Tensor:
        """(B, P, h, w) before quantization."""
        return self.quant_conv(self.encoder(images))

    def as_one(self, semantic: Tensor, pixels: Tensor | None) -> Tensor:
        """What stands for semantic codes (B, S, h, w) and, if there are any, for codes of pixels
        (B, P, h', w'), as one map (B, S + P, h', w')."""
        spread = F.interpolate(semantic, self.config.cells, mode="bicubic")
        return spread if pixels is None else torch.cat((spread, pixels), 1)

    def render(self, semantic: Tensor, pixels: Tensor | None) -> Tensor:
        """The same to images (B, 3, H, W), not clamped."""
        both = self.as_one(semantic, pixels)
        return self.decoder(self.post_quant_conv(both), both)

    def looked_up(self, codes: Tensor, levels: int) -> tuple[Tensor, Tensor | None]:
        """What stands for codes (B, N) of both levels: (B, S, h, w) and (B, P, h', w'), which are
        zeros if only the first of two `levels` is wanted, None where there is one."""
        if not self.config.pixel_vocab:
            return self.semantic_quantize.decode(self._map(codes)), None
        semantic, pixels = self.spec.by_table(codes)
        vectors = self.pixel_quantize.decode(self._map(pixels, 1))
        if levels == 1:
            vectors = torch.zeros_like(vectors)
        return self.semantic_quantize.decode(self._map(semantic)), vectors

    def embedded(self, codes: Tensor) -> Tensor:
        return self.as_one(*self.looked_up(codes, self.levels))

    def forward(self, images: Tensor, swap: Tensor | None = None) -> Dual:
        """Images (B, 3, H, W) to what training needs of them. Where `swap` (B, 1, h, w) is True,
        what stands for codes of pixels is that of the image before."""
        target = self.target(images)
        semantic = self.semantic_quantize(self.semantic_encoder(target))
        features = self.semantic_decoder(semantic.latent.to(target.dtype))
        pixels = vectors = None
        if self.config.pixel_vocab:
            pixels = self.pixel_quantize(self.pixel_latent(images))
            vectors = pixels.latent.to(target.dtype)
            if swap is not None:
                vectors = torch.where(swap, vectors.roll(1, 0), vectors)
        out = self.render(semantic.latent.to(target.dtype), vectors)
        return Dual(out, target, features, semantic, pixels)

    # -- a `Tokenizer`

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to codes (B, N). Raises ValueError for images of another size than
        that of `spec`."""
        check_images(images, self.size_of(spec))
        latent = check_latent(self.semantic_encoder(self.target(images)))
        semantic = self.semantic_quantize.encode(latent).flatten(1)
        if not self.config.pixel_vocab:
            return semantic
        pixels = self.pixel_quantize.encode(check_latent(self.pixel_latent(images))).flatten(1)
        return torch.cat((semantic, pixels + self.config.semantic_vocab), 1)

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N) to images (B, 3, H, W), about [-1, 1], not clamped. Raises ValueError for
        codes of one level that stand in the other."""
        return self.preview(codes, self.levels, spec)

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        """Images of both levels of codes, or, of the first alone, with cells of pixels that are
        nothing."""
        check_levels(levels, self.levels)
        self.gives(spec)
        return self.render(*self.looked_up(codes, levels))

    def _map(self, codes: Tensor, level: int = 0) -> Tensor:
        """Codes (B, h * w) of a level as a map (B, h, w)."""
        return codes.unflatten(1, self.spec.grids[level])


def tiny() -> DualConfig:
    """A tokenizer of some thousand parameters, for tests."""
    convolutions = PixelConfig(channels=8, multipliers=(1, 2), blocks=1, attends=(1,), latent=4)
    return DualConfig(
        size=(16, 16),
        vit=FrozenViTConfig(
            patch=4, merge=2, features=12, vision=TowerConfig(1, 2, 8, 16, "sigmoid")
        ),
        width=16,
        layers=1,
        decoder_layers=1,
        heads=2,
        semantic_vocab=16,
        semantic_dim=4,
        pixel_vocab=24,
        pixel_dim=4,
        encoder=convolutions,
        decoder=PixelConfig(channels=8, multipliers=(1, 2), blocks=1, attends=(1,), latent=8),
    )

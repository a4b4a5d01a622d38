"""What every tokenizer says of itself, what it gives when it is trained, and how it refuses images.

Encoding, training and pipelines ask nothing else of a tokenizer, so that none of them knows a
system. B images, H, W image size, C codebook dimensions, h, w the latents' grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from smalti.arguments import an, by
from smalti.codes import TokenSpec
from smalti.nn.finite import require_finite
from smalti.tokenizers.maps import Map
from smalti.tokenizers.quantize.vq import Quantized


@dataclass(frozen=True)
class TokenizerConfig:
    """What the settings of every tokenizer have in common."""

    size: tuple[int, int] = (256, 256)
    """Height and width of the images in pixels, multiples of the downsampling factor."""

    @property
    def spec(self) -> TokenSpec:
        """The codes that the tokenizer gives."""
        raise NotImplementedError

    @property
    def of_map(self) -> Map:
        """Which map of a picture the codes are of; '': of the picture itself."""
        return ""

    @property
    def relaxed(self) -> bool:
        """Whether it draws its codes in training, at a temperature that falls."""
        return False


class ImageTokenizer(nn.Module):
    """A `Tokenizer` that can be trained, with the answers that most of them give.

    `encode` and `decode` take the codes that are asked for (`spec`), by default its own.
    """

    any_grid: bool = False
    """Whether it has no weights of positions, so that it has codes on other grids than its own."""
    placed: bool = True
    """Whether codes have places in the picture, so that a part of it can be drawn, and shown."""
    pyramid: bool = False
    """Whether its codes are scales, each of what the coarser ones left over. Then its quantizer,
    `quantize`, is a `Pyramid`."""
    scaled: bool = False
    """Whether its latents are brought to a standard deviation of one once it is trained (`spread`,
    `rescale`)."""
    distributions: bool = False
    """Whether its encoder gives distributions of codes, by `moments`."""
    map: Map = ""
    """Which map of a picture its codes are of, 'depth', 'segmentation' or 'edges'; '': of the
    picture itself. Edges it finds in the picture; others are pictures beside it."""
    kinds: int = 0
    """Of a segmentation: how many kinds of things there are, of which `render` gives logits."""
    told: bool = False
    """Whether its decoder reads a text of each picture beside its codes: `decode` then takes the
    features `text` that `read` gives."""
    relaxed: bool = False
    """Whether its quantizer draws codes in training, at a `temperature` that falls."""

    config: Any
    spec: TokenSpec

    @property
    def understands(self) -> int:
        """How many features of its codes (`features`) are compared with texts; 0: it has none."""
        return 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.config.size
        return height, width

    def gives(self, spec: TokenSpec | None) -> TokenSpec:
        """The codes of images: those of `spec`, or its own if that is None.

        Raises ValueError if it has no such codes.
        """
        if spec is None or spec == self.spec:
            return self.spec
        same = replace(spec, grids=self.spec.grids) == self.spec
        if self.any_grid and same and len(spec.grids) == len(self.spec.grids):
            return spec
        raise ValueError(f"{type(self).__name__} gives {self.spec}, got {spec}")

    def size_of(self, spec: TokenSpec | None) -> tuple[int, int]:
        """Height and width in pixels of images with these codes. Raises ValueError as `gives`."""
        height, width = self.gives(spec).grids[-1]
        return (height * self.factor, width * self.factor) if self.placed else self.size

    def require_places(self, what: str) -> None:
        """Raise ValueError if codes have no places in the picture, which `what` needs."""
        if not self.placed:
            raise ValueError(
                f"{what} needs codes with places in the picture, which the "
                f"{self.spec.positions} tokens of {an(type(self).__name__)} do not have"
            )

    def spec_of(self, size: tuple[int, int]) -> TokenSpec:
        """The codes of images of this height and width in pixels.

        Raises ValueError, naming the sizes that there are, if it has none of this one.
        """
        factor = self.factor
        if size == self.size:
            return self.spec
        if not self.any_grid:
            one = f"{by(self.size)}, the only one of this {type(self).__name__}"
            raise ValueError(f"size must be {one}, got {by(size)}")
        if min(size) < 1 or any(side % factor for side in size):
            raise ValueError(f"size must be multiples of {factor} pixels, got {by(size)}")
        grid = (size[0] // factor, size[1] // factor)
        return self.gives(replace(self.spec, grids=(grid,)))

    @property
    def factor(self) -> int:
        """Image pixels per code of the last grid, along one side."""
        return self.config.factor

    @property
    def coder(self) -> ImageTokenizer:
        """What makes its codes, and knows all of them: itself, or the tokenizer inside it whose
        codes it gives. Models store the fingerprint of this one."""
        return self

    @property
    def codebook(self) -> nn.Module | None:
        """The quantizer whose table of codes training has to keep alive; None where codes need no
        table."""
        return None

    @property
    def last_layer(self) -> Tensor:
        """The weight whose gradients balance an adaptive GAN loss."""
        return self.get_parameter("decoder.conv_out.weight")

    def seen(self, images: Tensor) -> Tensor:
        """What its codes are of, of images (B, 3, H, W): the same, or a map of them."""
        return images

    def target(self, images: Tensor) -> Tensor:
        """What `render` is to give, of images (B, 3, H, W)."""
        return self.seen(images)

    def encode(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to codes (B, N, *trailing)."""
        raise NotImplementedError

    def decode(self, codes: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Codes (B, N, *trailing) to images (B, 3, H, W), about [-1, 1]."""
        raise NotImplementedError

    def read(self, texts: Sequence[str]) -> Tensor:
        """Features (B, T, C) of texts, of a tokenizer that is `told` what pictures show."""
        raise ValueError(f"{type(self).__name__} decodes without a text, got {len(texts)}")

    def embedded(self, codes: Tensor) -> Tensor:
        """What stands for codes (B, N, *trailing) of its own grids, before it is decoded: a map
        (B, C, h, w)."""
        raise ValueError(f"{type(self).__name__} says no vectors of its codes")

    @property
    def levels(self) -> int:
        """How many parts its codes have of which the first alone are a coarser picture: scales, or
        the depths of a position; 1 where only all codes are one."""
        return 1

    def preview(self, codes: Tensor, levels: int, spec: TokenSpec | None = None) -> Tensor:
        """Images of the first `levels` levels of codes. Raises ValueError unless there are so
        many."""
        check_levels(levels, self.levels)
        return self.decode(codes, spec)

    def spread(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of the latents of images (B, 3, H, W), both (B, ...)."""
        raise ValueError(f"{type(self).__name__} has latents of a fixed scale")

    def rescale(self, std: float) -> dict[str, float]:
        """Take note of the standard deviation of the latents of training images, and say what
        became of it; most tokenizers have codes of a fixed scale, and say nothing."""
        return {}

    def moments(self, images: Tensor, spec: TokenSpec | None = None) -> Tensor:
        """Images (B, 3, H, W) to means and standard deviations of codes, (B, N, 2C)."""
        raise ValueError(f"{type(self).__name__} gives codes, not distributions of codes")


class Reconstruction(NamedTuple):
    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    latent: Tensor
    """(B, C, h, w) before quantization."""
    quantized: Quantized


def reading(tokenizer: Any, texts: Sequence[str] | None) -> dict[str, Any]:
    """What `decode` takes beside codes: the features of the texts that the decoder reads, if there
    are any. Raises ValueError if it reads none."""
    return {} if texts is None else {"text": tokenizer.read(texts)}


def side_of(tokenizer: ImageTokenizer) -> int:
    """Pixels of a side of a tokenizer's images, which pictures are cut to. Raises ValueError if
    these are no squares."""
    height, width = tokenizer.size
    if height != width:
        raise ValueError(f"pictures are cut to squares here, this tokenizer takes {height}x{width}")
    return height


def check_levels(levels: int, most: int) -> None:
    """Raise ValueError unless codes of `most` levels, scales or depths, have so many."""
    if not 1 <= levels <= most:
        raise ValueError(f"depth must be from 1 to {most}, got {levels}")


def check_images(images: Tensor, size: tuple[int, int]) -> None:
    """Raise ValueError unless images are (B, 3, *size), and numbers."""
    if tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"images must be (B, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}")
    bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"pixels must be numbers in [-1, 1], got NaN or inf in images {bad}")


def check_latent(latent: Tensor) -> Tensor:
    """The latent itself. Raises ValueError if some of it is no number: each would have a code."""
    return require_finite(latent, "latents of the tokenizer")

"""Pictures as codes, and codes as pictures, by the tokenizer of a pipeline.

B pictures, H and W pixels of the tokenizer's size, N positions, C channels of a vector.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.codes import TokenSpec
from smalti.data.decode import Picture, opened, to_rgb
from smalti.data.transforms import center_part, to_float, to_uint8
from smalti.engine.step import Step
from smalti.pictures import to_pil
from smalti.tokenizers.base import ImageTokenizer


@torch.inference_mode()
def encoded(tokenizer: ImageTokenizer, images: Tensor | np.ndarray | Picture) -> Tensor:
    """uint8 images (B, 3, H, W), or one picture, to codes (B, N, ...)."""
    size = tokenizer.size
    if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
        pixels = center_part(to_rgb(opened(images, "the image"), "the image"), size)
        images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *size):
        raise ValueError(
            f"images must be uint8 (B, 3, {size[0]}, {size[1]}), "
            f"got {short(images.dtype)} {tuple(images.shape)}"
        )
    return tokenizer.encode(_for(tokenizer, to_float(images)))


@torch.inference_mode()
def decoded(
    tokenizer: ImageTokenizer,
    codes: Tensor | np.ndarray,
    spec: TokenSpec | None = None,
    depth: int | None = None,
) -> Tensor:
    """Codes (B, N, ...) of a `spec`, by default the tokenizer's own, or vectors (B, N, C) that
    stand for them, to uint8 images (B, 3, H, W); of the first `depth` levels, all if it is None.

    Raises ValueError for codes that are none, and unless there are so many levels.
    """
    codes, spec = torch.as_tensor(codes), tokenizer.spec if spec is None else spec
    vectors = spec.discrete and codes.is_floating_point() and codes.dim() == 3
    if tuple(codes.shape[1:]) != spec.shape(1)[1:] and not vectors:
        wanted = ", ".join(map(str, spec.shape(1)[1:]))
        raise ValueError(f"codes must be (B, {wanted}), got {tuple(codes.shape)}")
    if spec.discrete and not vectors and codes.numel():
        low, high = (int(n) for n in codes.aminmax())
        if low < 0 or high >= spec.vocab:
            raise ValueError(f"codes must be in [0, {spec.vocab}), got {low} to {high}")
    codes = _for(tokenizer, codes)
    if depth is not None:
        return to_uint8(tokenizer.preview(codes, depth, spec))
    return to_uint8(tokenizer.decode(codes, spec))


@torch.inference_mode()
def preview(
    tokenizer: ImageTokenizer,
    step: Step,
    spec: TokenSpec | None = None,
    depth: int | None = None,
) -> list[Image.Image]:
    """Decode what there is of codes of a `spec`, by default the tokenizer's own: the scales so far,
    or grey over cells that are not drawn yet. Not more than the first `depth` levels, if that is
    given, are shown."""
    grid, *others = tokenizer.gives(spec).grids
    if others:
        codes = _for(tokenizer, step.drawn)
        scales = step.done if depth is None else min(step.done, depth)
        return to_pil(to_uint8(tokenizer.preview(codes, scales, spec)))
    images = decoded(tokenizer, step.drawn, spec, depth)  # (B, 3, H, W)
    drawn = step.ready.view(-1, 1, *grid).float()
    cells = nn.functional.interpolate(drawn, images.shape[2:], mode="nearest")
    return to_pil(torch.where(cells > 0, images, torch.full_like(images, 128)))


def _for(tokenizer: ImageTokenizer, x: Tensor) -> Tensor:
    """On the tokenizer's device, and floats in its dtype, whatever the generator has."""
    weight = next(tokenizer.parameters())
    return x.to(weight.device, weight.dtype if x.is_floating_point() else torch.int64)


def short(dtype: torch.dtype) -> str:
    """A dtype as people write it."""
    return str(dtype).removeprefix("torch.")

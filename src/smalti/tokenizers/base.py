"""What every tokenizer gives when it is trained, and how it refuses images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from smalti.finite import require_finite
from smalti.tokenizers.quantize.vq import Quantized


class Reconstruction(NamedTuple):
    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    latent: Tensor
    """(B, C, h, w) before quantization."""
    quantized: Quantized


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

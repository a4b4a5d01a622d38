"""How well a tokenizer gives images back: PSNR, and how many of its codes it uses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from smalti.codes import Tokenizer
from smalti.data.transforms import to_float, to_uint8
from smalti.eval.codebook import histogram, perplexity, usage


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each pair of uint8 images (B, 3, H, W): (B,) float64.

    Equal images give inf.
    """
    mse = ((images.double() - others.double()) / 255).square().flatten(1).mean(1)
    return -10 * mse.log10()


@torch.inference_mode()
def reconstruction(
    tokenizer: Tokenizer,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Over all images: "psnr", the mean of each image's (dB, after rounding to 8 bits, images that
    come back exactly counted as 100 dB); "usage" and "perplexity" of the codes, and of each scale's
    where there are several ("usage_2x2"); "images"."""
    values: list[Tensor] = []
    spec = tokenizer.spec
    sizes = [h * w for h, w in spec.grids]
    counts = torch.zeros(len(sizes), spec.vocab, dtype=torch.int64)
    for batch in batches:
        images = batch["images"].to(device)
        codes = tokenizer.encode(to_float(images))
        values.append(psnr(images, to_uint8(tokenizer.decode(codes))).cpu())
        counts += torch.stack([histogram(part, spec.vocab) for part in codes.split(sizes, 1)])
    if not values:
        raise ValueError("there are no images to reconstruct")
    result = {
        "psnr": torch.cat(values).clamp(max=100).mean().item(),
        "usage": usage(counts.sum(0)),
        "perplexity": perplexity(counts.sum(0)),
    }
    for (h, w), count in zip(spec.grids, counts, strict=True):
        if len(sizes) > 1:
            result |= {f"usage_{h}x{w}": usage(count), f"perplexity_{h}x{w}": perplexity(count)}
    return result | {"images": float(sum(len(v) for v in values))}

"""How well a tokenizer gives images back: PSNR, and how it uses its codes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from smalti.codes import TokenSpec
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
    tokenizer: Any,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Over all images: "psnr", the mean of each image's (dB, after rounding to 8 bits, images that
    come back exactly counted as 100 dB); "images"; of discrete codes "usage" and "perplexity", and
    those of each scale where there are several ("usage_2x2"); of continuous ones "kl", an image's
    divergence from the normal distribution in nats, and "std", a latent's standard deviation for a
    given image, both means."""
    values: list[Tensor] = []
    spec = tokenizer.spec
    sizes = [h * w for h, w in spec.grids]
    counts = torch.zeros(len(sizes), spec.vocab, dtype=torch.int64)
    posteriors: list[Tensor] = []
    for batch in batches:
        images = batch["images"].to(device)
        codes = tokenizer.encode(to_float(images))
        values.append(psnr(images, to_uint8(tokenizer.decode(codes))).cpu())
        if spec.discrete:
            counts += torch.stack([histogram(part, spec.vocab) for part in codes.split(sizes, 1)])
        else:
            posterior = tokenizer.posterior(to_float(images))
            found = torch.stack((posterior.kl(), posterior.std.flatten(1).mean(1)))
            posteriors.append(found.cpu())  # (2, B)
    if not values:
        raise ValueError("there are no images to reconstruct")
    result = {"psnr": torch.cat(values).clamp(max=100).mean().item()}
    if spec.discrete:
        result |= _usages(counts, spec)
    else:
        kl, std = torch.cat(posteriors, 1).mean(1).tolist()
        result |= {"kl": kl, "std": std}
    return result | {"images": float(sum(len(v) for v in values))}


def _usages(counts: Tensor, spec: TokenSpec) -> dict[str, float]:
    """Usage and perplexity of codes counted at each scale, (K, V), and over all scales."""
    result = {"usage": usage(counts.sum(0)), "perplexity": perplexity(counts.sum(0))}
    for (h, w), count in zip(spec.grids, counts, strict=True):
        if len(spec.grids) > 1:
            result |= {f"usage_{h}x{w}": usage(count), f"perplexity_{h}x{w}": perplexity(count)}
    return result


@torch.inference_mode()
def latent_std(
    tokenizer: Any, batches: Iterable[dict[str, Tensor]], device: torch.device | str = "cpu"
) -> float:
    """Standard deviation of samples of latents, over all images, places and channels.

    Raises ValueError if there are no images, or if it is no number.
    """
    rows: list[Tensor] = []
    for batch in batches:
        mean, logvar = tokenizer.posterior(to_float(batch["images"].to(device)))
        mean, variance = mean.double().flatten(1), logvar.double().exp().flatten(1)
        rows.append(torch.stack((mean.mean(1), (mean.square() + variance).mean(1))).cpu())
    if not rows:
        raise ValueError("there are no images to measure latents of")
    first, second = torch.cat(rows, 1).mean(1)
    std = (second - first.square()).sqrt().item()
    if not 0 < std < math.inf:
        raise ValueError(f"the standard deviation of latents must be a positive number, got {std}")
    return std

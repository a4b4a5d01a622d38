"""How well a tokenizer gives images back: PSNR, SSIM and L1, and how it uses its codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.data.transforms import to_float, to_uint8
from smalti.devices.float64 import wide
from smalti.eval.codebook import bits, entropy, histograms, parts, perplexity, usage
from smalti.tokenizers.base import reading


class Window(NamedTuple):
    """Over what SSIM compares means and covariances."""

    weights: tuple[float, ...]
    """Of a row and of a column; they sum to 1."""
    sample: bool
    """Covariances of a sample (divided by n - 1) instead of those of a population (n)."""


_GAUSS = [math.exp(-((i / 1.5) ** 2) / 2) for i in range(-5, 6)]
GAUSS = tuple(weight / sum(_GAUSS) for weight in _GAUSS)
WINDOWS = {
    "uniform7": Window((1 / 7,) * 7, sample=True),
    "gauss11": Window(GAUSS, sample=False),
    "gauss11_sample": Window(GAUSS, sample=True),
}
"""scikit-image's default; Wang et al. 2004; scikit-image with Gaussian weights and its defaults."""
WindowName = Literal["uniform7", "gauss11", "gauss11_sample"]


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each pair of uint8 images (B, 3, H, W): (B,) float64.

    Equal images give inf.
    """
    mse = ((wide(images) - wide(others)) / 255).square().flatten(1).mean(1)
    return -10 * mse.log10()


def l1(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of each pair of uint8 images, of a range of 1: (B,) float64."""
    return (wide(images) - wide(others)).abs().flatten(1).mean(1) / 255


def ssim(images: Tensor, others: Tensor, window: WindowName = "uniform7") -> Tensor:
    """Structural similarity of each pair of uint8 images (B, 3, H, W): (B,) float64, in [-1, 1].

    Channels count as images of their own, and windows that reach over the border are left out.
    Raises ValueError if the window is larger than the images.
    """
    return ssim_map(wide(images) / 255, wide(others) / 255, window).flatten(1).mean(1)


def ssim_map(x: Tensor, y: Tensor, window: WindowName = "uniform7", span: float = 1.0) -> Tensor:
    """Structural similarity (Wang et al. 2004) at each place where an n x n window fits:
    (B, C, H, W) to (B, C, H - n + 1, W - n + 1). `span` is the range of the pixels."""
    weights, sample = WINDOWS[window]
    n = len(weights)
    if min(x.shape[2:]) < n:
        h, w = x.shape[2:]
        raise ValueError(f"SSIM needs images of {n} x {n} pixels or more, got {h} x {w}")
    kernel = torch.tensor(weights, dtype=x.dtype, device=x.device)

    def mean(v: Tensor) -> Tensor:
        rows = F.conv2d(v.flatten(0, 1).unsqueeze(1), kernel.view(1, 1, n, 1))
        return F.conv2d(rows, kernel.view(1, 1, 1, n)).squeeze(1).unflatten(0, v.shape[:2])

    unbiased = n * n / (n * n - 1) if sample else 1.0
    mx, my = mean(x), mean(y)
    spread = unbiased * (mean(x * x) - mx * mx + mean(y * y) - my * my)
    shared = unbiased * (mean(x * y) - mx * my)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    return (2 * mx * my + c1) * (2 * shared + c2) / ((mx * mx + my * my + c1) * (spread + c2))


@torch.inference_mode()
def reconstruction(
    tokenizer: Any,
    batches: Iterable[dict[str, Tensor]],
    device: torch.device | str = "cpu",
    depth: int | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, float]:
    """Means over all images, after rounding to 8 bits: "psnr" (dB, images that come back exactly
    counted as 100 dB), "ssim" and "l1"; "images"; of discrete codes "usage", "perplexity" and
    "entropy_bits", and those of each scale and depth where there are several ("usage_2x2",
    "usage_depth0"); of distributions "kl", an image's divergence from the normal distribution in
    nats, and "std", a latent's standard deviation for a given image, both means. With `depth`
    images come back of the first so many scales or depths alone. `texts` are those of all images,
    for a decoder that reads them."""
    values: list[Tensor] = []
    spec = tokenizer.spec
    counts: Tensor | int = 0
    posteriors: list[Tensor] = []
    done = 0
    for batch in batches:
        images = batch["images"].to(device)
        codes = tokenizer.encode(to_float(images))
        read = None if texts is None else texts[done : done + len(codes)]
        more, done = reading(tokenizer, read), done + len(codes)
        out = tokenizer.decode(codes, **more) if depth is None else tokenizer.preview(codes, depth)
        out, images = to_uint8(out), to_uint8(tokenizer.seen(to_float(images)))
        found = psnr(images, out).clamp(max=100), ssim(images, out), l1(images, out)
        values.append(torch.stack(found).cpu())  # (3, B)
        if spec.discrete:
            counts = counts + histograms(codes, spec)
        elif tokenizer.distributions:
            posterior = tokenizer.posterior(to_float(images))
            found = torch.stack((posterior.kl(), posterior.std.flatten(1).mean(1)))
            posteriors.append(found.cpu())  # (2, B)
    if not values:
        raise ValueError("there are no images to reconstruct")
    rows = torch.cat(values, 1)
    result = dict(zip(("psnr", "ssim", "l1"), rows.mean(1).tolist(), strict=True))
    if isinstance(counts, Tensor):
        result |= _usages(counts, spec)
    elif posteriors:
        kl, std = torch.cat(posteriors, 1).mean(1).tolist()
        result |= {"kl": kl, "std": std}
    return result | {"images": float(rows.shape[1])}


def _usages(counts: Tensor, spec: TokenSpec) -> dict[str, float]:
    """Of codes counted at each scale and depth, (K, D, V): of all, of each scale, of each depth."""
    return {
        f"{name}{part}": value
        for part, count in parts(counts, spec).items()
        for name, value in (
            ("usage", usage(count)),
            ("perplexity", perplexity(count)),
            ("entropy_bits", bits(entropy(count))),
        )
    }


@torch.inference_mode()
def latent_std(
    tokenizer: Any, batches: Iterable[dict[str, Tensor]], device: torch.device | str = "cpu"
) -> float:
    """Standard deviation of samples of latents, over all images, places and channels.

    Raises ValueError if there are no images, or if it is no number.
    """
    rows: list[Tensor] = []
    for batch in batches:
        spread = tokenizer.spread(to_float(batch["images"].to(device)))
        mean, variance = (wide(moment).flatten(1) for moment in spread)
        rows.append(torch.stack((mean.mean(1), (mean.square() + variance).mean(1))).cpu())
    if not rows:
        raise ValueError("there are no images to measure latents of")
    first, second = torch.cat(rows, 1).mean(1)
    std = (second - first.square()).sqrt().item()
    if not 0 < std < math.inf:
        raise ValueError(f"the standard deviation of latents must be a positive number, got {std}")
    return std

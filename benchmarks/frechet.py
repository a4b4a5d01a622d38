"""How long Fréchet distances take, beside one `scipy.linalg.sqrtm` per pair of covariances.

    OMP_NUM_THREADS=2 python benchmarks/frechet.py [--quick]

Fréchet wavelet distance of two sets of 5,000 images of 64 pixels (random fields of three sizes),
from uint8 batches to the number. The plain way holds all packets of a set, takes `torch.cov` of
each packet and one `sqrtm`. `ratio` is plain / smalti, of everything; `ratio_roots` is what the
`sqrtm`s alone take over what `distance` takes; `error` is relative. Then the distance of statistics
of 2,048 features, and the peak memory over more and more images, as growth of resident memory.
One JSON line per case.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch import Tensor

from common import report, seconds
from smalti.eval.frechet import Gaussian, distance
from smalti.eval.wavelet import Wavelets, fwd

BATCH = 100
T = TypeVar("T")


def timed(run: Callable[[], T], repeats: int = 1) -> tuple[T, float]:
    """What it returns, and the least time it took."""
    results: list[T] = []
    least = min(seconds(lambda: results.append(run())) for _ in range(repeats))
    return results[-1], least


def pictures(count: int, seed: int, size: int = 64) -> Iterator[Tensor]:
    """Batches of uint8 (100, 3, S, S): smooth fields, finer ones and noise."""
    for first in range(0, count, BATCH):
        generator = torch.Generator().manual_seed(seed * 10**6 + first)
        x = torch.full((BATCH, 3, size, size), 128.0)
        for grid, strength in ((4, 60 + 5 * seed), (16, 25), (size, 8)):
            field = torch.randn(BATCH, 3, grid, grid, generator=generator) * strength
            x += F.interpolate(field, size, mode="bicubic")
        yield x.round().clamp(0, 255).to(torch.uint8)


def gaussian(rows: Tensor) -> Gaussian:
    return Gaussian(rows.mean(0), rows.T.cov(), len(rows))


def by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    root = torch.from_numpy(sqrtm((a.cov @ b.cov).numpy()).real)
    return ((a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * root).trace()).item()


def plainly_split(x: Tensor, level: int) -> Tensor:
    """Packets (N, P, D) of images (N, C, H, W) in [0, 1], one step after another."""
    x = x.unsqueeze(1)
    for _ in range(level):
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        low, high = top + bottom, top - bottom
        (a, v), (h, d) = (
            (rows[..., ::2] + rows[..., 1::2], rows[..., ::2] - rows[..., 1::2])
            for rows in (low, high)
        )
        x = torch.stack((a, h, v, d), 2).flatten(1, 2) / 2
    return x.flatten(2)


def plain(sets: list[list[Tensor]], level: int) -> tuple[float, float]:
    """The distance with one sqrtm per packet, and what the sqrtms took in seconds."""
    a, b = (
        torch.cat([plainly_split(part.double() / 255, level) for part in images]) for images in sets
    )
    total, roots = 0.0, 0.0
    for rows in zip(a.unbind(1), b.unbind(1), strict=True):
        x, y = (gaussian(part) for part in rows)
        value, took = timed(lambda x=x, y=y: by_sqrtm(x, y))
        total, roots = total + value, roots + took
    return total / a.shape[1], roots


def gaussians(sets: list[list[Tensor]], level: int) -> list[Gaussian]:
    running = [Wavelets(level) for _ in sets]
    for wavelets, images in zip(running, sets, strict=True):
        for part in images:
            wavelets.add(part)
    return [wavelets.gaussian() for wavelets in running]


def wavelet(sets: list[list[Tensor]], level: int) -> None:
    found, took = timed(lambda: fwd(sets[0], sets[1], level), 5)
    pair = gaussians(sets, level)
    _, apart = timed(lambda: distance(*pair), 3)
    (value, roots), plainly = timed(lambda: plain(sets, level), 3)
    report(
        {
            "case": "wavelet",
            "images": sum(len(part) for part in sets[0]),
            "level": level,
            "features": pair[0].mean.shape[1],
            "smalti_s": took,
            "distance_s": apart,
            "plain_s": plainly,
            "sqrtm_s": roots,
            "ratio": plainly / took,
            "ratio_roots": roots / apart,
            "error": abs(found / value - 1),
        }
    )


def statistics(features: int) -> None:
    """Two sets of 2.5 times as many rows as features, whose variances decay as 1 / n."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, features + 1, dtype=torch.float64) ** -0.5
    mix = torch.linalg.qr(torch.randn(features, features, generator=generator).double())[0]
    rows = [torch.randn(5 * features // 2, features, generator=generator) for _ in range(2)]
    pair = [gaussian((x.double() * scale.roll(i)) @ mix + 0.01 * i) for i, x in enumerate(rows)]
    found, took = timed(lambda: distance(*pair).item(), 3)
    value, plainly = timed(lambda: by_sqrtm(*pair))
    report(
        {
            "case": "statistics",
            "features": features,
            "smalti_s": took,
            "sqrtm_s": plainly,
            "ratio": plainly / took,
            "error": abs(found / value - 1),
        }
    )


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is resident now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory(count: int) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    fwd(pictures(count, 0), pictures(count, 1))
    report({"case": "memory", "images": count, "peak_MB": (resident("VmHWM") - before) / 1e6})


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="Fréchet distances beside scipy's sqrtm")
    parser.add_argument("--quick", action="store_true", help="fewer images and features: a trial")
    quick = parser.parse_args().quick
    fwd(pictures(BATCH, 0), pictures(BATCH, 1))  # warms up
    for count in (500, 1000) if quick else (1000, 5000, 20_000):
        memory(count)
    statistics(256 if quick else 2048)
    sets = [list(pictures(500 if quick else 5000, seed)) for seed in (0, 1)]
    for level in (4,) if quick else (3, 4, 2):
        wavelet(sets, level)


if __name__ == "__main__":
    main()

"""What does it cost a MAR to keep features from step to step?

    python benchmarks/mar_refresh.py PIPELINE [--images 256] [--refresh 1,2,4,8]

The same images are drawn with features computed anew every so many reveal steps
(`Sampling.refresh`; 1 is exact). One JSON line per case: seconds an image; `psnr`, how near the
pictures are to the exact ones, in dB; and `distance`, the squared Fréchet distance of Gaussians of
neighbouring codes to those of exact images that were drawn with another seed. The `distance` of
case 1 is that of two exact draws: what is above it is the price in quality.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

import smalti
from common import report, seconds
from smalti.codes import Cond
from smalti.engine import stream
from smalti.sampling.noise import Noise

BATCH = 64


def draw(pipe: Any, images: int, seed: int, refresh: int) -> Tensor:
    """Codes (B, N, C) of images of all classes in turn."""
    sampling, found = pipe.sampling.changed(refresh=refresh), list[Tensor]()
    for first in range(0, images, BATCH):
        index = torch.arange(first, min(first + BATCH, images))
        noise = Noise.request(seed, len(index), first)
        cond = Cond(index % len(pipe.classes))
        *_, last = stream(pipe.model, sampling.request(pipe.model, cond, noise))
        found.append(last.codes.clone())
    return torch.cat(found)


def pairs(codes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each code and the one at its right, (rows, 2 C), in float64."""
    cells = codes.double().unflatten(1, grid)
    return torch.cat((cells[:, :, :-1], cells[:, :, 1:]), -1).flatten(0, 2)


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Fréchet distance of Gaussians fitted to rows a and b (rows, D)."""
    s, t = a.T.cov(), b.T.cov()
    root = torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + s.trace() + t.trace() - 2 * root)


def psnr(a: Tensor, b: Tensor) -> float:
    """Of pictures in [-1, 1], in dB."""
    return float(-10 * ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean().log10())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="the price of features that are kept")
    parser.add_argument("pipeline")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--refresh", default="1,2,4,8")
    options = parser.parse_args()
    pipe = smalti.load(options.pipeline)
    grid = pipe.model.spec.grids[0]
    other = pairs(draw(pipe, options.images, 1, 1), grid)
    exact = draw(pipe, options.images, 0, 1)
    for refresh in map(int, options.refresh.split(",")):
        found = dict[str, Tensor]()

        def run(refresh: int = refresh, found: dict[str, Tensor] = found) -> None:
            found["codes"] = draw(pipe, options.images, 0, refresh)

        took, codes = seconds(run), found["codes"]
        case = {"case": "refresh", "refresh": refresh, "images": options.images}
        case |= {"seconds": took / options.images, "distance": frechet(pairs(codes, grid), other)}
        if refresh > 1:
            case["psnr"] = psnr(*(pipe.tokenizer.decode(c) for c in (codes, exact)))
        report(case)


if __name__ == "__main__":
    main()

"""What reading costs beside the network that extracts features for FID.

    python benchmarks/features.py [--device cuda] [--size 256] [--count 256] [--quick]

A folder of PNG files is read and goes through the Inception network, and so do the same pictures as
tensors that are already in memory. Runs alternate; one JSON line gives the medians in images per
second and `share` (reading to preloaded, target 0.9).
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from common import report, seconds
from smalti.eval.sets import open_set
from smalti.features.inception import InceptionFID
from smalti.pictures import to_pil


def write(folder: Path, count: int, size: int) -> None:
    """Pictures with a photo's share of detail: smooth noise, and a little fine noise."""
    torch.manual_seed(0)
    for i in range(count):
        coarse = F.interpolate(torch.randn(1, 3, 16, 16), size=(size, size), mode="bicubic")
        pixels = 128 + 50 * coarse[0] + 4 * torch.randn(3, size, size)
        (image,) = to_pil(pixels.clamp(0, 255).byte()[None])
        image.save(folder / f"{i:05}.png")


@torch.inference_mode()
def extract(net: InceptionFID, batches: Iterable[Tensor]) -> float:
    """A number that needs all features, so that a device has to have finished."""
    return sum(net(batch).pool.sum() for batch in batches).item()


def main() -> None:
    parser = argparse.ArgumentParser(description="reading and features beside features alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--count", type=int, default=256, help="pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="32 pictures, once")
    given = parser.parse_args()
    count, repeats = (32, 1) if given.quick else (given.count, given.repeats)
    net = InceptionFID().eval().to(given.device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count, given.size)
        pictures = open_set(folder)
        batches = [batch.to(given.device) for batch in pictures.batches(given.batch)]
        extract(net, batches[:1])
        rounds = [
            (
                seconds(lambda: extract(net, pictures.batches(given.batch))),
                seconds(lambda: extract(net, batches)),
            )
            for _ in range(repeats)
        ]
    reading, bare = (count / statistics.median(times) for times in zip(*rounds, strict=True))
    about = {"case": "features", "size": given.size, "count": count, "batch": given.batch}
    speed = {"reading_per_s": reading, "preloaded_per_s": bare, "share": reading / bare}
    report(about | speed, given.device)


if __name__ == "__main__":
    main()

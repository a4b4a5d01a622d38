"""What do a decoder's ways cost: four kernels for an upsampling one, strips, bfloat16?

    python benchmarks/decoding.py [--tokenizer RECIPE or FOLDER] [--size N] [--batch N]
        [--ways plain kernels strips bfloat16] [--rounds N] [--clock cpu]

plain is the convolution of repeated pixels and the norm of whole maps; kernels is what pictures of
usual size are decoded by; strips is what large maps are (here all of a sixteenth of the largest
map or more); bfloat16 is the first under autocast. All are measured in turn, the first round is not
counted. `dB` is the peak signal-to-noise ratio to plain, of pixels in [-1, 1]; `peak_MB` the most
memory above what the process held before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

from common import report
from smalti.devices import rates
from smalti.nn import conv
from smalti.runs.bench import tokenizer_of

CPU = torch.device("cpu")
WAYS = ("plain", "kernels", "strips", "bfloat16")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def repeated(layer: conv.Upsample, x: torch.Tensor) -> torch.Tensor:
    """The convolution of pixels that are repeated."""
    return layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@contextmanager
def decoded_by(way: str, pixels: int) -> Iterator[None]:
    with ExitStack() as stack:
        large = pixels * 8 if way == "strips" else 1 << 62
        stack.enter_context(patch.object(conv, "LARGE", large))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"))
        if way == "plain":
            stack.enter_context(patch.object(conv.Upsample, "forward", repeated))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", default="llamagen_vq16")
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    rates.clock = CLOCKS[options.clock]
    trained = Path(options.tokenizer).is_dir()
    tokenizer = tokenizer_of(options.tokenizer, not trained, CPU)
    size = (options.size, options.size) if options.size else tokenizer.size
    torch.manual_seed(0)
    spec = tokenizer.spec_of(size)
    codes = torch.randint(spec.vocab, spec.shape(options.batch))
    times: dict[str, list[float]] = {way: [] for way in options.ways}
    peaks, images = dict[str, float](), dict[str, Any]()
    with torch.inference_mode():
        for _ in range(options.rounds + 1):
            for way in options.ways:
                with decoded_by(way, options.batch * size[0] * size[1]):
                    rates.forget_peak(CPU)
                    before = rates.peak_memory(CPU)
                    begin = rates.clock()
                    images[way] = tokenizer.decode(codes, spec)
                    times[way].append(rates.clock() - begin)
                    peaks[way] = rates.peak_memory(CPU) - before
    for way in options.ways:
        error = (images[way].float() - images[options.ways[0]].float()).square().mean().item()
        row = {"script": "decoding", "tokenizer": options.tokenizer, "way": way, "size": size[0]}
        row |= {"batch": options.batch, "ms": 1e3 * statistics.median(times[way][1:])}
        row |= {"ms_min": 1e3 * min(times[way][1:]), "peak_MB": peaks[way] / 1e6}
        report(row | {"dB": 10 * math.log10(4 / error) if error else None})


if __name__ == "__main__":
    main()

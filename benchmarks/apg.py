"""Does projected guidance (APG) keep colours from saturating, on latents and, centred, on logits?

    python benchmarks/apg.py PIPELINE ... [--images 512] [--level 3]

Each pipeline draws the classes of the held-out pictures of its source, in turn, with plain guidance
and with its parallel part weighted 0.5 and 0, at several scales. A JSON line per case: `fwd` to the
held-out pictures, and `saturation`, the mean over pixels of (max - min) / max of red, green and
blue, whose value of the held-out pictures is `real`.
"""

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

import smalti
from common import report
from smalti.cli.search import Drawn
from smalti.eval.frechet import distance
from smalti.eval.gathered import gather, of_reference
from smalti.eval.metrics import How
from smalti.eval.pipelines import asked
from smalti.eval.sets import open_set

SCALES, PARALLEL = (2.0, 4.0, 8.0), (1.0, 0.5, 0.0)


def saturation(images: Tensor) -> Tensor:
    """Of each uint8 picture (B, 3, H, W): (B,)."""
    most, least = images.float().amax(1), images.float().amin(1)
    return ((most - least) / most.clamp(min=1)).mean((1, 2))


def noted(batches: Iterable[Tensor], found: list[Tensor]) -> Iterator[Tensor]:
    for images in batches:
        found.append(saturation(images))
        yield images


def mean(found: list[Tensor]) -> float:
    return torch.cat(found).mean().item()


def cases(name: str, pipe: Any, count: int, level: int) -> None:
    real = open_set(f"{pipe.info['source']}@held", pipe.tokenizer.config.size[0])
    how, request, colours = How(level=level, draws=0), asked(pipe, real), list[Tensor]()
    known = of_reference(real, how, None).gaussian("packets")
    for _ in noted(real.batches(), colours):
        pass
    for guidance in SCALES:
        for parallel in PARALLEL:
            settings, found = {"guidance": guidance, "guidance_parallel": parallel}, list[Tensor]()
            drawn = Drawn(pipe, count, 0, request, settings)
            kept = gather(noted(drawn.batches(how.batch), found), how, how.needs)
            fwd = distance(kept.gaussian("packets"), known).mean().item()
            row = {"case": name, **settings, "images": count, "fwd": fwd}
            report(row | {"saturation": mean(found), "real": mean(colours)})


def main() -> None:
    parser = argparse.ArgumentParser(description="projected guidance beside plain guidance")
    parser.add_argument("pipelines", nargs="+")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--level", type=int, default=3)
    options = parser.parse_args()
    for path in options.pipelines:
        pipe = smalti.load(path)
        cases(type(pipe.model).__name__, pipe, options.images, options.level)


if __name__ == "__main__":
    main()

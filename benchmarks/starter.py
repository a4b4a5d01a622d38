"""How good are a pipeline's pictures of names, and how near are they to those that it learned?

    python benchmarks/starter.py PIPELINE [--data styles:FILE.parquet] [--n 256] [--out DIR]

PIPELINE draws from texts, such as the starter; the pictures are those that it learned, which are
held out by emoji. It draws one picture of each of N captions of the held-out part, and of N of the
training part, and says of each part: the Fréchet wavelet distance to that part's real pictures;
which share a small classifier recognises, that learned the real training pictures, beside the share
of real held-out pictures; and how far the nearest training picture is. Distances are root mean
squares of colours in [0, 1] of pictures brought down to 16 pixels. Real held-out pictures have such
a distance too: a model that copies draws nearer ones. `copies` is the share of pictures that are
nearer than all but 1 % of those, and `own` that of learned names whose nearest training picture is
the one of that name and style.

Writes a page of pairs, each picture beside the nearest training picture, and prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import smalti
from common import report
from smalti.eval.conditioning import ClassifierConfig, Recognised, class_accuracy
from smalti.eval.measure import measure
from smalti.eval.metrics import How
from smalti.eval.sets import ImageSet, open_set
from smalti.pictures import named_grid, save_png, to_pil
from smalti.pipeline.pipeline import Pipeline
from smalti.progress import track

PARTS = ("held", "train")
SIDE = 16
"""Pixels of a side at which pictures are compared."""
SHOWN = 16
"""Pairs of a part on the page, spread over its captions."""


class Real(NamedTuple):
    """The pictures of a part."""

    pictures: ImageSet
    images: Tensor
    """uint8 (N, 3, H, W)."""
    captions: list[str]
    labels: np.ndarray


def real(data: str, part: str, size: int, holdout: float) -> Real:
    pictures = open_set(f"{data}@{part}", size, holdout=holdout)
    images = torch.cat([rows.images for rows in pictures.numbered(256)])
    captions = [pictures.caption(i) for i in range(len(pictures))]
    return Real(pictures, images, captions, np.asarray(pictures.labels))


def spread(count: int, n: int) -> np.ndarray:
    """At most n of so many numbers, evenly."""
    return np.unique(np.linspace(0, count - 1, min(n, count)).round().astype(int))


def drawn(pipe: Pipeline, captions: list[str], seed: int) -> Tensor:
    """A picture of each caption, uint8 (N, 3, H, W)."""
    parts = [captions[i : i + 32] for i in range(0, len(captions), 32)]
    images = [
        image
        for i, some in enumerate(track(parts, "drawing", scale=32, of=len(captions)))
        for image in pipe(text=some, seed=seed, first=32 * i)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def as_set(path: Path, images: Tensor, labels: np.ndarray, classes: list[str]) -> ImageSet:
    """Pictures with their classes, as evaluations take them."""
    np.savez(path, arr_0=images.permute(0, 2, 3, 1).numpy(), arr_1=labels)
    path.with_suffix(".json").write_text(json.dumps({"class_names": classes}))
    return open_set(path)


def nearest(images: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """The distance (N,) of each picture to the nearest of the others, and its number."""

    def low(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.float() / 255, SIDE).flatten(1)  # (N, 3 * 16 * 16)

    far = torch.cdist(low(images), low(among)) / (3 * SIDE * SIDE) ** 0.5
    return far.min(1)


def page(out: Path, case: dict[str, Any]) -> None:
    """The page of pairs and numbers."""
    numbers = "\n".join(
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in case.items()
    )
    text = (
        "# Drawn pictures, each above the nearest training picture\n\n"
        f"| | |\n|---|---|\n{numbers}\n\n"
        "Names that the pipeline never learned:\n\n![held out](pairs-held.png)\n\n"
        "Names that it learned:\n\n![learned](pairs-train.png)\n"
    )
    (out / "pairs.md").write_text(text, encoding="utf-8")


def pairs(images: Tensor, others: Tensor, names: list[str], path: Path) -> None:
    """A sheet of pictures with those that are nearest below them."""
    some = spread(len(images), SHOWN)
    sheet = to_pil(torch.cat((images[some], others[some])))
    save_png(named_grid(sheet, [names[i] for i in some] * 2), path, {})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("--data", help="source of its pictures; default: as the pipeline says")
    parser.add_argument("--n", type=int, default=256, help="pictures of each part")
    parser.add_argument("--out", type=Path, default=Path("runs/starter"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the classifier; default: its own")
    args = parser.parse_args(arguments)
    pipe = smalti.load(args.pipeline)
    data, holdout = args.data or pipe.info["source"], pipe.info["holdout"]
    size = pipe.tokenizer.size[0]
    truth = {part: real(data, part, size, holdout) for part in PARTS}
    args.out.mkdir(parents=True, exist_ok=True)
    case: dict[str, Any] = {"script": "starter", "pipeline": pipe.fingerprint, "data": data}
    made, labels, far = dict[str, Tensor](), list[np.ndarray](), dict[str, Tensor]()
    for part, (_, _, captions, classes) in truth.items():
        some = spread(len(captions), args.n)
        names = [captions[i] for i in some]
        began = time.perf_counter()
        made[part] = drawn(pipe, names, args.seed)
        spent = time.perf_counter() - began
        labels.append(classes[some])
        far[part], number = nearest(made[part], truth["train"].images)
        pairs(made[part], truth["train"].images[number], names, args.out / f"pairs-{part}.png")
        case |= {f"n_{part}": len(names), f"draw_s_{part}": spent}
        near = [truth["train"].captions[i] for i in number.tolist()]
        if part == "train":
            case["own"] = float(np.mean([a == b for a, b in zip(names, near, strict=True)]))
    case |= distances(far, nearest(truth["held"].images, truth["train"].images)[0])
    case |= judged(made, labels, truth, data, holdout, args.steps)
    page(args.out, case)
    report(case)


def distances(far: dict[str, Tensor], usual: Tensor) -> dict[str, float]:
    """How near pictures are to training pictures, beside real ones that were held out."""
    found, least = {"nearest_real": usual.median().item()}, usual.quantile(0.01)
    for part, values in far.items():
        found[f"nearest_{part}"] = values.median().item()
        found[f"copies_{part}"] = (values < least).float().mean().item()
    return found


def judged(
    made: dict[str, Tensor],
    labels: list[np.ndarray],
    truth: dict[str, Real],
    data: str,
    holdout: float,
    steps: int | None,
) -> dict[str, float]:
    """Wavelet distances, and what the classifier says."""
    config = ClassifierConfig() if steps is None else ClassifierConfig(steps=steps)
    found, every = dict[str, float](), np.concatenate(labels)
    with tempfile.TemporaryDirectory() as folder:
        classes = truth["held"].pictures.require("a class").classes
        for part, rows in zip(PARTS, labels, strict=True):
            some = as_set(Path(folder) / f"{part}.npz", made[part], rows, classes)
            (fwd,) = measure(some, truth[part].pictures, How(("fwd",), draws=0))
            found[f"fwd_{part}"] = fwd.value
        both = as_set(Path(folder) / "all.npz", torch.cat([*made.values()]), every, classes)
        right, held = class_accuracy(both, data, config, holdout)
    count = len(labels[0])
    for part, rows in zip(PARTS, (slice(count), slice(count, None)), strict=True):
        found[f"accuracy_{part}"] = Recognised(every[rows], right.right[rows]).share()
    found["accuracy_real"] = held.share()
    found["accuracy_of_real"] = found["accuracy_held"] / found["accuracy_real"]
    return found


if __name__ == "__main__":
    main()

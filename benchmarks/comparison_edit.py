"""In-painting of known pictures by the systems of `comparison.py`: its error, and a figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smalti.codes import Cond, TokenSpec
from smalti.engine.step import Known
from smalti.eval.codebook import bits
from smalti.pictures import grid, to_pil
from smalti.pipeline.editing import known_positions
from smalti.pipeline.pipeline import Pipeline
from smalti.sampling.orders import known_first, order

WAYS: dict[str, tuple[str, bool | None]] = {
    "LlamaGen": ("llamagen", None),
    "RAR (known first)": ("rar", True),
    "RAR (row by row)": ("rar", False),
    "Open-MAGVIT2": ("magvit2", None),
    "IBQ": ("ibq", None),
    "VAR": ("var", None),
    "Infinity": ("infinity", None),
    "MaskGIT": ("maskgit", None),
    "MaskBit": ("maskbit", None),
    "MAR": ("mar", None),
    "Fluid": ("fluid", None),
}
"""Systems, and whether a raster model sees all that is known before it draws."""
TOKENIZERS: dict[str, str] = {
    "VQGAN alone": "llamagen",
    "LFQ alone": "magvit2",
    "IBQ alone": "ibq",
    "multi-scale VQ-VAE alone": "var",
    "multi-scale BSQ alone": "infinity",
    "KL-VAE alone": "mar",
}
"""Nothing is drawn: what a painter cannot beat by knowing every code."""
PICTURES = 64


def quarter(h: int, w: int) -> Tensor:
    """The lower right quarter of a grid (h, w), True where it is to be painted."""
    painted = torch.zeros(h, w, dtype=torch.bool)
    painted[h // 2 :, w // 2 :] = True
    return painted


def half(h: int, w: int, seed: int) -> Tensor:
    """Another random half of the patches for each seed."""
    chosen = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
    return (chosen < h * w // 2).view(h, w)


def spread(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """Up to `count` pictures from all over a batch that is sorted by what they show."""
    step = max(1, round(len(batch["labels"]) / count))
    return {k: v[::step][:count] for k, v in batch.items()}


def conditions(pipe: Pipeline, pictures: dict[str, Any]) -> list[Any]:
    """What a pipeline draws such pictures from: their captions, or their classes."""
    return pictures["captions"] if pipe.text is not None else pictures["labels"].tolist()


def inpainting(
    pipes: dict[str, Pipeline], pictures: dict[str, Any], draws: int
) -> dict[str, dict[str, Any]]:
    """Of each way and each mask: "psnr_MASK" against the original inside the mask, in dB of the
    mean squared error over all pictures and draws; "error_MASK" of each picture; and, for raster
    models, "bits_MASK" of a code inside, given those that the model sees."""
    some = spread(pictures, PICTURES)
    images, labels = some["images"], some["labels"]
    h, w = pipes["llamagen"].model.spec.grids[-1]
    masks = {
        "quarter": quarter(h, w).expand(len(images), -1, -1),
        "half": torch.stack([half(h, w, i) for i in range(len(images))]),
    }
    found: dict[str, dict[str, Any]] = {way: {} for way in (*TOKENIZERS, *WAYS)}
    for mask, hidden in masks.items():
        for way, name in TOKENIZERS.items():
            pipe = pipes[name]
            found[way] |= told(mask, pipe.decode(pipe.encode(images))[None], images, hidden)
        for way, (name, first) in WAYS.items():
            pipe = pipes[name]
            known = Known(pipe.encode(images), known_positions(pipe.model.spec, ~hidden))
            asked, spec = conditions(pipe, some), pipe.model.spec
            drawn = torch.stack(
                [painted(pipe, known, asked, i, known_first=first) for i in range(draws)]
            )
            found[way] |= told(mask, drawn, images, hidden)
            if pipe.model.loop == "causal" and len(spec.grids) == 1 and spec.discrete:
                found[way][f"bits_{mask}"] = _bits(pipe, known, labels, bool(first))
    return found


def painted(pipe: Pipeline, known: Known, asked: list[Any], seed: int, **settings: Any) -> Tensor:
    """uint8 (B, 3, H, W): what `pipe.edit` draws, of all pictures at once and without a seam."""
    drawn = pipe(asked, n=len(asked), known=known, seed=seed, **settings)
    return torch.from_numpy(np.stack([np.asarray(p) for p in drawn])).permute(0, 3, 1, 2)


def told(mask: str, drawn: Tensor, images: Tensor, painted: Tensor) -> dict[str, Any]:
    """Of drawn pictures (draws, B, 3, H, W) and masks (B, h, w)."""
    size = images.shape[-2] // painted.shape[1], images.shape[-1] // painted.shape[2]
    inside = painted.repeat_interleave(size[0], 1).repeat_interleave(size[1], 2)  # (B, H, W)
    square = ((drawn.double() - images.double()) / 255).square().mean((0, 2))  # (B, H, W)
    error = (square * inside).sum((1, 2)) / inside.sum((1, 2))  # (B,)
    return {f"psnr_{mask}": -10 * math.log10(error.mean()), f"error_{mask}": error.tolist()}


@torch.inference_mode()
def _bits(pipe: Pipeline, known: Known, labels: Tensor, first: bool) -> float:
    """Bits of an unknown code, all codes before it in the order being the picture's own."""
    spec: TokenSpec = pipe.model.spec
    orders = known_first(order("row-major", spec.grids[0]), known.mask) if first else None
    nats = pipe.model.loss(known.codes, Cond.of_labels(labels), orders)  # (B, N)
    return bits(nats[~known.mask].double().mean().item())


def edits(pipes: dict[str, Pipeline], pictures: dict[str, Any], rows: int = 6) -> Image.Image:
    """A row for each of some pictures: original, mask, and each of `WAYS` with kept pixels."""
    some = spread(pictures, rows)
    height, width = some["images"].shape[2:]
    h, w = pipes["llamagen"].model.spec.grids[-1]
    lower = torch.zeros(h, w, dtype=torch.bool)
    lower[h // 2 :] = True
    tiles: list[Image.Image] = []
    for i, picture in enumerate(to_pil(some["images"])):
        painted = (quarter(h, w), lower, half(h, w, i))[i % 3].numpy()
        mask = Image.fromarray(painted).resize((width, height), Image.Resampling.NEAREST)
        tiles += [picture, mask.convert("RGB")]
        for name, first in WAYS.values():
            pipe = pipes[name]
            reads = "classes" if pipe.text is None else "text"
            asked: dict[str, Any] = {reads: [conditions(pipe, some)[i]], "known_first": first}
            tiles += pipe.edit(picture, mask, keep_pixels=True, **asked)
    return grid(tiles, columns=2 + len(WAYS), zoom=3)

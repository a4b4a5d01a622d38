"""Which recipe for one's own pictures: what was measured, and the commands for a given number.

Every row of `MEASURED` is a training that was done; nothing in it is an estimate. What `advice`
adds for another number of pictures is computed from a row, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import Any

from smalti.data.skipped import read, report, tell
from smalti.data.source import Source, split
from smalti.recipes import RECIPES
from smalti.recipes.base import DataConfig
from smalti.runs.tokenizer import spread

LARGE = 100_000
"""From so many pictures on the published recipes are advised: they were made for a million."""
LOOKED = 32
"""Pictures whose size is looked at."""


@dataclass(frozen=True)
class Row:
    """One training of a tokenizer and a generator, on two threads of an AMD EPYC."""

    images: str
    pixels: int
    tokenizer: str
    """Recipe."""
    tokenizer_s: float | None
    psnr: float | None
    """Of held-out pictures, dB."""
    generator: str
    generator_s: float | None
    bits: str
    """Held-out bits per code; a diffusion loss of continuous codes."""
    source: str
    """Where the numbers are from."""


_EMOJI = "1,898 emoji in 9 classes"
_PAGE = "[comparison](comparison.md)"
MEASURED = (
    Row(_EMOJI, 32, "emoji_vqgan", 133, 22.39, "emoji_llamagen", 184, "5.405", _PAGE),
    Row(_EMOJI, 32, "emoji_vqgan", 133, 22.39, "emoji_rar", 274, "5.895", _PAGE),
    Row(_EMOJI, 32, "emoji_vqgan", 133, 22.39, "emoji_maskgit", 170, "at most 6.500", _PAGE),
    Row(_EMOJI, 32, "emoji_msvqvae", 86, 22.71, "emoji_var", 234, "5.589", _PAGE),
    Row(_EMOJI, 32, "emoji_klvae", 58, 25.99, "emoji_mar", 308, "(loss 0.3767)", _PAGE),
    Row(_EMOJI, 32, "emoji_klvae", 58, 25.99, "emoji_fluid", 230, "(loss 0.3754)", _PAGE),
    Row(
        *("25,000 drawn shapes with captions", 32, "shapes_vqgan", 90, None, "shapes_t2i", 486),
        *("", "[text to image](text-to-image.md)"),
    ),
    Row(
        *("1,281,167 of ImageNet", 256, "llamagen_vq16", None, None, "llamagen_b", None),
        *("", "published: rFID 2.19, FID 5.46"),
    ),
)


def table() -> str:
    """`MEASURED` as Markdown."""
    head = (
        *("pictures", "pixels", "tokenizer", "steps x batch", "minutes", "held-out dB"),
        *("generator", "steps x batch", "minutes", "held-out bits per code", "from"),
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in MEASURED:
        cells = (
            *(row.images, row.pixels, f"`{row.tokenizer}`", _steps(row.tokenizer)),
            *(_minutes(row.tokenizer_s), "" if row.psnr is None else row.psnr),
            *(f"`{row.generator}`", _steps(row.generator), _minutes(row.generator_s)),
            *(row.bits, row.source),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _steps(recipe: str) -> str:
    train = RECIPES[recipe]().train
    return f"{train.steps:,} x {train.batch}"


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f}"


def advice(source: Source) -> dict[str, Any]:
    """What a source holds, and the commands that train on it."""
    captions = sum(bool(source.caption(i)) for i in range(len(source)))
    sides = _sides(source)
    tell(source)
    facts: dict[str, Any] = {
        "kind": "data source",
        "images": len(source),
        "held_out": len(split(source, DataConfig().holdout)[1]),
        "classes": source.classes,
        "captions": captions,
        "pixels": f"shorter sides of {sides[0]} to {sides[-1]}" if sides else "cannot be read",
        **report(source.skipped),
    }
    side = sides[len(sides) // 2] if sides else 0
    if len(source) >= LARGE and side >= 256:
        return facts | _published(source, bool(captions))
    return facts | _small(source, bool(captions) and not source.classes)


def _sides(source: Source) -> list[int]:
    """The shorter sides of some pictures, in pixels, ascending."""
    examples = (read(source, i) for i in spread(range(len(source)), LOOKED))
    return sorted(min(example.image.size) for example in examples if example is not None)


def _small(source: Source, texts: bool) -> dict[str, Any]:
    """Advice for two CPU cores: the recipes' own steps, or as many passes over more pictures."""
    row = MEASURED[0]
    generator = "emoji_t2i" if texts else row.generator
    times = max(1.0, len(source) / 1898)
    first, second = (RECIPES[name]().train.steps for name in (row.tokenizer, generator))
    steps = [round(count * times) for count in (first, second)]
    given = f" --data.source {quote(source.name)}" if source.name != "emoji" else ""
    more = [f" --train.steps {n}" if times > 1 else "" for n in steps]
    took = (
        _minutes(row.tokenizer_s)
        if texts
        else f"{_minutes(row.tokenizer_s)} and {_minutes(row.generator_s)}"
    )
    why = (
        f"measured on {row.images} at {row.pixels} pixels, two CPU cores: {took} minutes, "
        f"{row.psnr} dB on held-out pictures, with a vocabulary of 512 and batches of 16"
    )
    if times > 1:
        scaled = [s * times / 60 for s in (row.tokenizer_s, row.generator_s) if s]
        told = " and ".join(f"{minutes:.0f}" for minutes in scaled[: 1 if texts else 2])
        why += (
            f"; the steps below are as many passes over your pictures: {told} minutes at that speed"
        )
    return {
        "advice": why,
        "size": (
            "--model.size 32 32 is the tokenizer's default; at 64 64 a picture has four times the "
            "codes and four times the work, and no run of that size was measured"
        ),
        "commands": [
            f"smalti train {row.tokenizer}{given}{more[0]} --out runs/tokenizer",
            f"smalti train {generator}{given}{more[1]} --tokenizer runs/tokenizer "
            "--out runs/generator",
            "smalti sample runs/generator/pipeline --n 16 --out drawn.png",
        ],
    }


def _published(source: Source, texts: bool) -> dict[str, Any]:
    """Advice for GPUs: what was published for about as many pictures."""
    generator = "llamagen_t2i_stage1" if texts else "llamagen_b"
    return {
        "advice": (
            "as many pictures as the published recipes were made for, on GPUs; smalti train "
            "--help lists them with their published results"
        ),
        "commands": [
            "torchrun --nproc-per-node 8 -m smalti train llamagen_vq16 "
            f"--data.source {quote(source.name)} --out runs/vq16",
            f"smalti encode {quote(source.name)} --tokenizer runs/vq16 --crop ten "
            + ("--text t5 " if texts else "")
            + "--out codes.arrow",
            f"torchrun --nproc-per-node 8 -m smalti train {generator} --tokenizer runs/vq16 "
            "--codes codes.arrow --out runs/generator",
        ],
    }

"""Train text-to-image on pictures with captions, then draw a prompt.

python examples/text.py shapes --prompt "a large red heart in the centre" --out runs/text

The source is shapes, emoji, parquet:PATH or folder:PATH with a metadata.csv of captions. The text
encoder spells words in bytes and learns with the generator. Run again, it goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import smalti
from smalti.pictures import grid, save_png
from smalti.recipes.base import DataConfig
from smalti.recipes.text import shapes_t2i, shapes_vqgan
from smalti.runs.run import train


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--prompt", nargs="+", required=True)
    parser.add_argument("--negative")
    parser.add_argument("--out", type=Path, default=Path("runs/text"))
    parser.add_argument("--steps", type=int, help="of either part; default: the recipes'")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=48, help="width of the tokenizer")
    parser.add_argument("--dim", type=int, default=192, help="width of the generator")
    args = parser.parse_args(arguments)

    first, second = shapes_vqgan(), shapes_t2i()
    shared = {"batch": args.batch} | ({"steps": args.steps} if args.steps else {})
    data = DataConfig(source=args.source, flip=False)
    first = replace(
        first,
        data=data,
        model=replace(first.model, channels=args.channels),
        train=replace(first.train, **shared),
    )
    train(first, args.out / "tokenizer")
    second = replace(
        second,
        data=data,
        tokenizer=str(args.out / "tokenizer" / "tokenizer"),
        model=replace(second.model, dim=args.dim),
        train=replace(second.train, **shared),
    )
    train(second, args.out / "generator")
    pipe = smalti.load(args.out / "generator" / "pipeline")
    images = pipe(text=args.prompt, negative=args.negative, n=4 * len(args.prompt), seed=1)
    tags = {"images": [image.info["smalti"] for image in images]}
    save_png(grid(images, columns=len(args.prompt), zoom=2), args.out / "drawn.png", tags)


if __name__ == "__main__":
    main()

"""Draw a grid of images from a trained pipeline, a row for each class.

python examples/draw.py demo/pipeline --out fruit.png --columns 8 --guidance 3 --seed 1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import smalti
from smalti.pictures import grid, save_png


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="folder or Hugging Face hub id")
    parser.add_argument("--classes", nargs="*", default=[], help="names or ids; default: all")
    parser.add_argument("--columns", type=int, default=8, help="images of each class")
    parser.add_argument("--guidance", type=float, help="default: the pipeline's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("grid.png"))
    args = parser.parse_args(arguments)

    pipe = smalti.load(args.pipeline)
    settings = {} if args.guidance is None else {"guidance": args.guidance}
    rows = [
        pipe([name], n=args.columns, seed=args.seed, **settings)
        for name in args.classes or pipe.classes
    ]
    images = [image for row in rows for image in row]
    tags = {"images": [image.info["smalti"] for image in images]}
    save_png(grid(images, columns=args.columns), args.out, tags)
    print(f"{args.out}: {len(images)} images")


if __name__ == "__main__":
    main()

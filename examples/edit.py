"""Paint a box of each picture anew: a row of original, mask and edited pictures.

python examples/edit.py demo/pipeline cake.png pear.png --label "Food & Drink" --out edited.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import smalti
from smalti.data.decode import decode
from smalti.data.transforms import center_part
from smalti.pictures import grid, save_png


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="folder or Hugging Face hub id")
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--label", nargs="+", help="classes of the pictures, in turn; or none")
    parser.add_argument("--box", type=float, nargs=4, default=(0, 0.5, 1, 1), help="fractions")
    parser.add_argument("--n", type=int, default=4, help="edited pictures in a row")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("edited.png"))
    args = parser.parse_args(arguments)

    pipe = smalti.load(args.pipeline)
    height, width = pipe.tokenizer.config.size
    mask = Image.new("L", (width, height))
    sides = (width, height, width, height)
    mask.paste(255, tuple(round(v * n) for v, n in zip(args.box, sides, strict=True)))
    tiles: list[Image.Image] = []
    for i, path in enumerate(args.pictures):
        picture = Image.fromarray(center_part(decode(path, str(path)), (height, width)))
        tiles += [picture, mask.convert("RGB")]
        tiles += pipe.edit(
            picture,
            mask,
            classes=args.label and [args.label[i % len(args.label)]],
            keep_pixels=True,
            n=args.n,
            seed=args.seed,
            guidance=args.guidance,
        )
    save_png(grid(tiles, columns=2 + args.n, zoom=2), args.out, {})
    print(f"{args.out}: original, mask and {args.n} edited pictures of {len(args.pictures)}")


if __name__ == "__main__":
    main()

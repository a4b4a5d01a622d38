"""Keep the left half of a picture and draw the right half anew, several times.

python examples/inpaint.py demo/pipeline picture.png --n 7 --out halves.png

A raster model sees the rows above and what is left of the gap, not what is right of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import smalti
from smalti.data.decode import decode
from smalti.data.transforms import Transform
from smalti.engine.step import Known
from smalti.pictures import grid, save_png, to_pil


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="folder or Hugging Face hub id")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--label", default="0", help="class name or id of the picture")
    parser.add_argument("--n", type=int, default=7, help="how many ways to go on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("inpainted.png"))
    args = parser.parse_args(arguments)

    pipe = smalti.load(args.pipeline)
    transform = Transform(pipe.tokenizer.config.size[0])
    pixels = transform(decode(args.picture, str(args.picture)), None)
    codes = pipe.encode(torch.from_numpy(pixels)[None])  # (1, N)

    height, width = pipe.tokenizer.spec.grids[0]
    left = torch.arange(width, device=pipe.device) < width // 2
    mask = left.repeat(height)[None]  # (1, N), row by row
    known = Known(codes.repeat_interleave(args.n, 0), mask.expand(args.n, -1))
    images = pipe([args.label], n=args.n, seed=args.seed, known=known)
    # the first tile is the whole picture, as the tokenizer gives it back
    save_png(grid([*to_pil(pipe.decode(codes)), *images], zoom=2), args.out, {})
    print(f"{args.out}: the picture and {args.n} ways to go on")


if __name__ == "__main__":
    main()

"""Train a tokenizer and a generator on a folder of your own images, then draw new ones.

python examples/own_images.py photos --out runs/photos

The folder has one sub-folder per class. Run again, it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import smalti
from smalti.pictures import grid, save_png
from smalti.recipes.base import DataConfig
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.runs.run import train


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--steps", type=int, default=800, help="of the tokenizer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=48, help="width of the tokenizer")
    parser.add_argument("--dim", type=int, default=192, help="width of the generator")
    args = parser.parse_args(arguments)
    data = DataConfig(source=f"folder:{args.folder}", flip=True)

    tokenizer = emoji_vqgan()  # 32 pixels, 8 x 8 codes; see `smalti train emoji_vqgan --help`
    first = replace(
        tokenizer,
        data=data,
        model=replace(tokenizer.model, channels=args.channels),
        train=replace(tokenizer.train, steps=args.steps, batch=args.batch),
    )
    report = train(first, args.out / "tokenizer")
    print(f"held-out images come back at {report['held_out_psnr']:.1f} dB")

    generator = emoji_llamagen()
    share = args.steps / tokenizer.train.steps
    second = replace(
        generator,
        data=data,
        tokenizer=str(args.out / "tokenizer" / "tokenizer"),
        model=replace(generator.model, dim=args.dim),
        train=replace(
            generator.train, steps=round(generator.train.steps * share), batch=args.batch
        ),
    )
    train(second, args.out / "generator")
    pipe = smalti.load(args.out / "generator" / "pipeline")
    save_png(grid(pipe(n=16), zoom=2), args.out / "samples.png", {})


if __name__ == "__main__":
    main()

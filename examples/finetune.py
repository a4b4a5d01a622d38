"""Teach a pipeline the classes of a folder of images, in full or by LoRA, then draw from them.

python examples/finetune.py demo/pipeline photos --rank 8 --out runs/photos

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
from smalti.recipes.llamagen import emoji_llamagen
from smalti.runs.run import train
from smalti.train.lora import LoraConfig


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline")
    parser.add_argument("folder")
    parser.add_argument("--out", type=Path, default=Path("runs/finetuned"))
    parser.add_argument("--rank", type=int, default=8, help="of the updates; 0: every weight")
    parser.add_argument("--lr", type=float, help="default: 2e-3, or 2.5e-4 for every weight")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args(arguments)
    recipe = emoji_llamagen()  # its model, tokenizer and sampling give way to the pipeline's
    lr = args.lr or (2e-3 if args.rank else 2.5e-4)
    optim = replace(recipe.train.optim, lr=lr, warmup=args.steps // 10)
    recipe = replace(
        recipe,
        init=args.pipeline,
        lora=LoraConfig(rank=args.rank),
        data=DataConfig(source=f"folder:{args.folder}"),
        train=replace(recipe.train, steps=args.steps, batch=args.batch, optim=optim),
    )
    report = train(recipe, args.out)
    print(f"held-out codes take {report['held_out_bits_per_token']:.2f} bits each")
    pipe = smalti.load(args.out / "pipeline")  # an ordinary one: the updates are in the weights
    save_png(grid(pipe(n=16), zoom=2), args.out / "samples.png", {})


if __name__ == "__main__":
    main()

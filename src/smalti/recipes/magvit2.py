"""Open-MAGVIT2 as published (Luo et al. 2024, arXiv:2409.04410), and small ones for two CPU
cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.open_magvit2 import PUBLISHED
from smalti.models.open_magvit2 import SIZES, OpenMAGVIT2Config
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen, emoji_vqgan
from smalti.recipes.var import IMAGES
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQConfig, f16
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def magvit2_lfq() -> TokenizerRecipe:
    """Open-MAGVIT2's tokenizer, 256 pixels to 16 x 16 codes of 18 bits, 115 M parameters.

    Published: rFID 1.17 on ImageNet at 256, after 270 epochs. Upstream's rate falls in two steps,
    to a tenth at epochs 200 and 250, here in a line from epoch 200 on; its generator learns from a
    non-saturating loss, its discriminator is regularised by LeCAM, which ours is not.

    torchrun --nproc-per-node 8 -m smalti train magvit2_lfq --out runs/magvit2-tokenizer
    """
    epoch, goal = IMAGES // 256, replace(UNCARED, pixel="l1", entropy=0.1, commitment=0.25)
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=f16(),
        objective=replace(goal, gan_weight=0.1, gan_start=0),
        train=TrainConfig(
            steps=270 * epoch,
            batch=256,
            optim=OptimConfig(
                lr=1e-4,
                schedule="linear",
                hold=200 * epoch,
                final_lr=0.01,
                betas=(0.5, 0.9),
                weight_decay=0.0,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def magvit2(size: str, epochs: int = 300, lr: float = 3e-4) -> GeneratorRecipe:
    """Open-MAGVIT2 of a published size: AdamW, batch 768, a warm-up of a fiftieth, then a twentieth
    at the peak, then a line down to a tenth. Codes are cached, of the middle of each image and its
    mirror; upstream encodes as it goes."""
    steps, known = epochs * IMAGES // 768, PUBLISHED[size]
    warmup = steps // 50
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=replace(OpenMAGVIT2Config(**SIZES[size]), **known.ratios),
        sampling=known.sampling,
        train=TrainConfig(
            steps=steps,
            batch=768,
            optim=OptimConfig(
                lr=lr,
                schedule="linear",
                warmup=warmup,
                hold=(steps - warmup) // 20,
                final_lr=0.1,
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def magvit2_b() -> GeneratorRecipe:
    """Open-MAGVIT2-B, 343 M parameters. Published: FID 3.08 at 256 (guidance 1.9 and 2.0).

    smalti encode folder:imagenet/train --tokenizer magvit2-tokenizer --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train magvit2_b --tokenizer magvit2-tokenizer \\
        --codes codes.arrow --out runs/magvit2-b
    """
    return magvit2("B")


def magvit2_l() -> GeneratorRecipe:
    """Open-MAGVIT2-L, 804 M parameters. Published: FID 2.51 at 256 (guidance 1.9).

    torchrun --nproc-per-node 8 -m smalti train magvit2_l --tokenizer magvit2-tokenizer \\
        --codes codes.arrow --out runs/magvit2-l
    """
    return magvit2("L")


def magvit2_xl() -> GeneratorRecipe:
    """Open-MAGVIT2-XL, 1.5 B parameters. Published: FID 2.33 at 256 (guidance 1.75 and 1.85).

    torchrun --nproc-per-node 8 -m smalti train magvit2_xl --tokenizer magvit2-tokenizer \\
        --codes codes.arrow --out runs/magvit2-xl
    """
    return magvit2("XL", 350, 2.4e-4)


def emoji_lfq() -> TokenizerRecipe:
    """A small tokenizer of bits, 32 pixels to 8 x 8 codes of 9 bits, as wide as `emoji_vqgan`.

    smalti train emoji_lfq --out runs/emoji-lfq
    """
    return replace(
        emoji_vqgan(),
        model=OpenMAGVIT2LFQConfig(
            size=(32, 32), patch=2, channels=48, multipliers=(1, 2), blocks=1, bits=9
        ),
        objective=ReconstructionConfig(
            perceptual="none", gan_weight=0.0, entropy=0.02, codebook=UNCARED.codebook
        ),
    )


def emoji_magvit2() -> GeneratorRecipe:
    """A small Open-MAGVIT2 on the codes of `emoji_lfq`, 4 bits and then 5.

    Three layers over the picture and one over the groups, as many as `emoji_llamagen` has.

    smalti train emoji_magvit2 --tokenizer runs/emoji-lfq/tokenizer --out runs/emoji-magvit2
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=OpenMAGVIT2Config(
            grid=(8, 8),
            channels=9,
            groups=(4, 5),
            classes=9,
            layers=3,
            intra_layers=1,
            heads=4,
            dim=192,
            multiple_of=96,
            dropout=0.2,
            drop_path=0.1,
        ),
        train=replace(
            recipe.train, steps=2380, eval_every=476, preview_every=1190, save_every=1190
        ),
    )


def emoji_lfq64() -> TokenizerRecipe:
    """The tokenizer `emoji_lfq` for 64 pixels: a level more, 8 x 8 codes of 18 bits.

    smalti train emoji_lfq64 --out runs/emoji-lfq64
    """
    recipe = emoji_lfq()
    model = replace(recipe.model, size=(64, 64), multipliers=(1, 2, 2), bits=18)
    return replace(recipe, model=model)


def emoji_magvit2_64() -> GeneratorRecipe:
    """The generator `emoji_magvit2` on the codes of `emoji_lfq64`, two groups of 9 bits.

    smalti train emoji_magvit2_64 --tokenizer runs/emoji-lfq64/tokenizer --out runs/emoji-magvit2-64
    """
    recipe = emoji_magvit2()
    return replace(recipe, model=replace(recipe.model, channels=18, groups=(9, 9)))


DEMO = Demo(
    emoji_lfq,
    emoji_magvit2,
    what="bits in groups, one group after another",
    predicts="the groups of each code's bits from the codes before it",
)

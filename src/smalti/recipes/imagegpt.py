"""ImageGPT in its published sizes (Chen et al. 2020, ICML), and a small one.

[M] marks what is remembered of the paper.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.imagegpt import SIZES, ImageGPTConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.tokenizers.palette import PaletteConfig
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

COLOURS = ReconstructionConfig(
    perceptual="none", gan_weight=0.0, codebook=CodebookConfig(warmup=0, samples=64)
)
"""Colours are k-means centres of pixels; no network is there for another loss to train."""


def imagegpt_palette() -> TokenizerRecipe:
    """512 colours of pictures of 32 pixels, the published number.

    smalti train imagegpt_palette --out runs/palette
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=PaletteConfig(size=(32, 32)),
        objective=COLOURS,
        train=TrainConfig(
            steps=1000,
            batch=128,
            optim=OptimConfig(lr=1e-3, weight_decay=0.0),
            eval_every=500,
            preview_every=500,
            save_every=500,
        ),
    )


def imagegpt(size: str, lr: float) -> GeneratorRecipe:
    """ImageGPT of a size: a million steps of 128 pictures [M], Adam with betas 0.9 and 0.95 [M], a
    cosine after 10,000 steps of warm-up [M], no dropout [M]."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train?label=", flip=True, holdout=0.01),
        model=ImageGPTConfig(dropout=0.0, **SIZES[size]),
        objective=LikelihoodConfig(cond_dropout=0.0),
        train=TrainConfig(
            steps=1_000_000,
            batch=128,
            optim=OptimConfig(lr=lr, schedule="cosine", warmup=10_000, weight_decay=0.0),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def imagegpt_s() -> GeneratorRecipe:
    """iGPT-S, 77 M parameters, of pictures of 32 pixels.

    torchrun --nproc-per-node 8 -m smalti train imagegpt_s --tokenizer runs/palette/tokenizer \\
        --out runs/imagegpt-s
    """
    return imagegpt("S", 0.003)


def imagegpt_m() -> GeneratorRecipe:
    """iGPT-M, 455 M parameters, of pictures of 32 pixels.

    torchrun --nproc-per-node 8 -m smalti train imagegpt_m --tokenizer runs/palette/tokenizer \\
        --out runs/imagegpt-m
    """
    return imagegpt("M", 0.003)


def imagegpt_l() -> GeneratorRecipe:
    """iGPT-L, 1.4 B parameters, of pictures of 32 pixels.

    torchrun --nproc-per-node 8 -m smalti train imagegpt_l --train.parallel fsdp \\
        --tokenizer runs/palette/tokenizer --out runs/imagegpt-l
    """
    return imagegpt("L", 0.001)


def emoji_palette() -> TokenizerRecipe:
    """64 colours of emoji of 16 pixels, seconds on two CPU cores.

    smalti train emoji_palette --out runs/emoji-palette
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=PaletteConfig(size=(16, 16), vocab=64),
        objective=COLOURS,
        train=TrainConfig(
            steps=200,
            batch=64,
            optim=OptimConfig(lr=1e-3, weight_decay=0.0),
            eval_every=40,
            preview_every=100,
            save_every=100,
        ),
    )


def emoji_imagegpt() -> GeneratorRecipe:
    """A small ImageGPT of emoji of 16 pixels, in the colours of `emoji_palette`.

    smalti train emoji_imagegpt --tokenizer runs/emoji-palette/tokenizer --out runs/emoji-imagegpt
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=ImageGPTConfig(
            grid=(16, 16), vocab=64, classes=9, layers=4, heads=4, dim=192, dropout=0.1
        ),
        sampling=Sampling.of(guidance=1.5),
        train=replace(recipe.train, steps=1000, eval_every=200, preview_every=500, save_every=500),
    )


DEMO = Demo(
    emoji_palette,
    emoji_imagegpt,
    what="pixels, each a colour of a palette",
    predicts="the colour of each pixel from those before it",
)

"""DnD-Transformer as published (Chen et al. 2024, arXiv:2410.01912), and a small one for two CPU
cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from smalti.models.dnd import SIZES, DnDConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.recipes.rq import emoji_rq, rq_vae
from smalti.recipes.var import IMAGES
from smalti.tokenizers.rq_vae import f16
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

EIGHT = (26, 29, 32, 35, 38, 41, 44, 47)
"""The layers behind which the published model of eight codes at a position predicts them."""


def dnd_tokenizer() -> TokenizerRecipe:
    """The RQ-VAE of DnD-Transformer, 256 pixels to 16 x 16 positions of 2 codes out of 16384,
    trained as RQ-VAE is. Published: rFID 0.92 on ImageNet at 256.

    torchrun --nproc-per-node 8 -m smalti train dnd_tokenizer --out runs/dnd-tokenizer
    """
    return replace(rq_vae(), model=f16(2))


def dnd_tokenizer_4() -> TokenizerRecipe:
    """The same with 4 codes at each position. Published: rFID 0.60."""
    return replace(rq_vae(), model=f16(4))


def dnd(size: str, guidance: float, epochs: int = 400, **changes: Any) -> GeneratorRecipe:
    """Class-conditional DnD-Transformer of a published size: AdamW at a constant 2e-4, batch 256,
    ten-crop codes, condition dropout 0.1."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="ten", holdout=0.01),
        model=DnDConfig(**SIZES[size] | changes),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=Sampling.of(guidance=guidance),
        train=TrainConfig(
            steps=epochs * (IMAGES // 256),
            batch=256,
            optim=OptimConfig(lr=2e-4, betas=(0.9, 0.95), weight_decay=0.05),
            ema=0.9999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def dnd_xxl() -> GeneratorRecipe:
    """DnD-Transformer XXL, 1.4 B parameters, 2 codes at a position. Published: FID 2.58 at 256
    (guidance 2.0).

    smalti encode folder:imagenet/train --tokenizer runs/dnd-tokenizer/tokenizer --crop ten \\
        --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train dnd_xxl --tokenizer runs/dnd-tokenizer/tokenizer \\
        --codes codes.arrow --out runs/dnd-xxl
    """
    return dnd("XXL", 2.0)


def dnd_xxxl() -> GeneratorRecipe:
    """DnD-Transformer XXXL, 2.6 B parameters, 2 codes at a position. Published: FID 2.21 at 256
    (guidance 1.7)."""
    return dnd("XXXL", 1.7)


def dnd_xxl_64() -> GeneratorRecipe:
    """DnD-Transformer XXL-64, 64 layers; no FID was published."""
    return dnd("XXL-64", 2.0)


def dnd_xxl_8() -> GeneratorRecipe:
    """DnD-Transformer XXL with 8 codes at a position, as published for pages of arXiv, here for
    classes; no FID was published."""
    return dnd("XXL", 2.0, depth=8, at=EIGHT)


def emoji_dnd() -> GeneratorRecipe:
    """A small DnD-Transformer on the codes of `emoji_rq`, with the parameters of `emoji_llamagen`.

    smalti train emoji_dnd --tokenizer runs/emoji-rq/tokenizer --out runs/emoji-dnd
    """
    return replace(
        emoji_llamagen(),
        model=DnDConfig(
            grid=(4, 4),
            vocab=512,
            depth=4,
            classes=9,
            layers=8,
            heads=4,
            dim=128,
            multiple_of=64,
            dropout=0.2,
            drop_path=0.1,
        ),
    )


DEMO = Demo(
    emoji_rq,
    emoji_dnd,
    what="stacks of codes, each a refinement of those before it",
    predicts="the codes of each position, from coarse to fine, one layer after another",
)

"""DALL-E as published (Ramesh et al. 2021, arXiv:2102.12092), and small ones for two CPU cores.

[M] marks what is remembered of the paper: neither training code nor the transformer was published.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.dalle import SIZES, DALLEConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TextRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_vqgan
from smalti.recipes.text import emoji_t2i
from smalti.text.word_ids import WordIdsConfig
from smalti.tokenizers.dalle_dvae import DalleDVAEConfig
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.relaxation import RelaxationConfig
from smalti.train.settings import TrainConfig


def dalle_dvae() -> TokenizerRecipe:
    """The dVAE of DALL-E, 256 pixels to 32 x 32 codes out of 8192: 3 M steps of 512 pictures [M],
    from 1e-4 to 1.25e-6 [M] along a cosine in all of them (published: in 1.2 M [M]), an average of
    0.999 [M].

    torchrun --nproc-per-node 8 -m smalti train dalle_dvae --out runs/dalle-dvae
    """
    return TokenizerRecipe(
        data=DataConfig(source="parquet:captions", crop="random", flip=True, holdout=0.001),
        model=DalleDVAEConfig(),
        objective=RelaxationConfig(),
        train=TrainConfig(
            steps=3_000_000,
            batch=512,
            optim=OptimConfig(
                lr=1e-4,
                schedule="cosine",
                final_lr=0.0125,
                betas=(0.9, 0.999),
                weight_decay=1e-4,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def dalle_12b() -> TextRecipe:
    """DALL-E, 12 B parameters: 430,000 steps of 1024 pictures with captions [M], of which no
    caption was dropped; pieces of words are not left out at random, as a tenth was [M]. Published
    pictures are the best of 512 by a CLIP.

    smalti encode parquet:captions --tokenizer dalle-dvae --out codes.arrow
    torchrun --nproc-per-node 64 -m smalti train dalle_12b --train.parallel fsdp \\
        --tokenizer dalle-dvae --codes codes.arrow --out runs/dalle
    """
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=DALLEConfig(**SIZES["12B"]),
        text=WordIdsConfig(),
        objective=LikelihoodConfig(cond_dropout=0.0),
        train=TrainConfig(
            steps=430_000,
            batch=1024,
            optim=OptimConfig(
                lr=4.5e-4, warmup=5000, betas=(0.9, 0.96), weight_decay=4.5e-2, clip=4.0
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=2500,
        ),
    )


def emoji_dvae() -> TokenizerRecipe:
    """A small dVAE, 32 pixels to 8 x 8 codes of 512.

    smalti train emoji_dvae --out runs/emoji-dvae
    """
    recipe = emoji_vqgan()
    return replace(
        recipe,
        model=DalleDVAEConfig(
            size=(32, 32), channels=32, multipliers=(1, 2, 4), blocks=1, dim=64, vocab=512
        ),
        objective=RelaxationConfig(temperature_steps=600, kl_weight=3.0, kl_steps=100),
        train=replace(recipe.train, optim=replace(recipe.train.optim, lr=5e-3)),
    )


def emoji_dalle() -> TextRecipe:
    """A small DALL-E that draws emoji from their names, on the codes of `emoji_dvae`. So few
    pictures are learned by heart.

    smalti train emoji_dalle --tokenizer runs/emoji-dvae/tokenizer --out runs/emoji-dalle
    """
    recipe = emoji_t2i()
    return replace(
        recipe,
        model=DALLEConfig(
            grid=(8, 8),
            vocab=512,
            text_length=16,
            text_vocab=512,
            layers=4,
            heads=4,
            dim=192,
            square=5,
            dropout=0.1,
        ),
        text=WordIdsConfig(length=16, vocab=512),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
    )


DEMO = Demo(
    emoji_dvae,
    emoji_dalle,
    what="a name and a picture in one stream, whose layers look along rows, columns and squares",
    predicts="each code from the name and from a few codes before it",
)

"""RQ-VAE as published (Lee et al. 2022, arXiv:2203.01941), and small ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.recipes.llamagen import emoji_vqgan
from smalti.recipes.var import IMAGES
from smalti.tokenizers.rq_vae import RQVAEConfig, f32
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig

AVERAGES = CodebookConfig(kmeans=False, share=0.0, decay=0.99)
"""As upstream, codes are moving averages and do not start from k-means. Ours restart after 100
steps without use, upstream's when less than one latent a step is theirs."""


def rq_vae(epochs: int = 10) -> TokenizerRecipe:
    """RQ-VAE, 256 pixels to 8 x 8 positions of 4 codes out of 16384: Adam at a constant 4e-5,
    batch 128, 10 epochs.

    torchrun --nproc-per-node 4 -m smalti train rq_vae --out runs/rq-vae
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=f32(),
        objective=ReconstructionConfig(
            codebook=AVERAGES,
            gan_weight=0.75,
            gan_start=0,
            gan_adaptive=True,
            gan_layers=2,
        ),
        train=TrainConfig(
            steps=epochs * (IMAGES // 128),
            batch=128,
            optim=OptimConfig(lr=4e-5, betas=(0.5, 0.9), weight_decay=0.0),
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def rq_vae_50() -> TokenizerRecipe:
    """The same for 50 epochs, as of the best published generators."""
    return rq_vae(50)


def emoji_rq() -> TokenizerRecipe:
    """A small RQ-VAE, 32 pixels to 4 x 4 positions of 4 codes out of 512, as many bits as
    `emoji_vqgan` has.

    smalti train emoji_rq --out runs/emoji-rq
    """
    recipe = emoji_vqgan()
    return replace(
        recipe,
        model=RQVAEConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2, 2),
            blocks=1,
            latent=64,
            vocab=512,
            dim=16,
            depth=4,
            attention=False,
        ),
        objective=ReconstructionConfig(
            perceptual="none", gan_weight=0.0, codebook=CodebookConfig(decay=0.99)
        ),
    )


def emoji_rq64() -> TokenizerRecipe:
    """The same network, 64 pixels to 8 x 8 positions of 4 codes out of 512.

    smalti train emoji_rq64 --out runs/emoji-rq64
    """
    recipe = emoji_rq()
    return replace(recipe, model=replace(recipe.model, size=(64, 64)))

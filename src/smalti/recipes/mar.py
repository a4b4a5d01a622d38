"""MAR as published (Li et al. 2024, arXiv:2406.11838), and its tokenizer."""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.models.mar import MARConfig
from smalti.recipes.base import DataConfig, GeneratorRecipe, KLRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.settings import Sampling
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAEConfig
from smalti.train.kl import KLConfig
from smalti.train.masked import MaskedConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def kl16() -> KLRecipe:
    """KL-16, 256 pixels to 16 x 16 codes of 16 channels, 66.5 M parameters.

    Losses and their weights are latent diffusion's (autoencoder_kl_16x16x16). How MAR's authors
    trained theirs was not published: batch, rate and steps are as LlamaGen's tokenizers have them.

    torchrun --nproc-per-node 8 -m smalti train kl16 --out runs/kl16
    """
    return KLRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=kl_vae.kl16(),
        objective=KLConfig(),
        train=TrainConfig(
            steps=400_000,
            batch=128,
            optim=OptimConfig(lr=1e-4, weight_decay=0.0),
            ema=0.9999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def emoji_klvae() -> KLRecipe:
    """A small KL-VAE, 64 pixels to 8 x 8 codes of 16 channels, about two minutes on two CPU cores.

    smalti train emoji_klvae --out runs/emoji-kl
    """
    return KLRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=KLVAEConfig(
            size=(64, 64),
            patch=4,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            latent=16,
            attention=False,
        ),
        objective=KLConfig(pixel="l2", perceptual="none", gan_weight=0.0, kl_weight=1e-2),
        train=TrainConfig(
            steps=1600,
            batch=16,
            optim=OptimConfig(lr=4e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=0,
            preview_every=800,
            save_every=800,
        ),
    )


def emoji_mar() -> GeneratorRecipe:
    """A small MAR on the codes of `emoji_klvae`, about three minutes on two CPU cores.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_mar --tokenizer runs/emoji-kl/tokenizer --out runs/emoji-mar
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=MARConfig(
            grid=(8, 8),
            channels=16,
            classes=9,
            encoder_layers=3,
            decoder_layers=3,
            heads=4,
            dim=144,
            buffer=8,
            head=DiffusionConfig(depth=3, width=144),
        ),
        objective=MaskedConfig(),
        sampling=Sampling(guidance=2.0, schedule="linear", steps=32, solver="dpm", head_steps="25"),
        train=replace(recipe.train, steps=2400, preview_every=1200, save_every=1200),
    )

"""MAR as published (Li et al. 2024, arXiv:2406.11838), and its tokenizer."""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.projects.mar import fid_sampling
from smalti.models.mar import SIZES, MARConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, KLRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.recipes.var import IMAGES
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAEConfig
from smalti.train.kl import KLConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


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


def mar(size: str) -> GeneratorRecipe:
    """MAR of a published size: batch 2048 for 800 epochs, a warm-up of 100 and then a constant
    1e-4 for each 256 images; of each batch 70 to 100 % of the codes are hidden. Codes are samples
    of the tokenizer's distributions, of the middle of each image and its mirror."""
    batch = 2048
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=MARConfig(**SIZES[size]),
        objective=MaskedConfig(),
        sampling=fid_sampling(size),
        train=TrainConfig(
            steps=800 * IMAGES // batch,
            batch=batch,
            optim=OptimConfig(
                lr=1e-4 * batch / 256, warmup=100 * IMAGES // batch, weight_decay=0.02, clip=3.0
            ),
            ema=0.9999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def mar_b() -> GeneratorRecipe:
    """MAR-B, 208 M parameters. Published: FID 2.31 at 256.

    On paper 4.2 GB of weights, their average, gradients and AdamW's state, beside activations.
    Previews before 80 epochs show little: the average is slow.

    smalti convert mar --tokenizer kl16.ckpt --out kl16
    smalti encode folder:imagenet/train --tokenizer kl16 --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train mar_b --tokenizer kl16 --codes codes.arrow \\
        --out runs/mar-b
    """
    return mar("B")


def mar_l() -> GeneratorRecipe:
    """MAR-L, 478 M parameters. Published: FID 1.78 at 256.

    On paper 9.6 GB of weights, their average, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train mar_l --tokenizer kl16 --codes codes.arrow \\
        --out runs/mar-l
    """
    return mar("L")


def mar_h() -> GeneratorRecipe:
    """MAR-H, 942 M parameters. Published: FID 1.55 at 256.

    On paper 18.8 GB of weights, their average, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train mar_h --tokenizer kl16 --codes codes.arrow \\
        --out runs/mar-h
    """
    return mar("H")


def emoji_klvae() -> KLRecipe:
    """A small KL-VAE, 32 pixels to 8 x 8 codes of 8 numbers, about a minute on two CPU cores.

    smalti train emoji_klvae --out runs/emoji-kl
    """
    return KLRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=KLVAEConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            latent=8,
            attention=False,
        ),
        objective=KLConfig(pixel="l2", perceptual="none", gan_weight=0.0, kl_weight=3e-2),
        train=TrainConfig(
            steps=1600,
            batch=16,
            optim=OptimConfig(lr=4e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=320,
            preview_every=800,
            save_every=800,
        ),
    )


def emoji_mar() -> GeneratorRecipe:
    """A small MAR on the codes of `emoji_klvae`, about four minutes on two CPU cores.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_mar --tokenizer runs/emoji-kl/tokenizer --out runs/emoji-mar
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=MARConfig(
            grid=(8, 8),
            channels=8,
            classes=9,
            encoder_layers=3,
            decoder_layers=3,
            heads=4,
            dim=144,
            buffer=8,
            head=DiffusionConfig(depth=3, width=144),
        ),
        objective=MaskedConfig(),
        sampling=Sampling.of(
            guidance=2.0, schedule="linear", steps=8, solver="dpm", head_steps="16"
        ),
        train=replace(
            recipe.train, steps=2400, eval_every=480, preview_every=1200, save_every=1200
        ),
    )


DEMO = Demo(
    emoji_klvae,
    emoji_mar,
    what="codes without a codebook, an encoder and a decoder",
    predicts="hidden codes, of numbers, from those that are shown",
    minutes=(5, 9),
)

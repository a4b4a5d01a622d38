"""DC-AE in its published sizes (Chen et al. 2024, arXiv:2410.10733), and a small one.

A tokenizer learns in three stages: all of it on small pictures, the levels next to the latent on
large ones, and what makes pixels on small ones against a discriminator. [M] marks what is
remembered of the paper. Batches, rates and steps are not known; those here are as LlamaGen's
tokenizers have them.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.recipes.base import AutoencoderRecipe, DataConfig, Demo, GeneratorRecipe
from smalti.recipes.mar import emoji_mar
from smalti.tokenizers import dcae
from smalti.tokenizers.dcae import DCAEConfig, HalfConfig
from smalti.train.autoencoding import AutoencodingConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def published(model: DCAEConfig, steps: int = 400_000) -> AutoencoderRecipe:
    """The first stage: pictures of 256 pixels, absolute differences and LPIPS [M]."""
    return AutoencoderRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=model,
        objective=AutoencodingConfig(),
        train=TrainConfig(
            steps=steps,
            batch=128,
            optim=OptimConfig(lr=1e-4, weight_decay=0.0),
            ema=0.9999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def dcae_f32() -> AutoencoderRecipe:
    """DC-AE-f32c32, 256 pixels to 8 x 8 codes of 32 numbers, 323 M parameters.

    torchrun --nproc-per-node 8 -m smalti train dcae_f32 --out runs/dcae-f32
    """
    return published(dcae.f32c32(256))


def dcae_f64() -> AutoencoderRecipe:
    """DC-AE-f64c128, 256 pixels to 4 x 4 codes of 128 numbers, 677 M parameters.

    torchrun --nproc-per-node 8 -m smalti train dcae_f64 --out runs/dcae-f64
    """
    return published(dcae.f64c128(256))


def dcae_f128() -> AutoencoderRecipe:
    """DC-AE-f128c512, 256 pixels to 2 x 2 codes of 512 numbers, 1.12 B parameters.

    torchrun --nproc-per-node 8 -m smalti train dcae_f128 --out runs/dcae-f128
    """
    return published(dcae.f128c512(256))


def dcae_middle() -> AutoencoderRecipe:
    """The second stage of any DC-AE: on pictures of 1024 pixels [M] only the levels next to the
    latent learn.

    torchrun --nproc-per-node 8 -m smalti train dcae_middle --init runs/dcae-f64/tokenizer \\
        --out runs/dcae-f64-middle
    """
    recipe = published(dcae.f64c128(256), steps=50_000)
    return replace(
        recipe,
        pixels=1024,
        objective=replace(recipe.objective, learns="middle"),
        train=replace(recipe.train, batch=32),
    )


def dcae_head() -> AutoencoderRecipe:
    """The third stage of any DC-AE: on pictures of 256 pixels what makes pixels learns alone,
    against a discriminator.

    torchrun --nproc-per-node 8 -m smalti train dcae_head --init runs/dcae-f64-middle/tokenizer \\
        --out runs/dcae-f64-head
    """
    recipe = published(dcae.f64c128(256), steps=50_000)
    return replace(
        recipe, pixels=256, objective=replace(recipe.objective, learns="head", gan_weight=0.5)
    )


def emoji_dcae() -> AutoencoderRecipe:
    """A small DC-AE, 32 pixels to 4 x 4 codes of 32 numbers, about a minute on two CPU cores.

    smalti train emoji_dcae --out runs/emoji-dcae
    """
    encoder = HalfConfig((24, 48, 96, 128), (0, 1, 1, 1), attention_at=(8,))
    return AutoencoderRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=DCAEConfig((32, 32), 32, encoder, encoder),
        objective=AutoencodingConfig(pixel="l2", perceptual="none"),
        train=TrainConfig(
            steps=1600,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=320,
            preview_every=800,
            save_every=800,
        ),
    )


def emoji_dcae_mar() -> GeneratorRecipe:
    """A small MAR on the codes of `emoji_dcae`, of which a picture has 16.

    smalti train emoji_dcae_mar --tokenizer runs/emoji-dcae/tokenizer --out runs/emoji-dcae-mar
    """
    recipe = emoji_mar()
    return replace(
        recipe,
        model=replace(
            recipe.model, grid=(4, 4), channels=32, head=DiffusionConfig(depth=3, width=192)
        ),
        sampling=recipe.sampling.changed(steps=8),
    )


DEMO = Demo(
    emoji_dcae,
    emoji_dcae_mar,
    what="few codes of many numbers, one for each 8 x 8 pixels",
    predicts="hidden codes, of numbers, from those that are shown",
)

"""DC-AE in its published sizes (Chen et al. 2024, arXiv:2410.10733), and a small one.

A tokenizer learns in three stages: all of it on small pictures, the levels next to the latent on
large ones, and what makes pixels on small ones against a discriminator. [M] marks what is
remembered of the paper. Batches, rates and steps are not known; those here are as LlamaGen's
tokenizers have them.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.recipes.base import AutoencoderRecipe, Demo, GeneratorRecipe
from smalti.recipes.mar import emoji_klvae, emoji_mar, kl16
from smalti.tokenizers import dcae
from smalti.tokenizers.dcae import DCAEConfig, HalfConfig, Learns
from smalti.train.autoencoding import AutoencodingConfig


def published(model: DCAEConfig) -> AutoencoderRecipe:
    """The first stage: pictures of 256 pixels, absolute differences and LPIPS [M]."""
    like = kl16()
    return AutoencoderRecipe(
        data=like.data, model=model, objective=AutoencodingConfig(), train=like.train
    )


def later(model: DCAEConfig, pixels: int, batch: int, learns: Learns) -> AutoencoderRecipe:
    """A later stage, of a tokenizer that is trained."""
    recipe = published(model)
    return replace(
        recipe,
        pixels=pixels,
        objective=replace(recipe.objective, learns=learns),
        train=replace(recipe.train, steps=50_000, batch=batch),
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
    return later(dcae.f64c128(256), 1024, 32, "middle")


def dcae_head() -> AutoencoderRecipe:
    """The third stage of any DC-AE: on pictures of 256 pixels what makes pixels learns alone,
    against a discriminator.

    torchrun --nproc-per-node 8 -m smalti train dcae_head --init runs/dcae-f64-middle/tokenizer \\
        --out runs/dcae-f64-head
    """
    recipe = later(dcae.f64c128(256), 256, 128, "head")
    return replace(recipe, objective=replace(recipe.objective, gan_weight=0.5))


def emoji_dcae() -> AutoencoderRecipe:
    """A small DC-AE, 32 pixels to 4 x 4 codes of 32 numbers.

    smalti train emoji_dcae --out runs/emoji-dcae
    """
    encoder = HalfConfig((24, 48, 96, 128), (0, 1, 1, 1), attention_at=(8,))
    like = emoji_klvae()
    return AutoencoderRecipe(
        data=like.data,
        model=DCAEConfig((32, 32), 32, encoder, encoder),
        objective=AutoencodingConfig(pixel="l2", perceptual="none"),
        train=replace(like.train, optim=replace(like.train.optim, lr=2e-3)),
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
    )


DEMO = Demo(
    emoji_dcae,
    emoji_dcae_mar,
    what="few codes of many numbers, one for each 8 x 8 pixels",
    predicts="hidden codes, of numbers, from those that are shown",
)

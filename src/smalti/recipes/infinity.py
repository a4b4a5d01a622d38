"""Infinity as published (Han et al. 2024, arXiv:2412.04431), and small ones for two CPU cores."""

from __future__ import annotations

from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.tokenizers.infinity import InfinityVAEConfig, published, published_d56
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def infinity_vae(model: InfinityVAEConfig) -> TokenizerRecipe:
    """A tokenizer of a published size, for pictures of 256 pixels.

    Their trainer is another repository, FoundationVision/BitVAE. What the released code says of it
    is taken over: pixels weigh 4 (absolute), the entropy 0.1 over an inverse temperature of 100,
    the adversary 1, Adam's averages. Pictures, batch, rate and length are LlamaGen's.
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=model,
        objective=ReconstructionConfig(
            pixel="l1",
            pixel_weight=4.0,
            commitment=0.25,
            entropy=0.001,
            gan_weight=1.0,
        ),
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


def infinity_vae_d16() -> TokenizerRecipe:
    """Infinity's tokenizer of 16 bits, stride 16, 110 M parameters. Published: rFID 1.22 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d16 --out runs/infinity-d16
    """
    return infinity_vae(published(16, budget="0.06M"))


def infinity_vae_d24() -> TokenizerRecipe:
    """Infinity's tokenizer of 24 bits, stride 16, 110 M parameters. Published: rFID 0.75 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d24 --out runs/infinity-d24
    """
    return infinity_vae(published(24, budget="0.06M"))


def infinity_vae_d32() -> TokenizerRecipe:
    """Infinity's tokenizer of 32 bits, stride 16, 110 M parameters. Published: rFID 0.61 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d32 --out runs/infinity-d32
    """
    return infinity_vae(published(32, budget="0.06M"))


def infinity_vae_d64() -> TokenizerRecipe:
    """Infinity's tokenizer of 64 bits, stride 16, 110 M parameters. Published: rFID 0.33 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d64 --out runs/infinity-d64
    """
    return infinity_vae(published(64, budget="0.06M"))


def infinity_vae_d56() -> TokenizerRecipe:
    """The tokenizer of Infinity-8B: stride 8, 2 x 2 cells of 14 bits a position, 82 M parameters.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d56 --out runs/infinity-d56
    """
    return infinity_vae(published_d56(budget="0.06M"))


def emoji_bsq() -> TokenizerRecipe:
    """A small multi-scale binary spherical tokenizer, 32 pixels to six scales of 12 bits.

    The network and the grids, 1 x 1 to 8 x 8, are those of `emoji_msvqvae`, at 12 bits a position
    in place of 8; about three minutes on two CPU cores.

    smalti train emoji_bsq --out runs/emoji-bsq
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=InfinityVAEConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            scales=pyramid(1, 2, 3, 4, 6, 8),
            bits=12,
        ),
        objective=ReconstructionConfig(perceptual="none", gan_weight=0.0, entropy=0.001),
        train=TrainConfig(
            steps=1500,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=300,
            preview_every=500,
            save_every=500,
        ),
    )

"""VAR as published (Tian et al. 2024, arXiv:2404.02905), and small ones for two CPU cores."""

from __future__ import annotations

from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig, var256
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def var_vqvae() -> TokenizerRecipe:
    """VAR's tokenizer, 256 pixels to 10 scales of codes up to 16 x 16, 108.9 M parameters.

    Only the weights were published (trained on OpenImages), never the trainer: the architecture and
    the loss of the quantizer are theirs, all else is LlamaGen's VQ-16 recipe with our care for the
    codebook.

    torchrun --nproc-per-node 8 -m smalti train var_vqvae --out runs/var-tokenizer
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=var256(),
        objective=ReconstructionConfig(),
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


def emoji_msvqvae() -> TokenizerRecipe:
    """A small multi-scale VQ-VAE, 32 pixels to six scales of codes up to 8 x 8.

    smalti train emoji_msvqvae --out runs/emoji-scales
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=MultiScaleConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            scales=pyramid(1, 2, 3, 4, 6, 8),
            vocab=512,
            dim=8,
            attention=False,
        ),
        objective=ReconstructionConfig(perceptual="none", gan_weight=0.0),
        train=TrainConfig(
            steps=800,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=0,
            preview_every=400,
            save_every=400,
        ),
    )

"""LlamaGen as published (Sun et al. 2024, arXiv:2406.06525), and small ones for two CPU cores."""

from __future__ import annotations

from smalti.models.llamagen import SIZES, LlamaGenConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGANConfig
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig
from smalti.tokenizers.vqgan import VQGANConfig, vq8, vq16
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

UNCARED = ReconstructionConfig(codebook=CodebookConfig(kmeans=False, patience=0))
"""As upstream, which has neither a start from k-means nor restarts."""


def published_tokenizer(
    model: VQGANConfig | MaskGITVQGANConfig | MultiScaleConfig,
    objective: ReconstructionConfig = UNCARED,
) -> TokenizerRecipe:
    """A tokenizer trained as LlamaGen's: batch 128, a constant 1e-4, 400,000 steps."""
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=model,
        objective=objective,
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


def llamagen_vq16() -> TokenizerRecipe:
    """VQ-16, 256 pixels to 16 x 16 codes. Published: rFID 2.19 on ImageNet at 256.

    torchrun --nproc-per-node 8 -m smalti train llamagen_vq16 --out runs/vq16
    """
    return published_tokenizer(vq16())


def llamagen_vq8() -> TokenizerRecipe:
    """VQ-8, 256 pixels to 32 x 32 codes. Published: rFID 0.59 on ImageNet at 256.

    torchrun --nproc-per-node 8 -m smalti train llamagen_vq8 --out runs/vq8
    """
    return published_tokenizer(vq8())


def llamagen(size: str, guidance: float = 2.0, grid: int = 16) -> GeneratorRecipe:
    """Class-conditional LlamaGen of a published size: AdamW at a constant 1e-4, batch 256, 300
    epochs, ten-crop codes, condition dropout 0.1."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="ten", holdout=0.01),
        model=LlamaGenConfig(grid=(grid, grid), **SIZES[size]),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=Sampling.of(guidance=guidance),
        train=TrainConfig(
            steps=1_500_000,
            batch=256,
            optim=OptimConfig(lr=1e-4, weight_decay=0.05),
            ema=0.9999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def llamagen_b() -> GeneratorRecipe:
    """LlamaGen-B, 111 M parameters. Published: FID 5.46 at 256 (guidance 2.0).

    smalti encode folder:imagenet/train --tokenizer vq16 --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train llamagen_b --tokenizer vq16 --codes codes.arrow \\
        --out runs/b
    """
    return llamagen("B")


def llamagen_l() -> GeneratorRecipe:
    """LlamaGen-L, 343 M parameters. Published: FID 3.80 at 256, 3.07 at 384 (guidance 2.0)."""
    return llamagen("L")


def llamagen_xl() -> GeneratorRecipe:
    """LlamaGen-XL, 775 M parameters. Published: FID 2.62 at 384 (guidance 1.75)."""
    return llamagen("XL", 1.75, grid=24)


def llamagen_xxl() -> GeneratorRecipe:
    """LlamaGen-XXL, 1.4 B parameters. Published: FID 2.34 at 384 (guidance 1.75)."""
    return llamagen("XXL", 1.75, grid=24)


def llamagen_3b() -> GeneratorRecipe:
    """LlamaGen-3B, 3.1 B parameters. Published: FID 2.18 at 384 (guidance 1.65)."""
    return llamagen("3B", 1.65, grid=24)


def llamagen_1b() -> GeneratorRecipe:
    """LlamaGen-1B, 1.2 B parameters; no FID was published."""
    return llamagen("1B", 1.75, grid=24)


def llamagen_7b() -> GeneratorRecipe:
    """LlamaGen-7B, 6.6 B parameters; no FID was published."""
    return llamagen("7B", 1.65, grid=24)


def emoji_vqgan() -> TokenizerRecipe:
    """A small VQGAN, 32 pixels to 8 x 8 codes of 512, about two minutes on two CPU cores.

    smalti train emoji_vqgan --out runs/emoji-tokenizer
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=VQGANConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            latent=64,
            vocab=512,
            attention=False,
        ),
        objective=ReconstructionConfig(perceptual="none", gan_weight=0.0),
        train=TrainConfig(
            steps=800,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=160,
            preview_every=400,
            save_every=400,
        ),
    )


def emoji_llamagen() -> GeneratorRecipe:
    """A small LlamaGen on the codes of `emoji_vqgan`, about three minutes on two CPU cores.

    smalti train emoji_llamagen --tokenizer runs/emoji-tokenizer/tokenizer --out runs/emoji
    """
    return GeneratorRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=LlamaGenConfig(
            grid=(8, 8),
            vocab=512,
            classes=9,
            layers=4,
            heads=4,
            dim=192,
            multiple_of=64,
            dropout=0.2,
            drop_path=0.1,
        ),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
        train=TrainConfig(
            steps=3000,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1),
            ema=0.995,
            eval_every=600,
            preview_every=1500,
            save_every=1500,
        ),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_llamagen,
    what="one code after another",
    predicts="each code from those before it",
    minutes=(4, 7),
)

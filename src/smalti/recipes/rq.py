"""RQ-VAE as published (Lee et al. 2022, arXiv:2203.01941), and small ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.rq_transformer import SIZES, RQTransformerConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.recipes.var import IMAGES
from smalti.tokenizers.rq_vae import RQVAEConfig, f32
from smalti.train.codebook_care import CodebookConfig
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

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


def rq_transformer(size: str, epochs: int = 100) -> GeneratorRecipe:
    """Class-conditional RQ-Transformer of a published size: AdamW from 5e-4 along a cosine, batch
    2048, 100 epochs. Targets are the codes themselves, not upstream's soft ones, and of a tenth the
    class is dropped, for guidance that upstream does not have."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=RQTransformerConfig(**SIZES[size]),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=Sampling.of(top_p=0.92),
        train=TrainConfig(
            steps=epochs * (IMAGES // 2048),
            batch=2048,
            optim=OptimConfig(lr=5e-4, schedule="cosine", betas=(0.9, 0.95), weight_decay=1e-4),
            ema=0.9999,
            eval_every=5000,
            preview_every=5000,
            save_every=2500,
        ),
    )


def rq_480m() -> GeneratorRecipe:
    """RQ-Transformer of 480 M parameters. Published: FID 15.72 at 256, without guidance.

    smalti encode folder:imagenet/train --tokenizer runs/rq-vae/tokenizer --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train rq_480m --tokenizer runs/rq-vae/tokenizer \\
        --codes codes.arrow --out runs/rq-480m
    """
    return rq_transformer("480M")


def rq_821m() -> GeneratorRecipe:
    """RQ-Transformer of 821 M parameters. Published: FID 13.11 at 256, without guidance."""
    return rq_transformer("821M")


def rq_1400m() -> GeneratorRecipe:
    """RQ-Transformer of 1.4 B parameters. Published: FID 11.56 at 256, without guidance; 8.71 on a
    tokenizer of 50 epochs."""
    return rq_transformer("1.4B")


def emoji_rqt() -> GeneratorRecipe:
    """A small RQ-Transformer on the codes of `emoji_rq`, with the parameters of `emoji_llamagen`.

    smalti train emoji_rqt --tokenizer runs/emoji-rq/tokenizer --out runs/emoji-rqt
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=RQTransformerConfig(
            grid=(4, 4),
            vocab=512,
            depth=4,
            classes=9,
            layers=3,
            head_layers=1,
            heads=4,
            dim=192,
            code_dim=16,
            dropout=0.2,
        ),
    )


DEMO = Demo(
    emoji_rq,
    emoji_rqt,
    what="stacks of codes, each a refinement of those before it",
    predicts="the codes of each position, from coarse to fine",
)

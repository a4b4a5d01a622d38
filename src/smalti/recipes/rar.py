"""RAR as published (Yu et al. 2024, arXiv:2411.00776), and its tokenizer."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.rar import fid_sampling
from smalti.models.rar import SIZES, RARConfig
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen, emoji_vqgan, published_tokenizer
from smalti.tokenizers.maskgit_vqgan import f16
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def maskgit_vqgan() -> TokenizerRecipe:
    """MaskGIT-VQGAN, 256 pixels to 16 x 16 codes of 1,024. Published: rFID 2.28 at 256.

    54.5 M parameters. Its training was not published: the weights of the quantizer's losses are
    upstream's, all else is as LlamaGen trains its tokenizers.

    torchrun --nproc-per-node 8 -m smalti train maskgit_vqgan --out runs/maskgit-vqgan
    """
    weights = {"quantizer_weight": 0.25, "commitment": 1.0}  # its "commitment cost" is the former
    return published_tokenizer(f16(), replace(UNCARED, **weights))


def rar(size: str) -> GeneratorRecipe:
    """RAR of a published size: batch 2048 for 400 epochs, ten-crop codes, orders random up to half
    of the steps and then ever less so up to three quarters, condition dropout 0.1."""
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="ten", holdout=0.01),
        model=RARConfig(**SIZES[size]),
        objective=LikelihoodConfig(cond_dropout=0.1, random_until=125_000, random_end=187_500),
        sampling=fid_sampling(size),
        train=TrainConfig(
            steps=250_000,
            batch=2048,
            optim=OptimConfig(
                lr=4e-4,
                betas=(0.9, 0.96),
                weight_decay=0.03,
                schedule="cosine",
                warmup=62_500,
                final_lr=0.025,
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def rar_b() -> GeneratorRecipe:
    """RAR-B, 261 M parameters. Published: FID 1.95 at 256.

    On paper 4.2 GB of weights, gradients and AdamW's state, beside activations.

    smalti encode folder:imagenet/train --tokenizer maskgit-vqgan --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train rar_b --tokenizer maskgit-vqgan \\
        --codes codes.arrow --out runs/rar-b
    """
    return rar("B")


def rar_l() -> GeneratorRecipe:
    """RAR-L, 462 M parameters. Published: FID 1.70 at 256.

    On paper 7.4 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train rar_l --tokenizer maskgit-vqgan \\
        --codes codes.arrow --out runs/rar-l
    """
    return rar("L")


def rar_xl() -> GeneratorRecipe:
    """RAR-XL, 955 M parameters. Published: FID 1.50 at 256.

    On paper 15.3 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train rar_xl --tokenizer maskgit-vqgan \\
        --codes codes.arrow --out runs/rar-xl
    """
    return rar("XL")


def rar_xxl() -> GeneratorRecipe:
    """RAR-XXL, 1.5 B parameters. Published: FID 1.48 at 256.

    On paper 24 GB of weights, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train rar_xxl --tokenizer maskgit-vqgan \\
        --codes codes.arrow --out runs/rar-xxl
    """
    return rar("XXL")


def emoji_rar() -> GeneratorRecipe:
    """A small RAR on the codes of `emoji_vqgan`, about three minutes on two CPU cores.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_rar --tokenizer runs/emoji-tokenizer/tokenizer --out runs/emoji-rar
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=RARConfig(
            grid=(8, 8),
            vocab=512,
            classes=9,
            layers=4,
            heads=4,
            dim=156,
            ffn_dim=624,
            dropout=0.25,
        ),
        objective=LikelihoodConfig(random_until=1770, random_end=2655),
        train=replace(
            recipe.train, steps=3540, eval_every=708, preview_every=1770, save_every=1770
        ),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_rar,
    what="codes in random orders",
    predicts="each code from others, in many orders and then in one",
    minutes=(5, 9),
)

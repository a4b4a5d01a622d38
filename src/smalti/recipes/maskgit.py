"""MaskGIT as published (Chang et al. 2022, arXiv:2202.04200), and a small one."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.maskgit import MaskGITConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.recipes.var import IMAGES
from smalti.train.masked_loss import MaskedConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def maskgit() -> GeneratorRecipe:
    """MaskGIT for 256 pixels, 173 M parameters. Published: FID 6.18 in 8 steps, without guidance.

    The trainer was not published. Sizes, rate, warm-up, weight decay and label smoothing are those
    of upstream's configuration, which has 16 heads (the paper 8) and hides half of the codes at
    least; batch and the 300 epochs are remembered of the paper, whose random crops are ten fixed
    ones here. On paper 2.8 GB of weights, gradients and AdamW's state, beside activations.

    smalti encode folder:imagenet/train --tokenizer maskgit-vqgan --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train maskgit --tokenizer maskgit-vqgan \\
        --codes codes.arrow --out runs/maskgit
    """
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="ten", holdout=0.01),
        model=MaskGITConfig(),
        objective=MaskedConfig(masking="cosine", smoothing=0.1),
        sampling=Sampling.of(steps=8, confidence=4.5),
        train=TrainConfig(
            steps=300 * IMAGES // 256,
            batch=256,
            optim=OptimConfig(lr=1e-4, betas=(0.9, 0.96), weight_decay=0.045, warmup=5000),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def emoji_maskgit() -> GeneratorRecipe:
    """A small MaskGIT on the codes of `emoji_vqgan`, about three minutes on two CPU cores.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_maskgit --tokenizer runs/emoji-tokenizer/tokenizer --out runs/emoji-maskgit
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=MaskGITConfig(
            grid=(8, 8),
            vocab=512,
            classes=9,
            layers=4,
            heads=4,
            dim=188,
            ffn_dim=752,
            dropout=0.2,
        ),
        objective=MaskedConfig(masking="cosine"),
        sampling=Sampling.of(guidance=2.0, schedule="linear", steps=12, confidence=4.5),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_maskgit,
    what="the surest codes first",
    predicts="hidden codes, however many, from those that are shown",
    minutes=(5, 8),
)

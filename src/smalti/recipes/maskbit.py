"""MaskBit as published (Weber et al. 2024, arXiv:2409.16211), and a small one for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.maskbit import PUBLISHED
from smalti.models.maskbit import MaskBitConfig, published
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen
from smalti.recipes.magvit2 import emoji_lfq
from smalti.tokenizers.maskbit import f16
from smalti.train.masked_loss import MaskedConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

STEPS = 1_350_000
"""Of tokenizers and generators alike."""


def tokenizer(bits: int) -> TokenizerRecipe:
    """A tokenizer of so many bits: AdamW at 1e-4, half a cosine down to a tenth, batch 256.

    The squared error has weight 4 upstream, of images in [0, 1]: 1 of those in [-1, 1]. LPIPS
    stands for upstream's distance of a ResNet's logits; the discriminator has no blur and no LeCAM;
    upstream's entropy loss begins with twice its weight, which falls in 2000 steps.
    """
    goal = replace(UNCARED, pixel_weight=1.0, perceptual_weight=0.1, entropy=0.02)
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=f16(bits),
        objective=replace(goal, gan_weight=0.02, gan_start=20_000, gan_channels=128, gan_layers=4),
        train=TrainConfig(
            steps=STEPS,
            batch=256,
            optim=OptimConfig(
                lr=1e-4,
                schedule="cosine",
                warmup=5000,
                final_lr=0.1,
                betas=(0.9, 0.999),
                weight_decay=1e-4,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def maskbit_tokenizer_10bit() -> TokenizerRecipe:
    """MaskBit's tokenizer, 256 pixels to 16 x 16 codes of 10 bits. Published: rFID 1.76.

    torchrun --nproc-per-node 8 -m smalti train maskbit_tokenizer_10bit --out runs/maskbit-vqgan
    """
    return tokenizer(10)


def maskbit_tokenizer_12bit() -> TokenizerRecipe:
    """The same of 12 bits. Published: rFID 1.52."""
    return tokenizer(12)


def maskbit_tokenizer_14bit() -> TokenizerRecipe:
    """The same of 14 bits. Published: rFID 1.37.

    torchrun --nproc-per-node 8 -m smalti train maskbit_tokenizer_14bit --out runs/maskbit-vqgan
    """
    return tokenizer(14)


def maskbit_tokenizer_16bit() -> TokenizerRecipe:
    """The same of 16 bits. Published: rFID 1.29."""
    return tokenizer(16)


def maskbit_tokenizer_18bit() -> TokenizerRecipe:
    """The same of 18 bits, of which upstream's training left one unused. Published: rFID 1.16."""
    return tokenizer(18)


def generator(bits: int) -> GeneratorRecipe:
    """A generator over codes of so many bits: AdamW at 1e-4, half a cosine down to a tenth.

    Batch 1024 is remembered of the paper, whose 1080 epochs these steps make; upstream's files say
    32 for each device. Its random crops are ten fixed ones here.
    """
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="ten", holdout=0.01),
        model=published(bits),
        objective=MaskedConfig(masking="arccos", smoothing=0.1, known_weight=1.0),
        sampling=PUBLISHED[bits],
        train=TrainConfig(
            steps=STEPS,
            batch=1024,
            optim=OptimConfig(
                lr=1e-4,
                schedule="cosine",
                warmup=5000,
                final_lr=0.1,
                betas=(0.9, 0.96),
                weight_decay=0.045,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def maskbit_10bit() -> GeneratorRecipe:
    """MaskBit on codes of 10 bits, 305 M parameters. Published: FID 1.68 in 64 steps.

    On paper 6.1 GB of weights, gradients, AdamW's state and the average, beside activations.

    smalti encode folder:imagenet/train --tokenizer maskbit-vqgan --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train maskbit_10bit --tokenizer maskbit-vqgan \\
        --codes codes.arrow --out runs/maskbit
    """
    return generator(10)


def maskbit_12bit() -> GeneratorRecipe:
    """The same on codes of 12 bits. Published: FID 1.65."""
    return generator(12)


def maskbit_14bit() -> GeneratorRecipe:
    """The same on codes of 14 bits. Published: FID 1.62 in 64 steps, 1.52 in 256 (noise 10.3,
    guidance 6.8).

    smalti encode folder:imagenet/train --tokenizer maskbit-vqgan --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train maskbit_14bit --tokenizer maskbit-vqgan \\
        --codes codes.arrow --out runs/maskbit
    """
    return generator(14)


def maskbit_16bit() -> GeneratorRecipe:
    """The same on codes of 16 bits. Published: FID 1.64."""
    return generator(16)


def maskbit_18bit() -> GeneratorRecipe:
    """The same on codes of 18 bits. Published: FID 1.67."""
    return generator(18)


def emoji_maskbit() -> GeneratorRecipe:
    """A small MaskBit on the codes of `emoji_lfq`, three groups of 3 bits.

    As many parameters as `emoji_llamagen`, of which none are a table.

    smalti train emoji_maskbit --tokenizer runs/emoji-lfq/tokenizer --out runs/emoji-maskbit
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=MaskBitConfig(
            grid=(8, 8),
            channels=9,
            groups=3,
            classes=9,
            layers=4,
            heads=4,
            dim=200,
            ffn_dim=800,
            dropout=0.2,
        ),
        objective=MaskedConfig(masking="arccos", known_weight=1.0),
        sampling=Sampling.of(
            guidance=2.0, schedule="linear", steps=16, reveal="arccos", confidence=4.5
        ),
        train=replace(
            recipe.train, steps=2800, eval_every=560, preview_every=1400, save_every=1400
        ),
    )


def emoji_maskbit64() -> GeneratorRecipe:
    """The generator `emoji_maskbit` on the codes of `emoji_lfq64`, two groups of 9 bits.

    smalti train emoji_maskbit64 --tokenizer runs/emoji-lfq64/tokenizer --out runs/emoji-maskbit64
    """
    recipe = emoji_maskbit()
    return replace(recipe, model=replace(recipe.model, channels=18, groups=2))


DEMO = Demo(
    emoji_lfq,
    emoji_maskbit,
    what="the surest groups of bits first",
    predicts="hidden groups of bits, however many, from those that are shown",
)

"""IBQ as published (Shi et al. 2024, arXiv:2412.02692), and small ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.ibq import PUBLISHED
from smalti.models.ibq import SIZES, IBQConfig
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen, emoji_vqgan
from smalti.recipes.var import IMAGES
from smalti.tokenizers.fsq import FSQConfig
from smalti.tokenizers.ibq import IBQTokenizerConfig, f16
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

TERMS = replace(UNCARED, pixel="l1", joint=1.0, commitment=1.0, quantizer_weight=0.25, entropy=0.05)
"""The published weights of the quantizer's losses; every code learns, so none is cared for."""


def published_tokenizer(vocab: int, epochs: int = 330) -> TokenizerRecipe:
    """IBQ's tokenizer of so many codes: Adam, batch 256. Upstream's rate falls in steps, to a tenth
    at epoch 250 and again at 300, here in a line from epoch 250 on; its generator learns from a
    non-saturating loss, its discriminator is regularised by LeCAM, which ours is not."""
    epoch = IMAGES // 256
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=f16(vocab),
        objective=replace(TERMS, gan_weight=0.1, gan_start=0),
        train=TrainConfig(
            steps=epochs * epoch,
            batch=256,
            optim=OptimConfig(
                lr=1e-4,
                schedule="linear",
                hold=250 * epoch,
                final_lr=0.01,
                betas=(0.5, 0.9),
                weight_decay=0.0,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def ibq_tokenizer_1024() -> TokenizerRecipe:
    """IBQ's tokenizer of 1024 codes. Published: rFID 2.24 on ImageNet at 256, 99 % of them used.

    torchrun --nproc-per-node 8 -m smalti train ibq_tokenizer_1024 --out runs/ibq-1024
    """
    return published_tokenizer(1024)


def ibq_tokenizer_8192() -> TokenizerRecipe:
    """IBQ's tokenizer of 8192 codes. Published: rFID 1.87 on ImageNet at 256, 98 % of them used.

    torchrun --nproc-per-node 8 -m smalti train ibq_tokenizer_8192 --out runs/ibq-8192
    """
    return published_tokenizer(8192, 280)


def ibq_tokenizer_16384() -> TokenizerRecipe:
    """IBQ's tokenizer of 16384 codes, whose generators are published, 111 M parameters.

    Published: rFID 1.37 on ImageNet at 256, 96 % of the codes used.

    torchrun --nproc-per-node 8 -m smalti train ibq_tokenizer_16384 --out runs/ibq-tokenizer
    """
    return published_tokenizer(16384)


def ibq_tokenizer_262144() -> TokenizerRecipe:
    """IBQ's tokenizer of 262144 codes. Published: rFID 1.00 on ImageNet at 256, 84 % of them used.

    torchrun --nproc-per-node 8 -m smalti train ibq_tokenizer_262144 --out runs/ibq-262144
    """
    return published_tokenizer(262144)


def ibq(size: str, epochs: int, batch: int = 768, final_lr: float = 0.1) -> GeneratorRecipe:
    """IBQ's generator of a published size: AdamW at 3e-4, a warm-up of a fiftieth, then a twentieth
    at the peak, then a line. Codes are cached, of the middle of each image and its mirror; upstream
    encodes as it goes."""
    steps = epochs * IMAGES // batch
    warmup = steps // 50
    return GeneratorRecipe(
        data=DataConfig(source="folder:imagenet/train", holdout=0.01),
        model=IBQConfig(**SIZES[size]),
        sampling=PUBLISHED[size],
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(
                lr=3e-4,
                schedule="linear",
                warmup=warmup,
                hold=(steps - warmup) // 20,
                final_lr=final_lr,
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def ibq_b() -> GeneratorRecipe:
    """IBQ-B, 343 M parameters. Published: FID 2.88 at 256 (guidance 2.25, temperature 1.1).

    smalti encode folder:imagenet/train --tokenizer ibq-tokenizer --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train ibq_b --tokenizer ibq-tokenizer \\
        --codes codes.arrow --out runs/ibq-b
    """
    return ibq("B", 300)


def ibq_l() -> GeneratorRecipe:
    """IBQ-L, 650 M parameters. Published: FID 2.45 at 256 (guidance 2.0).

    torchrun --nproc-per-node 8 -m smalti train ibq_l --tokenizer ibq-tokenizer \\
        --codes codes.arrow --out runs/ibq-l
    """
    return ibq("L", 350)


def ibq_xl() -> GeneratorRecipe:
    """IBQ-XL, 1.1 B parameters. Published: FID 2.14 at 256 (guidance 2.35, temperature 1.15).

    torchrun --nproc-per-node 8 -m smalti train ibq_xl --tokenizer ibq-tokenizer \\
        --codes codes.arrow --out runs/ibq-xl
    """
    return ibq("XL", 400, final_lr=0.01)


def ibq_xxl() -> GeneratorRecipe:
    """IBQ-XXL, 2.1 B parameters. Published: FID 2.05 at 256 (guidance 2.85, temperature 1.2).

    torchrun --nproc-per-node 8 -m smalti train ibq_xxl --tokenizer ibq-tokenizer \\
        --codes codes.arrow --out runs/ibq-xxl
    """
    return ibq("XXL", 450, final_lr=0.01)


def emoji_ibq() -> TokenizerRecipe:
    """A small IBQ tokenizer, 32 pixels to 8 x 8 codes of 512, as wide as `emoji_vqgan`.

    Its codes begin as directions of latents: at the rate of small recipes, the published start is
    of codes that are never taken.

    smalti train emoji_ibq --out runs/emoji-ibq
    """
    return replace(
        emoji_vqgan(),
        model=IBQTokenizerConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            latent=64,
            vocab=512,
            dim=8,
            attention=False,
        ),
        objective=ReconstructionConfig(
            perceptual="none",
            gan_weight=0.0,
            joint=0.1,
            commitment=0.1,
            quantizer_weight=0.1,
            entropy=0.05,
        ),
    )


def emoji_ibq_ar() -> GeneratorRecipe:
    """A small IBQ generator on the codes of `emoji_ibq`, as deep as `emoji_llamagen`.

    It is narrower, as the class modulates every layer.

    smalti train emoji_ibq_ar --tokenizer runs/emoji-ibq/tokenizer --out runs/emoji-ibq-ar
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=IBQConfig(
            grid=(8, 8),
            vocab=512,
            classes=9,
            layers=4,
            heads=4,
            dim=160,
            multiple_of=4,
            dropout=0.2,
            drop_path=0.1,
        ),
        train=replace(
            recipe.train, steps=4200, eval_every=840, preview_every=2100, save_every=2100
        ),
    )


def emoji_ibq64() -> TokenizerRecipe:
    """The tokenizer `emoji_ibq` for 64 pixels: a level more, 8 x 8 codes of 4,096.

    smalti train emoji_ibq64 --out runs/emoji-ibq64
    """
    recipe = emoji_ibq()
    model = replace(recipe.model, size=(64, 64), multipliers=(1, 2, 2), vocab=4096)
    return replace(recipe, model=model)


def emoji_ibq_ar64() -> GeneratorRecipe:
    """The generator `emoji_ibq_ar` on the codes of `emoji_ibq64`.

    smalti train emoji_ibq_ar64 --tokenizer runs/emoji-ibq64/tokenizer --out runs/emoji-ibq-ar64
    """
    recipe = emoji_ibq_ar()
    return replace(recipe, model=replace(recipe.model, vocab=4096))


def emoji_fsq() -> TokenizerRecipe:
    """A small tokenizer of three channels of 8 levels, 512 codes, as wide as `emoji_vqgan`.

    smalti train emoji_fsq --out runs/emoji-fsq
    """
    return replace(
        emoji_vqgan(),
        model=FSQConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            latent=64,
            levels=(8, 8, 8),
            attention=False,
        ),
        objective=ReconstructionConfig(
            perceptual="none", gan_weight=0.0, codebook=UNCARED.codebook
        ),
    )


DEMO = Demo(
    emoji_ibq,
    emoji_ibq_ar,
    what="one code after another, of a table of which every code learns",
    predicts="each code from those before it, in layers that the class modulates",
)

"""UniTok as published (Ma et al. 2025, arXiv:2502.20321), its language model, and small ones for
two CPU cores.

Marks of the language model: [C] read in the released code, [M] remembered of the paper, to be
checked before it is quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.depth import DepthConfig
from smalti.interop.projects.unitok import DRAWN
from smalti.models.depth_language import unitok as language
from smalti.recipes.base import (
    DataConfig,
    Demo,
    GeneratorRecipe,
    TokenizerRecipe,
    UnifiedRecipe,
)
from smalti.recipes.chameleon import MIXED, shapes_chameleon, small
from smalti.recipes.liquid import tuned
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.text.byte_words import BytesConfig
from smalti.tokenizers.unitok import UniTokConfig, large
from smalti.train.codebook_care import CodebookConfig
from smalti.train.contrastive import ContrastiveConfig
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

PAIRS = 1_280_000_000
"""Pictures with captions of DataComp-1B that training sees, one epoch."""


def unitok() -> TokenizerRecipe:
    """UniTok-Large, 256 pixels to 16 x 16 positions of 8 codes out of 4096, with captions: AdamW
    from 5e-4 along a cosine, batch 16384. Published: rFID 0.41 and 70.8 % zero-shot on ImageNet.

    Upstream adds 0.2 of the absolute distance of pixels, judges by DINO's features, and has CLIP's
    text tower and token merges; here the distance is squared, the judge is a PatchGAN, and a tower
    of the same size reads bytes.

    torchrun --nproc-per-node 8 -m smalti train unitok --data.source parquet:datacomp --out runs/u
    """
    steps, batch = PAIRS // 16384, 16384
    return TokenizerRecipe(
        data=DataConfig(source="parquet:datacomp", crop="center", flip=False, holdout=0.0001),
        model=large(),
        objective=ContrastiveConfig(
            codebook=CodebookConfig(kmeans=False, patience=0),
            gan_weight=0.4,
            gan_start=round(0.375 * steps),
            gan_adaptive=True,
            text=BytesConfig(length=77, dim=768, layers=12, heads=12),
        ),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(
                lr=5e-4,
                schedule="cosine",
                warmup=steps // 100,
                betas=(0.9, 0.95),
                weight_decay=0.02,
                clip=10.0,
            ),
            ema=0.9999,
            eval_every=5000,
            preview_every=5000,
            save_every=2500,
        ),
    )


def emoji_unitok() -> TokenizerRecipe:
    """A small UniTok that learns with captions, 64 pixels to 8 x 8 positions of 4 codes out of 512.

    smalti train emoji_unitok --out runs/emoji-unitok
    """
    recipe = emoji_vqgan()
    return replace(
        recipe,
        model=UniTokConfig(
            size=(64, 64),
            widths=(32,),
            blocks=(1,),
            layers=2,
            heads=4,
            width=128,
            vocab=512,
            dim=16,
            depth=4,
            features=128,
        ),
        objective=ContrastiveConfig(
            perceptual="none",
            gan_weight=0.0,
            contrastive=0.1,
            text=BytesConfig(dim=128, layers=1),
        ),
    )


def emoji_unitok32() -> TokenizerRecipe:
    """The same network, 32 pixels to 4 x 4 positions of 4 codes out of 512.

    smalti train emoji_unitok32 --out runs/emoji-unitok32
    """
    recipe = emoji_unitok()
    return replace(recipe, model=replace(recipe.model, size=(32, 32)))


def emoji_unitok_ar() -> GeneratorRecipe:
    """A small LlamaGen with a head over depth, on the codes of `emoji_unitok32`; on those of
    `emoji_unitok` it draws 8 x 8 positions.

    smalti train emoji_unitok_ar --tokenizer runs/emoji-unitok32/tokenizer --out runs/unitok
    """
    recipe = emoji_llamagen()
    return replace(recipe, model=replace(recipe.model, grid=(4, 4), vocab=512, depth=4))


def unitok_7b() -> UnifiedRecipe:
    """UniTok's language model, 7.5 B parameters: Llama-2-7B and three layers over depth.

    Text and codes are weighed by how many there are, with 5e-5 times the squared logarithm of what
    logits of codes are divided by; pictures are drawn at guidance 5, each code of the 2048
    likeliest [C]. Rows of 2048 ids, 1024 in a step, a cosine from 5e-5 after 3 % of the steps [M].
    There the language model is trained on; here weights are new.

    smalti convert unitok --tokenizer unitok_tokenizer.pth --out unitok
    torchrun --nproc-per-node 8 -m smalti train unitok_7b --train.parallel fsdp \\
        --tokenizer unitok --words llama-2-7b/ --out runs/unitok-7b
    """
    return UnifiedRecipe(
        vocab=32_000,
        data=MIXED,
        row=2048,
        model=language(length=2048),
        objective=JointConfig(cond_dropout=0.1),
        sampling=DRAWN,
        train=tuned(40_000, 1024, 5e-5),
    )


def shapes_unitok32() -> TokenizerRecipe:
    """The tokenizer of `emoji_unitok32` for coloured shapes and their captions.

    smalti train shapes_unitok32 --out runs/shapes-unitok32
    """
    recipe = emoji_unitok32()
    return replace(
        recipe,
        data=DataConfig(source="shapes", flip=False),
        train=replace(recipe.train, steps=1500, eval_every=300, preview_every=750, save_every=750),
    )


def shapes_unitok() -> UnifiedRecipe:
    """A small model that reads sub-codes by attention, and draws, describes, answers and edits
    shapes.

    smalti train shapes_unitok32 --out runs/shapes-unitok32
    smalti train shapes_unitok --tokenizer runs/shapes-unitok32/tokenizer --out runs/unitok-shapes
    """
    head = DepthConfig(2, 3, 192, "llama", 576, rotary=True, bias=True)
    return replace(
        shapes_chameleon(),
        model=language(small(), head=head, width=192, heads=6, length=512),
        objective=JointConfig(text=3.0, pictures=2.0, cond_dropout=0.05),
    )


DEMO = Demo(
    emoji_unitok32,
    emoji_unitok_ar,
    what="stacks of sub-codes, of tables for parts of a position, learned with captions",
    predicts="the sub-codes of each position, one after another",
)

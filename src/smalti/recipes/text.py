"""Text-to-image: LlamaGen as published (Sun et al. 2024, arXiv:2406.06525), and small ones for two
CPU cores, whose text encoder learns with the generator."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.llamagen import SIZES, LlamaGenConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, TextRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.text.byte_words import BytesConfig
from smalti.text.t5 import T5Config
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def _published(grid: int, steps: int) -> TextRecipe:
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=LlamaGenConfig(grid=(grid, grid), classes=0, text_length=120, **SIZES["XL"]),
        text=T5Config(),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=Sampling.of(guidance=7.5, top_k=1000),
        train=TrainConfig(
            steps=steps,
            batch=256,
            optim=OptimConfig(lr=1e-4, weight_decay=0.05),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def llamagen_t2i_stage1() -> TextRecipe:
    """LlamaGen-XL from captions at 256 pixels, 778 M parameters; published on 50 M of LAION-COCO.

    smalti encode parquet:captions --tokenizer vq16 --text t5 --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train llamagen_t2i_stage1 --tokenizer vq16 \\
        --codes codes.arrow --out runs/t2i-256
    """
    return _published(grid=16, steps=200_000)


def llamagen_t2i_stage2() -> TextRecipe:
    """LlamaGen-XL from captions at 512 pixels: stage 1 trained on; published on 10 M pictures.

    smalti train llamagen_t2i_stage2 --init runs/t2i-256/pipeline --tokenizer vq16-512 \\
        --codes codes-512.arrow --out runs/t2i-512
    with `vq16-512` the tokenizer of stage 1 for images of 512 pixels.
    """
    return _published(grid=32, steps=40_000)


def shapes_vqgan() -> TokenizerRecipe:
    """The tokenizer of `emoji_vqgan` for coloured shapes, two minutes on two CPU cores.

    smalti train shapes_vqgan --out runs/shapes-tokenizer
    """
    recipe = emoji_vqgan()
    return replace(
        recipe,
        data=DataConfig(source="shapes", flip=False),
        train=replace(recipe.train, steps=1500, eval_every=300, preview_every=750, save_every=750),
    )


def shapes_t2i() -> TextRecipe:
    """A small LlamaGen that draws shapes from captions such as 'a small red heart in the centre',
    about ten minutes on two CPU cores. It first learns shapes, and only then what captions say.

    smalti train shapes_t2i --tokenizer runs/shapes-tokenizer/tokenizer --out runs/shapes
    """
    recipe = emoji_llamagen()
    return TextRecipe(
        data=DataConfig(source="shapes:25000", flip=False),  # captions say left and right
        model=replace(recipe.model, dropout=0.0, drop_path=0.0),
        text=BytesConfig(length=12, dim=128, layers=2, heads=4),
        sampling=Sampling.of(guidance=1.5, top_p=0.9),
        train=replace(
            recipe.train, steps=6500, eval_every=1300, preview_every=3250, save_every=3250
        ),
    )


def emoji_t2i() -> TextRecipe:
    """A small LlamaGen that draws emoji from their names, on the codes of `emoji_vqgan`, in about
    eight minutes on two CPU cores. So few pictures are learned by heart.

    smalti train emoji_t2i --tokenizer runs/emoji-tokenizer/tokenizer --out runs/emoji-t2i
    """
    recipe = emoji_llamagen()
    return TextRecipe(
        data=DataConfig(source="emoji", flip=False),
        model=replace(recipe.model, dropout=0.1, drop_path=0.0),
        text=BytesConfig(length=16, dim=192, layers=2, heads=4),
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
        train=replace(
            recipe.train, steps=6000, eval_every=1200, preview_every=3000, save_every=3000
        ),
    )

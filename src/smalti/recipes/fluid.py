"""Fluid in its published sizes (Fan et al. 2024, arXiv:2410.13863), and small ones.

Nothing but the paper was published. [M] marks what is remembered of it; layers and widths are
chosen to come near its numbers of parameters, and guidance is our choice.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.models.fluid import SIZES, FluidConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, TextRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.recipes.mar import emoji_klvae
from smalti.text.byte_words import BytesConfig
from smalti.text.t5 import T5Config
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def fluid(size: str) -> TextRecipe:
    """Fluid of a size: random order, T5-XXL of 128 tokens, batch 2048 at a constant 1e-4 [M],
    masks as MAR's [M], captions dropped in a tenth of the samples, 64 steps of 100 each.

    Any KL-VAE of 16 x 16 codes will do; the paper's has 16 channels, which are 2 x 2 latents of
    Stable Diffusion's [M]. With a discrete tokenizer, the model gets a softmax.
    """
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=FluidConfig(**SIZES[size]),
        text=T5Config(model="google/t5-v1_1-xxl", length=128, dim=4096),
        objective=MaskedConfig(cond_dropout=0.1),
        sampling=Sampling.of(guidance=4.0, schedule="linear", steps=64),
        train=TrainConfig(
            steps=1_000_000,
            batch=2048,
            optim=OptimConfig(lr=1e-4, warmup=65_000, weight_decay=0.02),
            ema=0.9999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def raster(recipe: TextRecipe) -> TextRecipe:
    """The same in raster order, one code after another."""
    return replace(
        recipe,
        model=replace(recipe.model, order="raster"),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=recipe.sampling.changed(schedule="constant", steps=None),
    )


def fluid_150m() -> TextRecipe:
    """Fluid of 150 M parameters, which draws from captions in random order.

    torchrun --nproc-per-node 8 -m smalti train fluid_150m --tokenizer kl16 --out runs/fluid-150m
    """
    return fluid("150M")


def fluid_150m_raster() -> TextRecipe:
    """Fluid of 150 M parameters in raster order, which the paper compares with.

    torchrun --nproc-per-node 8 -m smalti train fluid_150m_raster --tokenizer kl16 --out runs/raster
    """
    return raster(fluid("150M"))


def fluid_369m() -> TextRecipe:
    """Fluid of 369 M parameters. Published: FID 7.23 on MS-COCO, 0.62 on GenEval [M].

    torchrun --nproc-per-node 8 -m smalti train fluid_369m --tokenizer kl16 --out runs/fluid-369m
    """
    return fluid("369M")


def fluid_665m() -> TextRecipe:
    """Fluid of 665 M parameters, which draws from captions in random order.

    torchrun --nproc-per-node 8 -m smalti train fluid_665m --tokenizer kl16 --out runs/fluid-665m
    """
    return fluid("665M")


def fluid_1b() -> TextRecipe:
    """Fluid of 1.1 B parameters, which draws from captions in random order.

    torchrun --nproc-per-node 8 -m smalti train fluid_1b --tokenizer kl16 --out runs/fluid-1b
    """
    return fluid("1.1B")


def fluid_3b() -> TextRecipe:
    """Fluid of 3.1 B parameters, which draws from captions in random order.

    torchrun --nproc-per-node 8 -m smalti train fluid_3b --train.parallel fsdp --tokenizer kl16 \\
        --out runs/fluid-3b
    """
    return fluid("3.1B")


def fluid_10b() -> TextRecipe:
    """Fluid of 10.5 B parameters. Published: FID 6.16 on MS-COCO, 0.69 on GenEval.

    torchrun --nproc-per-node 8 -m smalti train fluid_10b --train.parallel fsdp --tokenizer kl16 \\
        --out runs/fluid-10b
    """
    return fluid("10.5B")


def emoji_fluid() -> GeneratorRecipe:
    """A small Fluid in random order on the codes of `emoji_klvae`.

    As many parameters as `emoji_llamagen`, and as many operations in training.

    smalti train emoji_fluid --tokenizer runs/emoji-kl/tokenizer --out runs/emoji-fluid
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=FluidConfig(
            grid=(8, 8),
            channels=8,
            classes=9,
            text_length=0,
            layers=4,
            heads=4,
            dim=160,
            ffn_dim=640,
            head=DiffusionConfig(depth=3, width=128),
        ),
        objective=MaskedConfig(),
        sampling=Sampling.of(
            guidance=2.0, schedule="linear", steps=8, solver="dpm", head_steps="16"
        ),
        train=replace(
            recipe.train, steps=2080, eval_every=416, preview_every=1040, save_every=1040
        ),
    )


def emoji_fluid_t2i() -> TextRecipe:
    """`emoji_fluid` of names in place of classes; so few pictures are learned by heart.

    smalti train emoji_fluid_t2i --tokenizer runs/emoji-kl/tokenizer --out runs/emoji-fluid-t2i
    """
    recipe, words = emoji_fluid(), BytesConfig(length=16, dim=192, layers=2, heads=4)
    model = replace(
        recipe.model, classes=0, text_length=words.length, text_dim=words.dim, aligner_layers=0
    )
    return TextRecipe(
        data=DataConfig(source="emoji", flip=False),
        model=model,
        text=words,
        objective=recipe.objective,
        sampling=recipe.sampling,
        train=replace(
            recipe.train, steps=4000, eval_every=800, preview_every=2000, save_every=2000
        ),
    )


DEMO = Demo(
    emoji_klvae,
    emoji_fluid,
    what="codes without a codebook, one transformer",
    predicts="hidden codes, of numbers, from those that are shown",
    minutes=(5, 9),
)

"""UniFluid as far as published (Fan et al. 2025, arXiv:2503.13436), and a small one for two CPU
cores.

Nothing but the paper was published. [S] marks what a summary of it says, [M] what is remembered of
it, to be checked before it is quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.models.unifluid import GEMMA_2B, UniFluidConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import MIXED, shapes_chameleon, small
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def unifluid_2b() -> UnifiedRecipe:
    """UniFluid of 2.7 B parameters: Gemma 2 of 2 B [M] in random order [S], pictures of 256 pixels.

    Causal attention, latents of Fluid's kind one by one, SigLIP for what is read and one sum of
    both losses [S]; text counts 0.005 there, which does both tasks as well as a model of either
    alone does, and drawing gets worse as it grows [M]; a diffusion head of six layers, 1024 wide
    [M]; a SigLIP so400m at 448 pixels, 32 x 32 vectors, behind an MLP [M]. There all begins with a
    language model that can write [S], here with new weights. Rows, steps, batch and rate are those
    that Fluid is remembered to have. Published: FID about 7.2 of MS-COCO, GenEval about 0.59, and
    editing that reads the picture both by the eye and as latents [M]; here by the eye.

    On paper 53.2 GB of weights, their average, gradients and AdamW's state, beside activations.

    torchrun --nproc-per-node 8 -m smalti train unifluid_2b --train.parallel fsdp \\
        --tokenizer kl16 --eye siglip-so400m --words gemma/tokenizer.json --out runs/unifluid-2b
    """
    return UnifiedRecipe(
        vocab=256_000,
        data=MIXED,
        row=2048,
        model=UniFluidConfig(GEMMA_2B),
        objective=JointConfig(text=0.005, over="kinds", cond_dropout=0.1),
        sampling=Sampling.of(guidance=4.0, order="random"),
        train=TrainConfig(
            steps=1_000_000,
            batch=2048,
            optim=OptimConfig(lr=1e-4, warmup=65_000, weight_decay=0.02),
            ema=0.9999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def unifluid_2b_raster() -> UnifiedRecipe:
    """UniFluid in raster order, which the paper compares with [S]: pictures get worse.

    torchrun --nproc-per-node 8 -m smalti train unifluid_2b_raster --train.parallel fsdp \\
        --tokenizer kl16 --eye siglip-so400m --words gemma/tokenizer.json --out runs/raster
    """
    return _raster(unifluid_2b())


def shapes_unifluid() -> UnifiedRecipe:
    """A small UniFluid that draws, describes, answers, edits and tells of shapes.

    It learns to write from nothing, so text counts more than where a language model begins.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_unifluid --tokenizer runs/shapes-klvae/tokenizer \\
        --eye runs/siglip/towers --out runs/unifluid
    """
    recipe = shapes_chameleon()
    return replace(
        recipe,
        model=UniFluidConfig(small(), head=DiffusionConfig(depth=3, width=192), length=512),
        objective=replace(recipe.objective, text=0.5, over="kinds"),
        sampling=Sampling.of(guidance=2.0, order="random", solver="dpm", head_steps="16"),
    )


def shapes_unifluid_raster() -> UnifiedRecipe:
    """The same in raster order.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    smalti train shapes_siglip --out runs/siglip
    smalti train shapes_unifluid_raster --tokenizer runs/shapes-klvae/tokenizer \\
        --eye runs/siglip/towers --out runs/unifluid-raster
    """
    return _raster(shapes_unifluid())


def _raster(recipe: UnifiedRecipe) -> UnifiedRecipe:
    """The same in raster order."""
    return replace(
        recipe,
        model=replace(recipe.model, order="raster"),
        sampling=recipe.sampling.changed(order=""),
    )

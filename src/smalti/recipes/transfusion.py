"""Transfusion (Zhou et al. 2024, arXiv:2408.11039): small models of its kind for two CPU cores, with
pictures of few vectors, each of many numbers."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.transfusion import TransfusionConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, KLRecipe, UnifiedRecipe
from smalti.recipes.chameleon import emoji_chameleon, shapes_chameleon
from smalti.recipes.mar import emoji_klvae
from smalti.train.joint import JointConfig


def emoji_klvae16() -> KLRecipe:
    """The KL-VAE of `emoji_klvae` with a level more: 4 x 4 vectors of 16 numbers at 32 pixels.

    smalti train emoji_klvae16 --out runs/emoji-klvae16
    """
    recipe = emoji_klvae()
    levels = (*recipe.model.multipliers, recipe.model.multipliers[-1])
    return replace(recipe, model=replace(recipe.model, multipliers=levels, channels=16))


def shapes_klvae16() -> KLRecipe:
    """The same for pictures of shapes.

    smalti train shapes_klvae16 --out runs/shapes-klvae16
    """
    return replace(emoji_klvae16(), data=DataConfig(source="scenes:10000", flip=False))


def emoji_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws emoji from their names and names them.

    smalti train emoji_transfusion --tokenizer runs/emoji-klvae16/tokenizer --out runs/transfusion
    """
    recipe = emoji_chameleon()
    return replace(
        recipe,
        row=120,
        model=small(),
        objective=JointConfig(pictures=5.0, cond_dropout=0.1),
        sampling=Sampling.of(guidance=2.0, head_steps="25"),
        train=replace(recipe.train, batch=40),
    )


def shapes_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws, describes, answers, edits and tells of shapes.

    smalti train shapes_klvae16 --out runs/shapes-klvae16
    smalti train shapes_transfusion --tokenizer runs/shapes-klvae16/tokenizer \\
        --out runs/transfusion
    """
    recipe = shapes_chameleon()
    return replace(
        recipe,
        row=120,
        model=small(),
        objective=JointConfig(pictures=5.0, cond_dropout=0.05),
        sampling=Sampling.of(guidance=2.0, head_steps="25"),
        train=replace(recipe.train, batch=40),
    )


def small() -> TransfusionConfig:
    """A Transfusion of 4 million parameters."""
    return TransfusionConfig(layers=6, heads=3, head_dim=64, dim=192, length=512)


DEMO = Demo(
    emoji_klvae16,
    emoji_transfusion,
    what="one transformer writes text word by word and draws pictures by a flow",
    predicts="the next id of a name, and where noise is going that becomes a picture",
)

"""Transfusion (Zhou et al. 2024, arXiv:2408.11039): small models of its kind for two CPU cores,
with pictures of few vectors, each of many numbers."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.transfusion import TransfusionConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, KLRecipe, UnifiedRecipe
from smalti.recipes.chameleon import emoji_chameleon, shapes_chameleon
from smalti.recipes.mar import emoji_klvae
from smalti.train.joint import JointConfig


def emoji_klvae_2x2() -> KLRecipe:
    """The KL-VAE of `emoji_klvae`, of whose vectors 2 x 2 neighbours make one: 4 x 4 of 32 numbers.

    smalti train emoji_klvae_2x2 --out runs/emoji-klvae
    """
    recipe = emoji_klvae()
    return replace(recipe, model=replace(recipe.model, group=2))


def shapes_klvae_2x2() -> KLRecipe:
    """The same for pictures of shapes.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    """
    return replace(emoji_klvae_2x2(), data=DataConfig(source="scenes:10000", flip=False))


def emoji_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws emoji from their names and names them.

    smalti train emoji_transfusion --tokenizer runs/emoji-klvae/tokenizer --out runs/transfusion
    """
    return _flow(emoji_chameleon())


def shapes_transfusion() -> UnifiedRecipe:
    """A small Transfusion that draws, describes, answers, edits and tells of shapes.

    smalti train shapes_klvae_2x2 --out runs/shapes-klvae
    smalti train shapes_transfusion --tokenizer runs/shapes-klvae/tokenizer \\
        --out runs/transfusion
    """
    return _flow(shapes_chameleon())


def _flow(recipe: UnifiedRecipe) -> UnifiedRecipe:
    """The recipe of a small Chameleon for a Transfusion of 9 million parameters, of which what the
    time decides has half."""
    return replace(
        recipe,
        row=120,
        model=TransfusionConfig(layers=6, heads=3, head_dim=64, dim=192, length=512),
        objective=JointConfig(pictures=5.0, cond_dropout=recipe.objective.cond_dropout),
        sampling=Sampling.of(guidance=2.0, head_steps="25"),
        train=replace(recipe.train, batch=40),
    )


DEMO = Demo(
    emoji_klvae_2x2,
    emoji_transfusion,
    what="one transformer writes text word by word and draws pictures by a flow",
    predicts="the next id of a name, and where noise is going that becomes a picture",
)

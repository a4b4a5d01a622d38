"""MaskGIT (Chang et al. 2022, arXiv:2202.04200)."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.maskgit import MaskGITConfig
from smalti.recipes.base import GeneratorRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.settings import Sampling
from smalti.train.masked import MaskedConfig


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
        sampling=Sampling(guidance=2.0, schedule="linear", steps=12, confidence=4.5),
    )

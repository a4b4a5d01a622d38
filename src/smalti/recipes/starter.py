"""The models that come with smalti: emoji of 64 pixels in three styles, from their names."""

from __future__ import annotations

from dataclasses import replace

from smalti.models.maskbit import MaskBitConfig
from smalti.recipes.base import DataConfig, TextRecipe, TokenizerRecipe
from smalti.recipes.magvit2 import emoji_lfq64
from smalti.recipes.maskbit import emoji_maskbit
from smalti.text.byte_words import BytesConfig

FILE = "styles:emoji3-64.parquet"
"""5,347 pictures of 1,799 emoji by Noto, Twemoji and Fluent; `--data.source` names another."""


def emoji64_tokenizer() -> TokenizerRecipe:
    """The tokenizer that comes with smalti, 64 pixels to 8 x 8 codes of 18 bits.

    smalti train emoji64_tokenizer --data.source styles:FILE.parquet --out runs/emoji64-tokenizer
    """
    recipe = emoji_lfq64()
    return replace(
        recipe,
        data=DataConfig(source=FILE, flip=True),
        train=replace(
            recipe.train, steps=4200, ema=0.999, eval_every=840, preview_every=2100, save_every=420
        ),
    )


def emoji64() -> TextRecipe:
    """The generator that comes with smalti: a MaskBit that draws emoji from names, keywords or
    categories, in the style that the text ends with.

    smalti train emoji64 --data.source styles:FILE.parquet \\
        --tokenizer runs/emoji64-tokenizer/tokenizer --out runs/emoji64
    """
    recipe = emoji_maskbit()
    words = BytesConfig(length=12, dim=192, layers=2, heads=4)
    return TextRecipe(
        data=DataConfig(source=FILE, flip=False),
        model=MaskBitConfig(
            grid=(8, 8),
            channels=18,
            groups=2,
            classes=0,
            text_length=words.length,
            text_dim=words.dim,
            layers=6,
            heads=4,
            dim=256,
            ffn_dim=1024,
            prenorm=True,
            dropout=0.1,
        ),
        text=words,
        wordings=True,
        objective=recipe.objective,
        sampling=recipe.sampling,
        train=replace(
            recipe.train,
            steps=8000,
            batch=32,
            optim=replace(recipe.train.optim, lr=1.5e-3),
            ema=0.999,
            eval_every=1600,
            preview_every=1000,
            save_every=400,
        ),
    )

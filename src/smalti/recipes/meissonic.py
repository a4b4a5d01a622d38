"""Meissonic as published (Bai et al. 2024, arXiv:2410.08261), and a small one."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.meissonic import DRAWN
from smalti.models.meissonic import SIZES, MeissonicConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TextRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.text.byte_words import BytesConfig
from smalti.text.clip import CLIPConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def meissonic() -> TextRecipe:
    """Meissonic from captions at 1024 pixels, 1 B parameters. Published: 0.54 on GenEval.

    Rate, norm of gradients, batch and length are those of the released script, which trains at 1024
    pixels alone, with an Adam of 8 bits and in half precision; weight decay and Adam's averages are
    its defaults [M]. The paper begins with 256 and 512 pixels [M]; of each stage, lessen
    `model.grid` and leave `model.compress` out. Upstream learns the size and the beauty of each
    picture; here all are whole and as beautiful as those that are drawn. Its tokenizer is one of
    another project, which `smalti convert meissonic` takes.

    smalti convert meissonic --tokenizer Meissonic/vqvae --out meissonic-vq
    smalti encode parquet:captions --tokenizer meissonic-vq --text clip --no-flip --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train meissonic --train.parallel fsdp \\
        --tokenizer meissonic-vq --codes codes.arrow --out runs/meissonic
    """
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=MeissonicConfig(pooled=1024, compress=True, clock="steps", beauty=6.0, **SIZES["1B"]),
        text=CLIPConfig(),
        objective=MaskedConfig(masking="cosine", cond_dropout=0.1),
        sampling=DRAWN,
        train=TrainConfig(
            steps=100_000,
            batch=32,
            optim=OptimConfig(lr=1e-4, weight_decay=0.01, clip=10.0),
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
            recompute=True,
        ),
    )


def emoji_meissonic() -> TextRecipe:
    """A small Meissonic that draws emoji from their names, on the codes of `emoji_vqgan`.

    As many parameters as `emoji_llamagen`, beside those of the encoder of words, which learns with
    it. The transformer sees 4 x 4 positions of 2 x 2 codes. So few pictures are learned by heart.

    smalti train emoji_meissonic --tokenizer runs/emoji-tokenizer/tokenizer \\
        --out runs/emoji-meissonic
    """
    recipe, words = emoji_llamagen(), BytesConfig(length=16, dim=192, layers=2, heads=4)
    return TextRecipe(
        data=DataConfig(source="emoji", flip=False),
        model=MeissonicConfig(
            grid=(8, 8),
            vocab=512,
            factor=4,
            text_length=words.length,
            text_dim=words.dim,
            joint_layers=1,
            single_layers=3,
            heads=4,
            dim=128,
            axes=(8, 12, 12),
            dropout=0.1,
        ),
        text=words,
        objective=MaskedConfig(masking="cosine"),
        sampling=Sampling.of(guidance=3.0, steps=16, reveal="meissonic", confidence=2.0),
        train=replace(
            recipe.train, steps=6000, eval_every=1200, preview_every=3000, save_every=3000
        ),
    )


DEMO = Demo(
    emoji_vqgan,
    emoji_meissonic,
    what="the surest codes first, from texts",
    predicts="hidden codes, however many, from those that are shown and a name",
)

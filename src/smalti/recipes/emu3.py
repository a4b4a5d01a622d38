"""Emu3 as published (Wang et al. 2024, arXiv:2409.18869), and a small model of its kind for two CPU
cores.

Marks: [C] read in the released code, which draws and fine-tunes, [M] remembered of the paper, to be
checked before it is quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.emu3 import DRAWN
from smalti.models.emu3 import Emu3Config
from smalti.models.language import LanguageConfig
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import MIXED, shapes_chameleon
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def emu3() -> UnifiedRecipe:
    """Emu3, 8.5 B parameters, on pictures of 720 pixels, 8100 codes in 90 lines.

    Rows of 9216 ids [C], of which those of pictures weigh half [M]; a cosine from 5e-5 to 0 [M].
    Batch, length, warm-up, weight decay and how often a picture is learned without its text are not
    known. There pictures have any shape, and videos are learned as well.

    smalti convert emu3 --tokenizer Emu3-Gen-hf/ --out emu3-vq
    torchrun --nproc-per-node 8 -m smalti train emu3 --train.parallel fsdp --tokenizer emu3-vq \\
        --words Emu3-Gen-hf/ --out runs/emu3
    """
    return UnifiedRecipe(
        vocab=151_643,
        data=MIXED,
        row=9216,
        model=Emu3Config(),
        objective=JointConfig(pictures=0.5, cond_dropout=0.1),
        sampling=DRAWN,
        train=TrainConfig(
            steps=250_000,
            batch=512,
            optim=OptimConfig(lr=5e-5, schedule="cosine", warmup=2000, weight_decay=0.1),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def small(dim: int = 192, layers: int = 6) -> LanguageConfig:
    """A decoder as Emu3's, of some million parameters. How many ids it knows its tokenizers
    decide."""
    heads = dim // 32
    return LanguageConfig(1 << 18, layers, heads, dim, 3 * dim, kv_heads=1, rope_base=1e6)


def shapes_emu3() -> UnifiedRecipe:
    """A small Emu3, which says a picture's size before it and ends each of its lines.

    smalti train shapes_vqgan --data.source scenes:10000 --out runs/shapes-tokenizer
    smalti train shapes_emu3 --tokenizer runs/shapes-tokenizer/tokenizer --out runs/emu3
    """
    recipe = shapes_chameleon()
    return replace(recipe, row=288, model=Emu3Config(small(), length=640))

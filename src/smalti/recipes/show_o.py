"""Show-o as published (Xie et al. 2024, arXiv:2408.12528), and a small one for two CPU cores.

Marks: [C] read in the released code, [M] remembered of the paper, to be checked before it is
quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.show_o import drawn
from smalti.models.language import LanguageConfig
from smalti.models.show_o import PHI, ShowOConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.chameleon import MIXED, shapes_chameleon
from smalti.train.joint import JointConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def show_o() -> UnifiedRecipe:
    """Show-o, 1.4 B parameters, on pictures of 256 pixels, 256 codes.

    500,000 steps at a rate of 1e-4, a tenth of the pictures learned without their text; pictures
    that are drawn weigh 1, text of documents with a picture 1, text alone 0.1, each a mean of its
    own [C]. 5000 steps of warm-up, a cosine, weight decay 0.01, 1152 documents in a step [M]. There
    a row is a document, of at most 129 ids of text [C], and the language model is Phi-1.5, trained
    on, with its 50,295 ids of text [C]. Here a row holds what fits, weights are new, and the id
    that ends a document is learned behind a picture that is drawn too, among the text of documents
    with one.

    smalti convert show-o --tokenizer magvitv2/pytorch_model.bin --out show-o-vq
    torchrun --nproc-per-node 8 -m smalti train show_o --train.parallel fsdp \\
        --tokenizer show-o-vq --words phi-1_5/ --out runs/show-o
    """
    model = ShowOConfig()
    return UnifiedRecipe(
        vocab=50_295,
        data=MIXED,
        row=388,
        model=model,
        objective=JointConfig(alone=0.1, over="kinds", cond_dropout=0.1),
        sampling=drawn(model),
        train=TrainConfig(
            steps=500_000,
            batch=1152,
            optim=OptimConfig(
                lr=1e-4, schedule="cosine", warmup=5000, betas=(0.9, 0.999), weight_decay=0.01
            ),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def small(dim: int = 192, layers: int = 6) -> LanguageConfig:
    """A decoder as Show-o's, of some million parameters. How many ids it knows its tokenizers
    decide."""
    return replace(PHI, vocab=1 << 16, layers=layers, heads=dim // 32, dim=dim, ffn_dim=4 * dim)


def shapes_show_o() -> UnifiedRecipe:
    """A small model that writes text word by word and draws shapes by revealing codes. Unlike the
    published one it begins pictures by itself, so that it draws in conversations.

    smalti train shapes_vqgan --data.source scenes:10000 --out runs/shapes-tokenizer
    smalti train shapes_show_o --tokenizer runs/shapes-tokenizer/tokenizer --out runs/show-o
    """
    return replace(
        shapes_chameleon(),
        model=ShowOConfig(small(), length=512, learns_begin=True),
        objective=JointConfig(over="kinds", cond_dropout=0.1),
        sampling=Sampling.of(guidance=2.0, steps=16, reveal="show-o"),
    )

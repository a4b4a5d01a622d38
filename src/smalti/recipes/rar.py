"""RAR as published (Yu et al. 2024, arXiv:2411.00776), and its tokenizer."""

from __future__ import annotations

from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.tokenizers.maskgit_vqgan import f16
from smalti.train.codebook import CodebookConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.trainer import TrainConfig


def maskgit_vqgan() -> TokenizerRecipe:
    """MaskGIT-VQGAN, 256 pixels to 16 x 16 codes of 1,024, 54.5 M parameters. Published: rFID 2.28
    on ImageNet at 256. Its training was not: the weights of the quantizer's losses are upstream's,
    all else is as LlamaGen trains its tokenizers.

    torchrun --nproc-per-node 8 -m smalti train maskgit_vqgan --out runs/maskgit-vqgan
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=f16(),
        objective=ReconstructionConfig(
            quantizer_weight=0.25,  # upstream's "commitment cost" weights the codebook's loss
            commitment=1.0,
            codebook=CodebookConfig(kmeans=False, patience=0),
        ),
        train=TrainConfig(
            steps=400_000,
            batch=128,
            optim=OptimConfig(lr=1e-4, weight_decay=0.0),
            ema=0.9999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )

"""HART (Tang et al. 2024, arXiv:2410.10812), and small ones for two CPU cores.

Only weights and the code that draws were published, no trainer. Marks: [C] read in that code, [M]
remembered of the paper, to be checked before it is quoted; all without a mark is ours.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.projects.hart import drawn
from smalti.models.hart import SIZES, HARTConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TextRecipe, TokenizerRecipe
from smalti.recipes.infinity import emoji_infinity
from smalti.recipes.llamagen import published_tokenizer
from smalti.recipes.var import emoji_msvqvae
from smalti.text.t5 import T5Config
from smalti.tokenizers.hart_vae import HARTVAEConfig, hart1024
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def hart_vae() -> TokenizerRecipe:
    """HART's hybrid tokenizer, 1024 pixels to 14 scales up to 64 x 64, 108.9 M parameters.

    Published: rFID 0.30 at 1024, 2.11 without the rest [M]. Sizes and the share of pictures without
    the rest are theirs [C]; the loss of pixels is squared [C], all else is LlamaGen's VQ-16 recipe.

    torchrun --nproc-per-node 8 -m smalti train hart_vae --out runs/hart-tokenizer
    """
    return published_tokenizer(hart1024(), ReconstructionConfig())


def hart_700m() -> TextRecipe:
    """HART of 732 M parameters, at 1024 pixels, from captions.

    Published: FID 5.38 of MJHQ-30K, 7.85 without the rest [M]. Widths of the head and what training
    leaves out are theirs [C]; layers are remembered [M], batch and rates ours. Captions are read
    by a T5 here, by Qwen2-VL there.

    torchrun --nproc-per-node 8 -m smalti train hart_700m --train.parallel fsdp \\
        --tokenizer runs/hart-tokenizer/tokenizer --out runs/hart-700m
    """
    words = T5Config(length=300)
    model = HARTConfig(text_length=words.length, text_dim=words.dim, **SIZES["700M"])
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=model,
        text=words,
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=drawn(model),
        train=TrainConfig(
            steps=250_000,
            batch=512,
            optim=OptimConfig(lr=1e-4, weight_decay=0.05, clip=1.0),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=True,
        ),
    )


def emoji_hart_vae() -> TokenizerRecipe:
    """A small hybrid tokenizer, 32 pixels to six scales of codes, 1 x 1 to 8 x 8, and a rest.

    The network, the codes and the training are those of `emoji_msvqvae`; half of the pictures are
    shown without the rest.

    smalti train emoji_hart_vae --out runs/emoji-hybrid
    """
    recipe = emoji_msvqvae()
    return replace(
        recipe,
        model=HARTVAEConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            scales=pyramid(1, 2, 3, 4, 6, 8),
            vocab=256,
            dim=8,
            attention=False,
        ),
    )


def emoji_hart() -> TextRecipe:
    """A small HART that draws emoji from their names, on the codes of `emoji_hart_vae`.

    About as many parameters as `emoji_infinity`, beside those of the encoder of words, which learns
    with it. So few pictures are learned by heart.

    smalti train emoji_hart --tokenizer runs/emoji-hybrid/tokenizer --out runs/emoji-hart
    """
    recipe = emoji_infinity()
    words = recipe.text
    return replace(
        recipe,
        model=HARTConfig(
            scales=pyramid(1, 2, 3, 4, 6, 8),
            vocab=256,
            latent=8,
            text_length=16,
            text_dim=192,
            layers=5,
            heads=4,
            dim=160,
            multiple_of=32,
            adaln="shared",
            dropout=0.1,
            head=DiffusionConfig(depth=2, width=64, clip=4.0),
            rest_scale=0.0,
        ),
        text=words,
        sampling=Sampling.of(
            guidance=2.0, schedule="linear", temperature=0.9, top_p=0.97, head_steps="8"
        ),
    )


DEMO = Demo(
    emoji_hart_vae,
    emoji_hart,
    what="scale by scale, and what codes leave over",
    predicts="all codes of a scale at once from the scales before it and a name, and the rest of "
    "the last one",
)

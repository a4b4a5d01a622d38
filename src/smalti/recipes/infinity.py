"""Infinity as published (Han et al. 2024, arXiv:2412.04431), and small ones for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.infinity import DRAWN, DRAWN_8B
from smalti.models.infinity import SIZES, InfinityConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TextRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen
from smalti.text.byte_words import BytesConfig
from smalti.text.t5 import T5Config
from smalti.tokenizers.infinity import InfinityVAEConfig, published, published_d56, schedule
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def infinity_vae(model: InfinityVAEConfig) -> TokenizerRecipe:
    """A tokenizer of a published size, for pictures of 256 pixels.

    Their trainer is another repository, FoundationVision/BitVAE. What the released code says of it
    is taken over: pixels weigh 4 (absolute), the entropy 0.1 over an inverse temperature of 100,
    the adversary 1, Adam's averages. Pictures, batch, rate and length are LlamaGen's.
    """
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=model,
        objective=ReconstructionConfig(
            pixel="l1",
            pixel_weight=4.0,
            commitment=0.25,
            entropy=0.001,
            gan_weight=1.0,
            codebook=UNCARED.codebook,
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


def infinity_vae_d16() -> TokenizerRecipe:
    """Infinity's tokenizer of 16 bits, stride 16, 110 M parameters. Published: rFID 1.22 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d16 --out runs/infinity-d16
    """
    return infinity_vae(published(16, budget="0.06M"))


def infinity_vae_d24() -> TokenizerRecipe:
    """Infinity's tokenizer of 24 bits, stride 16, 110 M parameters. Published: rFID 0.75 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d24 --out runs/infinity-d24
    """
    return infinity_vae(published(24, budget="0.06M"))


def infinity_vae_d32() -> TokenizerRecipe:
    """Infinity's tokenizer of 32 bits, stride 16, 110 M parameters. Published: rFID 0.61 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d32 --out runs/infinity-d32
    """
    return infinity_vae(published(32, budget="0.06M"))


def infinity_vae_d64() -> TokenizerRecipe:
    """Infinity's tokenizer of 64 bits, stride 16, 110 M parameters. Published: rFID 0.33 at 256.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d64 --out runs/infinity-d64
    """
    return infinity_vae(published(64, budget="0.06M"))


def infinity_vae_d56() -> TokenizerRecipe:
    """The tokenizer of Infinity-8B: stride 8, 2 x 2 cells of 14 bits a position, 82 M parameters.

    torchrun --nproc-per-node 8 -m smalti train infinity_vae_d56 --out runs/infinity-d56
    """
    return infinity_vae(published_d56(budget="0.06M"))


def emoji_bsq() -> TokenizerRecipe:
    """A small multi-scale binary spherical tokenizer, 32 pixels to six scales of 12 bits.

    The network and the grids, 1 x 1 to 8 x 8, are those of `emoji_msvqvae`, at 12 bits a position
    in place of 8; about three minutes on two CPU cores.

    smalti train emoji_bsq --out runs/emoji-bsq
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=InfinityVAEConfig(
            size=(32, 32),
            patch=2,
            channels=48,
            multipliers=(1, 2),
            blocks=1,
            scales=pyramid(1, 2, 3, 4, 6, 8),
            bits=12,
        ),
        objective=ReconstructionConfig(
            perceptual="none", gan_weight=0.0, entropy=0.001, codebook=UNCARED.codebook
        ),
        train=TrainConfig(
            steps=1500,
            batch=16,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=300,
            preview_every=500,
            save_every=500,
        ),
    )


def infinity(size: str, budget: str, batch: int, steps: int, lr: float = 6e-5) -> TextRecipe:
    """Infinity of a size on square pictures of a number of pixels, one of three stages.

    The released script says the averages of AdamW, the weight decay, the norm of gradients, a
    constant rate, the share of wrong bits and of dropped captions; rate, batch and length of each
    stage are remembered of the paper [M]. Upstream mixes aspect ratios, and shortens half of its
    captions; a run here has pictures of one ratio, and their captions as they are.
    """
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=InfinityConfig(scales=schedule(1.0, budget), drop_path=0.1, **SIZES[size]),
        text=T5Config(length=512),
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=DRAWN_8B if size == "8B" else DRAWN,
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optim=OptimConfig(lr=lr, betas=(0.9, 0.97), weight_decay=0.005, clip=5.0),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
            recompute=size not in ("125M", "361M"),
        ),
    )


def infinity_125m() -> TextRecipe:
    """Infinity of 125 M parameters beside the text's, at 256 pixels, on codes of 16 bits.

    torchrun --nproc-per-node 8 -m smalti train infinity_125m --tokenizer infinity-d16 \\
        --out runs/infinity-125m
    """
    return infinity("125M", "0.06M", 4096, 150_000)


def infinity_2b_stage1() -> TextRecipe:
    """Infinity-2B from captions at 256 pixels, on codes of 32 bits; the first of three stages.

    Published, of the last: 0.69 on GenEval, 0.73 with rewritten prompts; 83.5 on DPG.

    torchrun --nproc-per-node 8 -m smalti train infinity_2b_stage1 --train.parallel fsdp \\
        --tokenizer infinity-d32 --out runs/infinity-256
    """
    return infinity("2B", "0.06M", 4096, 150_000)


def infinity_2b_stage2() -> TextRecipe:
    """Infinity-2B from captions at 512 pixels: stage 1 trained on.

    torchrun --nproc-per-node 8 -m smalti train infinity_2b_stage2 --train.parallel fsdp \\
        --init runs/infinity-256/pipeline --tokenizer infinity-d32-512 --out runs/infinity-512
    with `infinity-d32-512` the tokenizer of stage 1 for images of 512 pixels.
    """
    return infinity("2B", "0.25M", 2048, 110_000)


def infinity_2b_stage3() -> TextRecipe:
    """Infinity-2B from captions at 1024 pixels: stage 2 trained on.

    torchrun --nproc-per-node 8 -m smalti train infinity_2b_stage3 --train.parallel fsdp \\
        --init runs/infinity-512/pipeline --tokenizer infinity-d32-1024 --out runs/infinity-1024
    """
    return infinity("2B", "1M", 2048, 60_000, lr=2e-5)


def infinity_8b_stage1() -> TextRecipe:
    """Infinity-8B from captions at 256 pixels, 56 bits a position; later stages as those of 2B.

    Published, of the last: 0.79 on GenEval with rewritten prompts, 86.6 on DPG.

    torchrun --nproc-per-node 8 -m smalti train infinity_8b_stage1 --train.parallel fsdp \\
        --tokenizer infinity-d56 --out runs/infinity-8b
    """
    return infinity("8B", "0.06M", 4096, 150_000)


def emoji_infinity() -> TextRecipe:
    """A small Infinity that draws emoji from their names, on the codes of `emoji_bsq`.

    About as many parameters as `emoji_var`, beside those of the encoder of words, which learns
    with it. So few pictures are learned by heart.

    smalti train emoji_infinity --tokenizer runs/emoji-bsq/tokenizer --out runs/emoji-infinity
    """
    recipe, words = emoji_llamagen(), BytesConfig(length=16, dim=192, layers=2, heads=4)
    return TextRecipe(
        data=DataConfig(source="emoji", flip=False),
        model=InfinityConfig(
            scales=pyramid(1, 2, 3, 4, 6, 8),
            bits=12,
            text_length=words.length,
            text_dim=words.dim,
            layers=4,
            heads=4,
            dim=160,
            multiple_of=32,
            dropout=0.1,
            gate=1e-3,
        ),
        text=words,
        sampling=Sampling.of(guidance=2.0, temperature=0.9, top_p=0.97),
        train=replace(recipe.train, steps=1650, eval_every=330, preview_every=825, save_every=825),
    )


def emoji_bsq64() -> TokenizerRecipe:
    """The tokenizer `emoji_bsq` for 64 pixels: a level more, the same scales, of 16 bits.

    smalti train emoji_bsq64 --out runs/emoji-bsq64
    """
    recipe = emoji_bsq()
    model = replace(recipe.model, size=(64, 64), multipliers=(1, 2, 2), bits=16)
    return replace(recipe, model=model)


def emoji_infinity64() -> TextRecipe:
    """The generator `emoji_infinity` on the codes of `emoji_bsq64`, from names too.

    smalti train emoji_infinity64 --tokenizer runs/emoji-bsq64/tokenizer --out runs/emoji-infinity64
    """
    recipe = emoji_infinity()
    return replace(recipe, model=replace(recipe.model, bits=16))


DEMO = Demo(
    emoji_bsq,
    emoji_infinity,
    what="bits, scale by scale, from texts",
    predicts="all bits of a scale at once from the scales before it and a name",
)

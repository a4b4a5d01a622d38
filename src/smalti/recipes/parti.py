"""Parti and ViT-VQGAN in their published sizes (Yu et al. 2022, arXiv:2206.10789; Yu et al. 2021,
arXiv:2110.04627), and small ones.

Nothing but the papers was published. [M] marks what is remembered of them. Pieces of words are made
of the captions of training, in lower case, and the discriminator is a PatchGAN in the place of
StyleGAN's.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.models.parti import SIZES, PartiConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, TextRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.text.byte_words import BytesConfig
from smalti.text.word_ids import WordIdsConfig
from smalti.tokenizers.vit_vqgan import ViTVQGANConfig, vit_vqgan
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig


def tokenizer(encoder: str, decoder: str) -> TokenizerRecipe:
    """ViT-VQGAN of two sizes: 500,000 steps of 256 pictures, a cosine after 50,000 steps of
    warm-up; squared differences, a tenth of LPIPS and of an adversary that does not saturate [M].
    The paper's logit-Laplace loss is left out: it is a likelihood of pixels, as squared differences
    are."""
    return TokenizerRecipe(
        data=DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01),
        model=vit_vqgan(encoder, decoder),
        objective=ReconstructionConfig(
            perceptual_weight=0.1, gan="non-saturating", gan_weight=0.1, gan_start=0
        ),
        train=TrainConfig(
            steps=500_000,
            batch=256,
            optim=OptimConfig(
                lr=1e-4, schedule="cosine", warmup=50_000, betas=(0.9, 0.99), weight_decay=1e-4
            ),
            ema=0.9999,
            eval_every=10_000,
            preview_every=5000,
            save_every=5000,
        ),
    )


def vit_vqgan_small() -> TokenizerRecipe:
    """ViT-VQGAN, 256 pixels to 32 x 32 codes of 8,192, a small encoder and a small decoder.

    torchrun --nproc-per-node 8 -m smalti train vit_vqgan_small --out runs/vit-vqgan
    """
    return tokenizer("small", "small")


def vit_vqgan_base() -> TokenizerRecipe:
    """ViT-VQGAN, 256 pixels to 32 x 32 codes of 8,192, a base encoder and a base decoder.

    torchrun --nproc-per-node 8 -m smalti train vit_vqgan_base --out runs/vit-vqgan-base
    """
    return tokenizer("base", "base")


def vit_vqgan_small_large() -> TokenizerRecipe:
    """ViT-VQGAN, 256 pixels to 32 x 32 codes of 8,192, a small encoder and a large decoder, as
    Parti's last one.

    torchrun --nproc-per-node 8 -m smalti train vit_vqgan_small_large --out runs/vit-vqgan-large
    """
    return tokenizer("small", "large")


def parti(size: str) -> TextRecipe:
    """Parti of a size: texts of 128 pieces of words out of 16,000, 1024 codes, 450,000 steps of
    8192 pictures, captions dropped in a tenth of them; Adafactor's rate of 4.5e-5 [M] is AdamW's
    here."""
    words = WordIdsConfig(length=128, vocab=16_000)
    return TextRecipe(
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=PartiConfig(**SIZES[size], text_dim=words.dim, text_vocab=words.vocab),
        text=words,
        objective=LikelihoodConfig(cond_dropout=0.1),
        sampling=Sampling.of(guidance=1.2),
        train=TrainConfig(
            steps=450_000,
            batch=8192,
            optim=OptimConfig(lr=4.5e-5, warmup=5000, betas=(0.9, 0.96), weight_decay=0.045),
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def parti_350m() -> TextRecipe:
    """Parti of 350 M parameters, which draws from captions.

    torchrun --nproc-per-node 8 -m smalti train parti_350m --tokenizer runs/vit-vqgan/tokenizer \\
        --out runs/parti-350m
    """
    return parti("350M")


def parti_750m() -> TextRecipe:
    """Parti of 750 M parameters, which draws from captions.

    torchrun --nproc-per-node 8 -m smalti train parti_750m --tokenizer runs/vit-vqgan/tokenizer \\
        --out runs/parti-750m
    """
    return parti("750M")


def parti_3b() -> TextRecipe:
    """Parti of 3 B parameters, which draws from captions.

    torchrun --nproc-per-node 8 -m smalti train parti_3b --train.parallel fsdp \\
        --tokenizer runs/vit-vqgan/tokenizer --out runs/parti-3b
    """
    return parti("3B")


def parti_20b() -> TextRecipe:
    """Parti of 20 B parameters. Published: FID 7.23 on MS-COCO.

    torchrun --nproc-per-node 8 -m smalti train parti_20b --train.parallel fsdp \\
        --tokenizer runs/vit-vqgan/tokenizer --out runs/parti-20b
    """
    return parti("20B")


def emoji_vit_vqgan() -> TokenizerRecipe:
    """A small ViT-VQGAN, 32 pixels to 8 x 8 codes of 512.

    smalti train emoji_vit_vqgan --out runs/emoji-vit-vqgan
    """
    model = ViTVQGANConfig(
        size=(32, 32),
        patch=4,
        layers=3,
        heads=4,
        width=128,
        decoder_layers=3,
        decoder_heads=4,
        decoder_width=128,
        vocab=512,
        dim=8,
    )
    return replace(emoji_vqgan(), model=model)


def emoji_parti() -> TextRecipe:
    """A small Parti that draws emoji from their names, on the codes of `emoji_vit_vqgan`. So few
    pictures are learned by heart.

    smalti train emoji_parti --tokenizer runs/emoji-vit-vqgan/tokenizer --out runs/emoji-parti
    """
    recipe, words = emoji_llamagen(), BytesConfig(length=16, dim=160, layers=1, heads=4)
    model = PartiConfig(
        grid=(8, 8),
        vocab=512,
        text_length=words.length,
        text_dim=words.dim,
        encoder_layers=2,
        layers=4,
        heads=4,
        dim=160,
        ffn_dim=640,
    )
    return TextRecipe(
        data=DataConfig(source="emoji", flip=False),
        model=model,
        text=words,
        sampling=Sampling.of(guidance=2.0, top_p=0.95),
        train=replace(
            recipe.train, steps=4000, eval_every=800, preview_every=2000, save_every=2000
        ),
    )


DEMO = Demo(
    emoji_vit_vqgan,
    emoji_parti,
    what="texts translated to codes, an encoder and a decoder",
    predicts="each code from those before it and a name",
)

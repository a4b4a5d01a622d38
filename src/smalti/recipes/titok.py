"""TiTok as published (Yu et al. 2024, arXiv:2406.07550; commit 942a96f), and small ones.

Numbers of training are read in upstream's configurations (configs/training); [M] marks what is
remembered. Upstream's squared errors are of pictures in [0, 1]: a weight of 1 is 0.25 of those in
[-1, 1]. Its discriminators are regularised by LeCam (0.001), ours are not.
"""

from __future__ import annotations

from dataclasses import replace

from smalti.interop.projects.titok import PUBLISHED
from smalti.models.titok import S128, SHORT, TiTokGeneratorConfig
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import DataConfig, Demo, GeneratorRecipe, ProxyRecipe, TokenizerRecipe
from smalti.recipes.llamagen import UNCARED, emoji_llamagen
from smalti.tokenizers.titok import (
    BASE,
    LARGE,
    SMALL,
    ProxyConfig,
    TiTokConfig,
    TokensConfig,
    TrunkConfig,
)
from smalti.tokenizers.titok_vae import TiTokVAEConfig
from smalti.train.base import CodingConfig
from smalti.train.codebook_care import CodebookConfig
from smalti.train.kl import KLConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig
from smalti.train.staged import DecoderConfig, ProxyCodesConfig

DATA = DataConfig(source="folder:imagenet/train", crop="random", flip=True, holdout=0.01)
PICTURES = DecoderConfig(
    pixel_weight=0.25,
    perceptual_weight=0.1,
    gan_weight=0.01,
    gan_start=20_000,
    gan_channels=128,
    gan_layers=4,
)
"""Losses of pictures in the second stage (TiTok/stage2); upstream's perceptual loss is that of a
ConvNeXt, ours of LPIPS; width and layers of the discriminator [M]."""
FIRST = {
    32: TiTokConfig(tokens=32, scrambled=True, encoder=LARGE, decoder=LARGE),
    64: TiTokConfig(tokens=64, scrambled=True, encoder=BASE, decoder=BASE),
    128: TiTokConfig(tokens=128, scrambled=True, encoder=SMALL, decoder=SMALL),
}
"""Tokenizers of the first releases."""


def train(steps: int, warmup: int, beta: float, batch: int = 256) -> TrainConfig:
    """AdamW at 1e-4, with so much warm-up and such a second beta, half a cosine down to a tenth; an
    average of 0.999 [M]."""
    return TrainConfig(
        steps=steps,
        batch=batch,
        optim=OptimConfig(
            lr=1e-4,
            schedule="cosine",
            warmup=warmup,
            final_lr=0.1,
            betas=(0.9, beta),
            weight_decay=1e-4,
        ),
        ema=0.999,
        eval_every=10_000,
        preview_every=5000,
        save_every=5000,
    )


def first_stage(tokens: int) -> ProxyRecipe:
    """The first stage of a tokenizer: codes of a MaskGIT-VQGAN, 1,000,000 steps."""
    goal = ProxyCodesConfig(codebook=UNCARED.codebook)
    steps = train(1_000_000, warmup=10_000, beta=0.99)
    return ProxyRecipe(data=DATA, model=FIRST[tokens], objective=goal, train=steps)


def second_stage(tokens: int) -> TokenizerRecipe:
    """The second one: the decoder alone learns by pictures, 500,000 steps."""
    model = replace(FIRST[tokens], proxy=ProxyConfig(vocab=1024))
    steps = train(500_000, warmup=5000, beta=0.999)
    return TokenizerRecipe(data=DATA, model=model, objective=PICTURES, train=steps)


def one_stage(model: TokensConfig, objective: CodingConfig) -> TokenizerRecipe:
    """A later tokenizer, which predicts pixels from the beginning, 650,000 steps of 1024 pictures
    [M], with the losses of TA-TiTok's, as those of these were not published. Upstream adds a tenth
    of a ConvNeXt's distance to LPIPS."""
    steps = train(650_000, warmup=10_000, beta=0.999, batch=1024)
    return TokenizerRecipe(data=DATA, model=model, objective=objective, train=steps)


def of_codes(tokens: int, encoder: TrunkConfig) -> TokenizerRecipe:
    """The same of 8192 codes of 64 numbers, which are not normalised."""
    model = TiTokConfig(tokens=tokens, vocab=8192, dim=64, encoder=encoder, decoder=LARGE)
    model = replace(model, l2_norm=False)
    goal = replace(UNCARED, pixel_weight=0.25, gan_weight=0.1, gan_start=200_000)
    return one_stage(model, replace(goal, gan_channels=128, gan_layers=4))


def of_numbers(tokens: int, encoder: TrunkConfig) -> TokenizerRecipe:
    """The same of continuous codes, 16 numbers each. Upstream's 1e-6 of an image's divergence
    stands beside the mean of its pixels' losses, ours beside their sum."""
    model = TiTokVAEConfig(tokens=tokens, dim=16, encoder=encoder, decoder=LARGE)
    goal = KLConfig(
        pixel="l2",
        pixel_weight=0.25,
        gan_weight=0.1,
        gan_start=200_000,
        gan_adaptive=False,
        gan_channels=128,
        gan_layers=4,
        kl_weight=1e-6 * 3 * 256**2,
    )
    return one_stage(model, goal)


def titok_l32_first() -> ProxyRecipe:
    """TiTok-L-32, first stage: 32 codes of 4096, whose decoder predicts codes.

    torchrun --nproc-per-node 8 -m smalti train titok_l32_first --tokenizer maskgit-vqgan \\
        --out runs/titok-l32-first
    """
    return first_stage(32)


def titok_l32_tokenizer() -> TokenizerRecipe:
    """TiTok-L-32, second stage. Published: rFID 2.21 on ImageNet at 256.

    torchrun --nproc-per-node 8 -m smalti train titok_l32_tokenizer \\
        --init runs/titok-l32-first/tokenizer --out runs/titok-l32
    """
    return second_stage(32)


def titok_b64_first() -> ProxyRecipe:
    """TiTok-B-64, first stage: 64 codes of 4096."""
    return first_stage(64)


def titok_b64_tokenizer() -> TokenizerRecipe:
    """TiTok-B-64, second stage. Published: rFID 1.70."""
    return second_stage(64)


def titok_s128_first() -> ProxyRecipe:
    """TiTok-S-128, first stage: 128 codes of 4096."""
    return first_stage(128)


def titok_s128_tokenizer() -> TokenizerRecipe:
    """TiTok-S-128, second stage. Published: rFID 1.71."""
    return second_stage(128)


def titok_bl64_tokenizer() -> TokenizerRecipe:
    """TiTok-BL-64 in one stage, 64 codes of 8192. Published: rFID 2.06.

    torchrun --nproc-per-node 8 -m smalti train titok_bl64_tokenizer --out runs/titok-bl64
    """
    return of_codes(64, BASE)


def titok_bl128_tokenizer() -> TokenizerRecipe:
    """TiTok-BL-128 in one stage, 128 codes of 8192. Published: rFID 1.49."""
    return of_codes(128, BASE)


def titok_sl256_tokenizer() -> TokenizerRecipe:
    """TiTok-SL-256 in one stage, 256 codes of 8192. Published: rFID 1.03."""
    return of_codes(256, SMALL)


def titok_ll32_vae() -> TokenizerRecipe:
    """TiTok-LL-32 as a VAE, 32 codes of 16 numbers. Published: rFID 1.61.

    torchrun --nproc-per-node 8 -m smalti train titok_ll32_vae --out runs/titok-ll32-vae
    """
    return of_numbers(32, LARGE)


def titok_bl64_vae() -> TokenizerRecipe:
    """TiTok-BL-64 as a VAE, 64 codes of 16 numbers. Published: rFID 1.25."""
    return of_numbers(64, BASE)


def titok_bl128_vae() -> TokenizerRecipe:
    """TiTok-BL-128 as a VAE, 128 codes of 16 numbers. Published: rFID 0.84."""
    return of_numbers(128, BASE)


def generator(model: TiTokGeneratorConfig, batch: int = 2048) -> GeneratorRecipe:
    """A generator (generator/maskgit): AdamW from 2e-4 to 1e-5, betas 0.9 and 0.96, 500,000 steps
    of 2048 pictures; of codes that are shown the loss counts a tenth. An average of 0.999 [M]."""
    return GeneratorRecipe(
        data=replace(DATA, crop="ten"),
        model=model,
        objective=MaskedConfig(masking="arccos", smoothing=0.1, known_weight=0.1),
        sampling=PUBLISHED[model.spec.positions],
        train=TrainConfig(
            steps=500_000,
            batch=batch,
            optim=OptimConfig(
                lr=2e-4,
                schedule="cosine",
                warmup=10_000,
                final_lr=0.05,
                betas=(0.9, 0.96),
                weight_decay=0.03,
            ),
            ema=0.999,
            eval_every=10_000,
            preview_every=10_000,
            save_every=5000,
        ),
    )


def titok_l32() -> GeneratorRecipe:
    """A generator of the codes of TiTok-L-32, a BERT, 177 M parameters. Published: FID 2.77 in 8
    steps.

    smalti encode folder:imagenet/train --tokenizer titok-l32 --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train titok_l32 --tokenizer titok-l32 \\
        --codes codes.arrow --out runs/titok-l32-generator
    """
    return generator(SHORT)


def titok_b64() -> GeneratorRecipe:
    """The same of TiTok-B-64, 177 M parameters. Published: FID 2.48 in 8 steps."""
    return generator(replace(SHORT, grid=(1, 64)))


def titok_s128() -> GeneratorRecipe:
    """A generator of the codes of TiTok-S-128, a U-ViT, 295 M parameters. Published: FID 1.97 in 64
    steps.

    smalti encode folder:imagenet/train --tokenizer titok-s128 --crop ten --out codes.arrow
    torchrun --nproc-per-node 8 -m smalti train titok_s128 --tokenizer titok-s128 \\
        --codes codes.arrow --out runs/titok-s128-generator
    """
    return generator(S128)


NARROW = TrunkConfig(layers=3, heads=4, dim=128)


def emoji_titok() -> TokenizerRecipe:
    """A small TiTok, 64 pixels to 32 codes of 1024 that stand for no places.

    It has not been trained to its end: 500 of its steps (seed 0, a CPU) gave 12.9 dB on held-out
    pictures, by 83 % of the codes, with right colours and hardly a shape. So its number of steps,
    and what is built on it, are to be checked before they are used.

    smalti train emoji_titok --out runs/emoji-titok
    """
    return TokenizerRecipe(
        data=DataConfig(source="emoji", flip=True),
        model=TiTokConfig(
            (64, 64), 8, tokens=32, vocab=1024, dim=12, encoder=NARROW, decoder=NARROW
        ),
        objective=ReconstructionConfig(
            perceptual="none", gan_weight=0.0, codebook=CodebookConfig(warmup=300)
        ),
        train=TrainConfig(
            steps=1500,
            batch=16,
            optim=OptimConfig(lr=1e-3, schedule="cosine", warmup=50, weight_decay=0.0),
            eval_every=300,
            preview_every=750,
            save_every=750,
        ),
    )


def emoji_titok_vae() -> TokenizerRecipe:
    """The same of continuous codes, 32 of 8 numbers.

    smalti train emoji_titok_vae --out runs/emoji-titok-vae
    """
    recipe = emoji_titok()
    return replace(
        recipe,
        model=TiTokVAEConfig((64, 64), 8, tokens=32, dim=8, encoder=NARROW, decoder=NARROW),
        objective=KLConfig(pixel="l2", perceptual="none", gan_weight=0.0, kl_weight=3e-2),
    )


def emoji_titok_generator() -> GeneratorRecipe:
    """A small BERT on the codes of `emoji_titok`, of as many parameters as `emoji_llamagen`.

    smalti train emoji_titok_generator --tokenizer runs/emoji-titok/tokenizer --out runs/titok
    """
    recipe = emoji_llamagen()
    return replace(
        recipe,
        model=TiTokGeneratorConfig(
            grid=(1, 32),
            vocab=1024,
            classes=9,
            layers=4,
            heads=4,
            dim=180,
            ffn_dim=720,
            dropout=0.2,
        ),
        objective=MaskedConfig(masking="arccos", known_weight=0.1),
        sampling=Sampling.of(
            guidance=2.0, schedule="linear", steps=16, reveal="arccos", confidence=4.5
        ),
    )


DEMO = Demo(
    emoji_titok,
    emoji_titok_generator,
    what="32 codes that stand for no places",
    predicts="hidden codes of the whole picture, from those that are shown",
)

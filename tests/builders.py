"""Small systems with random weights, and inputs for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from smalti import modules
from smalti.codes import Cond, TokenSpec
from smalti.engine import LOOPS
from smalti.engine.step import Known, Request, Step
from smalti.models import (
    fluid,
    hart,
    ibq,
    infinity,
    llamagen,
    maskbit,
    maskgit,
    meissonic,
    open_magvit2,
    rar,
    taming,
    titok,
    var,
)
from smalti.pipeline.pipeline import Pipeline
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text import byte_words as byte_level
from smalti.text.word_ids import WordIds, WordIdsConfig
from smalti.text.words import Words
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.titok import ProxyConfig


@cache
def models() -> dict[str, tuple[type[nn.Module], Any]]:
    """Class and config of every registered model at its tiny size, and of some variants."""
    found = {name: (item.module, item.tiny()) for name, item in modules.MODELS.items()}
    small = llamagen.tiny()
    text = replace(small, classes=0, text_length=6, text_dim=12)
    grouped = replace(small, kv_heads=1, grid=(2, 5))
    spiral = replace(small, order="spiral-in")
    shared = replace(
        var.tiny(), shared_adaln=True, l2_norm=False, scales=((1, 2), (2, 3), (3, 5)), phis=1
    )
    random = fluid.tiny()  # of continuous codes
    ids = replace(random, vocab=32, channels=0)
    captions = {"classes": 0, "text_length": 6, "text_dim": 12, "aligner_layers": 1}
    wide = replace(rar.tiny(), grid=(3, 5), order="subsample")
    oblong = replace(maskgit.tiny(), grid=(2, 5), heads=4)
    thirds = replace(maskbit.tiny(), vocab=64, channels=0, groups=3, grid=(2, 5), prenorm=True)
    bits = {"vocab": 2, "channels": 5}
    numbers = replace(open_magvit2.tiny(), vocab=32, channels=0, groups=(1, 2, 2), grid=(2, 5))
    numbers = replace(numbers, order="spiral-in", intra_layers=2)
    return found | {
        "llamagen-text": (llamagen.LlamaGen, text),
        "llamagen-grouped": (llamagen.LlamaGen, grouped),
        "llamagen-spiral": (llamagen.LlamaGen, spiral),
        "fluid-discrete": (fluid.fluid, replace(ids, grid=(3, 5))),
        "fluid-text": (fluid.fluid, replace(random, **captions)),
        "fluid-raster": (fluid.fluid, replace(ids, order="raster")),
        "fluid-raster-text": (fluid.fluid, replace(ids, order="raster", **captions)),
        "fluid-raster-continuous": (fluid.fluid, replace(random, order="raster")),
        "rar-wide": (rar.RAR, wide),
        "var-shared": (var.VAR, shared),
        "maskgit-oblong": (maskgit.MaskGIT, oblong),
        "maskbit-numbers": (maskbit.MaskBit, thirds),
        "maskbit-text": (
            maskbit.MaskBit,
            replace(maskbit.tiny(), classes=0, text_length=6, text_dim=12, prenorm=True),
        ),
        "maskbit-whole": (maskbit.MaskBit, replace(maskbit.tiny(), channels=5, groups=1)),
        "llamagen-depth": (llamagen.LlamaGen, replace(small, depth=3, vocab=8)),
        "llamagen-bits": (llamagen.LlamaGen, replace(small, **bits)),
        "rar-bits": (rar.RAR, replace(wide, **bits)),
        "titok_generator-uvit": (
            titok.TiTokGenerator,
            replace(titok.tiny(), network="uvit"),
        ),
        "maskgit-bits": (maskgit.MaskGIT, replace(oblong, **bits)),
        "fluid-bits": (fluid.fluid, replace(random, **bits)),
        "var-bits": (
            var.VAR,
            replace(var.tiny(), scales=((1, 2), (2, 3), (3, 5)), **bits, latent=5),
        ),
        "infinity-cells": (
            infinity.Infinity,
            replace(
                infinity.tiny(),
                scales=((1, 2), (2, 3), (3, 5)),
                bits=3,
                cells=2,
                shared_adaln=False,
                l2_norm=False,
            ),
        ),
        "infinity-numbers": (
            infinity.Infinity,
            replace(infinity.tiny(), bits=0, vocab=32, latent=4),
        ),
        "hart-cross": (
            hart.HART,
            replace(
                hart.tiny(),
                scales=((1, 1), (2, 3), (3, 5)),
                text_norm=False,
                feed_forward="gelu",
                adaln="shared",
                cross=True,
                waves=False,
                l2_norm=False,
                rest_scale=0.0,
            ),
        ),
        "var-cells": (var.VAR, replace(var.tiny(), vocab=2, channels=8, latent=2)),
        "open_magvit2-numbers": (open_magvit2.OpenMAGVIT2, numbers),
        "ibq-shared": (
            ibq.IBQ,
            replace(ibq.tiny(), shared_adaln=True, grid=(2, 5), order="spiral-in"),
        ),
        "ibq-bits": (ibq.IBQ, replace(ibq.tiny(), **bits)),
        "meissonic-pooled": (
            meissonic.Meissonic,
            replace(meissonic.tiny(), pooled=7, word_dim=9, guided=2.0, grid=(4, 6)),
        ),
        "taming-map": (
            taming.Taming,
            replace(
                taming.tiny(), classes=0, map_grid=(2, 3), map_vocab=7, unmasked=6, grid=(2, 5)
            ),
        ),
        "fluid-raster-bits": (fluid.fluid, replace(random, order="raster", **bits)),
    }


@cache
def causal_models() -> dict[str, tuple[type[nn.Module], Any]]:
    """Those of `models` that draw one block after another."""
    return {name: (m, c) for name, (m, c) in models().items() if not is_masked(m(c))}


@cache
def masked_models() -> dict[str, tuple[type[nn.Module], Any]]:
    """Those of `models` that fill in hidden codes."""
    return {name: (m, c) for name, (m, c) in models().items() if is_masked(m(c))}


def of_each_value(model: Any, h: Tensor) -> Tensor:
    """Logits of each value of a code's number, (B, n, V), or of each of its bits, (B, n, K, 2)."""
    logits = model.head.logits(h)
    if not model.spec.channels:
        return logits
    return torch.stack((torch.zeros_like(logits), logits), -1)


def is_masked(model: Any) -> bool:
    return model.loop == "masked"


def stream(
    model: Any,
    cond: Cond,
    noise: Noise,
    guidance: Guidance | None = None,
    filters: Filters | None = None,
    known: Known | None = None,
    **more: Any,
) -> Iterator[Step]:
    """The steps of the loop that a model is for; without packed weights, bit by bit the same."""
    request = Request(
        cond, noise, guidance or Guidance(), filters or Filters(), known=known, **more
    )
    return LOOPS[model.loop](model, request)


def generate(*arguments: Any, **more: Any) -> Tensor:
    """What a tokenizer decodes of a batch: the last step of `stream`."""
    *_, last = stream(*arguments, **more)
    return last.drawn


@cache
def tokenizers() -> dict[str, tuple[type[nn.Module], Any]]:
    """Class and config of every registered tokenizer at its tiny size, and of some variants."""
    found = {name: (item.module, item.tiny()) for name, item in modules.TOKENIZERS.items()}
    module, small = found["vqgan"]
    variant = replace(small, size=(16, 32), patch=2, l2_norm=False, attention=False)
    # groups of more than one channel, attention where cells are small
    wide = replace(small, channels=40, deep_attention=False, attention_at=(1, 2))
    uneven = replace(small, decoder_multipliers=(2, 1, 3))
    scaled, tiny = found["multiscale_vqvae"]
    oblong = replace(
        tiny,
        size=(16, 32),
        patch=2,
        multipliers=(1, 2),
        scales=pyramid(1, 2, 5, 8, grid=(4, 8)),
        phis=0,
        kernel=1,
        attention=False,
    )
    directions = replace(tiny, scales=((2, 2), (4, 4)), phis=2, phi_ratio=1.0, l2_norm=True)
    maskgit, plain = found["maskgit_vqgan"]
    long = replace(plain, size=(8, 24), multipliers=(2, 1, 3), blocks=2)
    maskbit_vqgan, halves = found["maskbit_vqgan"]
    pooled = replace(halves, size=(8, 24), multipliers=(2, 1, 3), strided=False, bits=3)
    kl, smooth = found["kl_vae"]
    grouped = replace(smooth, group=2, scale=1.5)
    flat = replace(
        smooth,
        size=(16, 48),
        patch=2,
        multipliers=(2, 1, 3),
        decoder_multipliers=(1, 2, 1),
        blocks=2,
        latent=3,
        attention_at=(2, 4),
    )
    infinity, few = found["infinity_vae"]
    cells = replace(  # of 2 x 2 cells, normalised in 24 groups
        few,
        size=(16, 24),
        channels=24,
        multipliers=(1, 2),
        decoder_multipliers=(2, 1),
        scales=((1, 1), (2, 3), (4, 6)),
        cells=2,
    )
    dcae_kind, deep = found["dcae"]
    encoder = replace(deep.encoder, widths=(4, 8, 8), blocks=(0, 1, 0), attention_at=(2,))
    encoder = replace(encoder, kernels=(), shuffle=False, shortcut=False)
    decoder = replace(encoder, blocks=(1, 1, 1), kernels=((2, 3), (2, 5)), batch_norm_at=())
    decoder = replace(decoder, activations=("relu", "silu", "mish"))
    strided = replace(deep, size=(8, 24), latent=3, encoder=encoder, decoder=decoder)
    fsq, plain_levels = found["fsq"]
    odd = replace(plain_levels, size=(8, 24), multipliers=(2, 1), levels=(5, 7, 3, 9))
    ibq_kind, small_ibq = found["ibq_tokenizer"]
    long_ibq = replace(  # attention at two levels of encoder and decoder
        small_ibq, size=(16, 48), patch=2, multipliers=(2, 1, 3), blocks=2, attention_at=(2, 4)
    )
    lfq, signs = found["open_magvit2_lfq"]
    narrow = replace(signs, size=(8, 24), patch=2, multipliers=(2, 1), blocks=2, bits=1)
    titok_kind, few_tokens = found["titok"]
    proxy = ProxyConfig(vocab=24, dim=4, channels=8, multipliers=(1, 2), blocks=1)
    first = replace(  # of the first releases, on a picture that is no square
        few_tokens, size=(16, 24), decoder_patch=2, l2_norm=False, scrambled=True, proxy=proxy
    )
    return found | {
        "titok-first": (titok_kind, first),
        "dcae-strided": (dcae_kind, replace(strided, head_dim=4, last_activation="gelu")),
        "fsq-levels": (fsq, odd),
        "ibq_tokenizer-oblong": (ibq_kind, long_ibq),
        "infinity_vae-cells": (infinity, cells),
        "open_magvit2_lfq-narrow": (lfq, narrow),
        "kl_vae-grouped": (kl, grouped),
        "kl_vae-oblong": (kl, flat),
        "maskgit_vqgan-oblong": (maskgit, long),
        "maskbit_vqgan-pooled": (maskbit_vqgan, replace(pooled, decoder_blocks=2)),
        "vqgan-variant": (module, variant),
        "vqgan-wide": (module, wide),
        "vqgan-uneven": (module, uneven),
        "multiscale-oblong": (scaled, oblong),
        "multiscale-directions": (scaled, directions),
    }


@cache
def texts() -> dict[str, tuple[type[nn.Module], Any]]:
    """Class and config of every registered text encoder at its tiny size."""
    return {name: (item.module, item.tiny()) for name, item in modules.TEXT.items()}


def build(module: type[nn.Module], config: Any, seed: int = 0) -> Any:
    """A module in evaluation mode whose every weight matters.

    As initialised, heads are zero and norms are one, so that many mistakes would not show.
    """
    torch.manual_seed(seed)
    model = module(config).eval()
    with torch.no_grad():
        for part in model.modules():
            for name, weight in part.named_parameters(recurse=False):
                noise = torch.randn_like(weight)
                if isinstance(part, nn.Embedding):
                    weight.copy_(noise)
                elif weight.dim() > 1:
                    weight.copy_(noise / weight[0].numel() ** 0.5)
                else:
                    weight.copy_(0.1 * noise + (1 if name == "weight" else 0))
    return model


def pipeline(name: str, **options: Any) -> Pipeline:
    """A pipeline of the model `name` of `models()` and a tokenizer that speaks of its codes."""
    model = build(*models()[name])
    spec, grids = model.spec, model.spec.grids
    if not spec.discrete and len(grids) > 1:
        kind, changes = "hart_vae", {"dim": spec.channels, "scales": grids}
        changes |= {"vocab": model.config.vocab, "phis": model.config.phis}
    elif not spec.discrete:
        kind, changes = "kl_vae", {"latent": spec.channels}
    elif len(grids) > 1:
        kind, changes = "multiscale_vqvae", {"vocab": spec.vocab, "scales": grids}
        if spec.channels:
            kind, changes = "infinity_vae", {"bits": spec.channels, "scales": grids}
        else:
            changes["phis"] = model.config.phis
    elif spec.channels:
        kind, changes = "open_magvit2_lfq", {"bits": spec.channels}
    elif spec.depth:
        kind, changes = "rq_vae", {"vocab": spec.vocab, "depth": spec.depth}
        changes["dim"] = getattr(model.config, "code_dim", tokenizers()["rq_vae"][1].dim)
    else:
        kind, changes = "vqgan", {"vocab": spec.vocab}
    module, config = tokenizers()[kind]
    size = (grids[-1][0] * config.factor, grids[-1][1] * config.factor)
    tokenizer = build(module, replace(config, size=size, **changes))
    model.learn_from(tokenizer)
    text = map = None
    if reads := model.reads.map:
        module, config = tokenizers()["vqgan"]
        size = (reads.grids[0][0] * config.factor, reads.grids[0][1] * config.factor)
        map = build(module, replace(config, size=size, vocab=reads.vocab, map="edges"))
    if length := model.reads.text_length:
        if ids := model.reads.text_vocab:
            words = Words.train(["a small red heart", "a large red star"], ids)
            text = WordIds(WordIdsConfig(length, ids, words.text)).eval()
        else:
            words = replace(byte_level.tiny(), length=length, dim=model.reads.text_dim)
            text = build(byte_level.ByteEncoder, words)
    return Pipeline(tokenizer, model, text=text, map=map, **options)


def random_codes(spec: TokenSpec, batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if spec.tables:
        sizes = torch.tensor([h * w for h, w in spec.grids])
        tables = torch.tensor(spec.tables).repeat_interleave(sizes)
        share = torch.rand(spec.shape(batch), generator=generator)
        return spec.firsts + (share * tables).long()
    if spec.discrete:
        return torch.randint(spec.vocab, spec.shape(batch), generator=generator)
    return torch.randn(spec.shape(batch), generator=generator)


def random_cond(model: Any, batch: int, seed: int = 0) -> Cond:
    """Labels, or left-padded texts of different lengths, whichever the model takes."""
    generator = torch.Generator().manual_seed(seed)
    reads = model.reads
    if reads.map:
        codes = torch.randint(reads.map.vocab, reads.map.shape(batch), generator=generator)
        return Cond(map=codes)
    if reads.classes:
        return Cond(labels=torch.randint(reads.classes, (batch,), generator=generator))
    lengths = torch.randint(1, reads.text_length, (batch,), generator=generator)
    mask = torch.arange(reads.text_length) >= reads.text_length - lengths[:, None]
    shape = (batch, reads.text_length, reads.text_dim)
    if reads.text_vocab:
        ids = torch.randint(reads.text_vocab, shape, generator=generator)
        return Cond(text=ids.float(), text_mask=mask)
    text = torch.randn(shape, generator=generator)
    return Cond(text=text * mask[..., None], text_mask=mask)

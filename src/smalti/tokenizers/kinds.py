"""The tokenizers by name. A new one costs one line here.

They stand here and not in `modules.py`, as a tokenizer may hold another one (`refined.py`).
"""

from __future__ import annotations

from typing import Any

from smalti.config import Entry
from smalti.tokenizers import (
    dalle_dvae,
    dcae,
    dual,
    emu3_vq,
    fsq,
    hart_vae,
    kl_vae,
    magvit2,
    maskgit_vqgan,
    multiscale_vqvae,
    palette,
    rendered,
    rq_vae,
    titok,
    titok_vae,
    unitok,
    vila_u,
    vit_vqgan,
    vqgan,
)
from smalti.tokenizers import ibq as ibq_tokenizer
from smalti.tokenizers import infinity as infinity_vae
from smalti.tokenizers import maskbit as maskbit_vqgan
from smalti.tokenizers import open_magvit2 as lfq

KINDS = {
    "vqgan": Entry(vqgan.VQGANConfig, vqgan.VQGAN, vqgan.tiny),
    "multiscale_vqvae": Entry(
        multiscale_vqvae.MultiScaleConfig,
        multiscale_vqvae.MultiScaleVQVAE,
        multiscale_vqvae.tiny,
    ),
    "magvit2": Entry(magvit2.MAGVIT2Config, magvit2.MAGVIT2, magvit2.tiny),
    "maskgit_vqgan": Entry(
        maskgit_vqgan.MaskGITVQGANConfig, maskgit_vqgan.MaskGITVQGAN, maskgit_vqgan.tiny
    ),
    "dalle_dvae": Entry(dalle_dvae.DalleDVAEConfig, dalle_dvae.DalleDVAE, dalle_dvae.tiny),
    "dcae": Entry(dcae.DCAEConfig, dcae.DCAE, dcae.tiny),
    "dual": Entry(dual.DualConfig, dual.DualTokenizer, dual.tiny),
    "emu3_vq": Entry(emu3_vq.Emu3VQConfig, emu3_vq.Emu3VQ, emu3_vq.tiny),
    "fsq": Entry(fsq.FSQConfig, fsq.FSQ, fsq.tiny),
    "ibq_tokenizer": Entry(
        ibq_tokenizer.IBQTokenizerConfig, ibq_tokenizer.IBQTokenizer, ibq_tokenizer.tiny
    ),
    "maskbit_vqgan": Entry(
        maskbit_vqgan.MaskBitVQGANConfig, maskbit_vqgan.MaskBitVQGAN, maskbit_vqgan.tiny
    ),
    "open_magvit2_lfq": Entry(lfq.OpenMAGVIT2LFQConfig, lfq.OpenMAGVIT2LFQ, lfq.tiny),
    "palette": Entry(palette.PaletteConfig, palette.Palette, palette.tiny),
    "hart_vae": Entry(hart_vae.HARTVAEConfig, hart_vae.HARTVAE, hart_vae.tiny),
    "kl_vae": Entry(kl_vae.KLVAEConfig, kl_vae.KLVAE, kl_vae.tiny),
    "infinity_vae": Entry(
        infinity_vae.InfinityVAEConfig, infinity_vae.InfinityVAE, infinity_vae.tiny
    ),
    "rendered": Entry(rendered.RenderedConfig, rendered.Rendered, rendered.tiny),
    "rq_vae": Entry(rq_vae.RQVAEConfig, rq_vae.RQVAE, rq_vae.tiny),
    "titok": Entry(titok.TiTokConfig, titok.TiTok, titok.tiny),
    "titok_vae": Entry(titok_vae.TiTokVAEConfig, titok_vae.TiTokVAE, titok_vae.tiny),
    "unitok": Entry(unitok.UniTokConfig, unitok.UniTok, unitok.tiny),
    "vila_u": Entry(vila_u.VILAUConfig, vila_u.VILAU, vila_u.tiny),
    "vit_vqgan": Entry(vit_vqgan.ViTVQGANConfig, vit_vqgan.ViTVQGAN, vit_vqgan.tiny),
}


def tokenizer_of(config: Any) -> Any:
    """A new tokenizer of a configuration of one of these kinds."""
    (kind,) = (item.module for item in KINDS.values() if item.config is type(config))
    return kind(config)

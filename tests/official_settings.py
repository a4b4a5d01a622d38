"""Our configurations of the settings that the official code takes, for golden tests."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from smalti.heads.depth import DepthConfig
from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.projects.rq import GELUS
from smalti.models.dnd import DnDConfig
from smalti.models.hart import HARTConfig
from smalti.models.infinity import InfinityConfig
from smalti.models.llamagen import LlamaGenConfig
from smalti.models.mar import MARConfig
from smalti.models.rar import RARConfig
from smalti.models.var import VARConfig
from smalti.tokenizers.hart_vae import HARTVAEConfig
from smalti.tokenizers.infinity import InfinityVAEConfig
from smalti.tokenizers.kl_vae import KLVAEConfig
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGANConfig
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.tokenizers.vqgan import VQGANConfig

# -- LlamaGen
GPT_DEFAULTS: dict[str, Any] = {
    "dim": 4096,
    "n_layer": 32,
    "n_head": 32,
    "n_kv_head": None,
    "multiple_of": 256,
    "ffn_dim_multiplier": None,
    "norm_eps": 1e-5,
    "rope_base": 10000,
    "num_classes": 1000,
    "caption_dim": 2048,
    "model_type": "c2i",
    "vocab_size": 16384,
    "cls_token_num": 1,
    "block_size": 256,
}
"""`ModelArgs` of autoregressive/models/gpt.py, the fields that shape weights or outputs."""

GPT_TRAINING = {
    "initializer_range",
    "token_dropout_p",
    "attn_dropout_p",
    "resid_dropout_p",
    "ffn_dropout_p",
    "drop_path_rate",
    "class_dropout_prob",
    "max_batch_size",
    "max_seq_len",
}
"""Fields that change neither the weights' shapes nor an output in evaluation mode."""

VQ_DEFAULTS: dict[str, Any] = {
    "codebook_size": 16384,
    "codebook_embed_dim": 8,
    "codebook_l2_norm": True,
    "encoder_ch_mult": [1, 1, 2, 2, 4],
    "decoder_ch_mult": [1, 1, 2, 2, 4],
    "z_channels": 256,
    "dropout_p": 0.0,
}
"""`ModelArgs` of tokenizer/tokenizer_image/vq_model.py, likewise."""

VQ_TRAINING = {"codebook_show_usage", "commit_loss_beta", "entropy_loss_ratio"}


def gpt_config(model_args: Mapping[str, Any]) -> LlamaGenConfig:
    """Our config of the official `ModelArgs`, whose defaults fill what is not given.

    Raises ValueError for an unknown field, a grid that is not square or an odd prefix.
    """
    args = _filled(model_args, GPT_DEFAULTS, GPT_TRAINING, "LlamaGen GPT")
    side = math.isqrt(args["block_size"])
    if side * side != args["block_size"]:
        raise ValueError(f"block_size must be a square number, got {args['block_size']}")
    if args["model_type"] not in ("c2i", "t2i"):
        raise ValueError(f"model_type must be 'c2i' or 't2i', got {args['model_type']!r}")
    text = args["model_type"] == "t2i"
    if not text and args["cls_token_num"] != 1:
        raise ValueError(f"cls_token_num of a c2i model must be 1, got {args['cls_token_num']}")
    return LlamaGenConfig(
        grid=(side, side),
        vocab=args["vocab_size"],
        classes=0 if text else args["num_classes"],
        text_length=args["cls_token_num"] if text else 0,
        text_dim=args["caption_dim"],
        layers=args["n_layer"],
        heads=args["n_head"],
        kv_heads=args["n_kv_head"] or 0,
        dim=args["dim"],
        multiple_of=args["multiple_of"],
        ffn_multiplier=args["ffn_dim_multiplier"] or 1.0,
        norm_eps=args["norm_eps"],
        rope_base=float(args["rope_base"]),
    )


def vq_config(
    model_args: Mapping[str, Any],
    size: tuple[int, int] = (256, 256),
    ch: int = 128,
    num_res_blocks: int = 2,
) -> VQGANConfig:
    """Our config of the official `ModelArgs`; `ch` and `num_res_blocks` are fixed upstream.

    `size` is the height and width of the images, which upstream leaves open. Raises ValueError for
    an unknown field or if encoder and decoder have different numbers of levels.
    """
    args = _filled(model_args, VQ_DEFAULTS, VQ_TRAINING, "LlamaGen VQ")
    encoder, decoder = tuple(args["encoder_ch_mult"]), tuple(args["decoder_ch_mult"])
    return VQGANConfig(
        size=size,
        channels=ch,
        multipliers=encoder,
        decoder_multipliers=() if decoder == encoder else decoder,
        blocks=num_res_blocks,
        latent=args["z_channels"],
        vocab=args["codebook_size"],
        dim=args["codebook_embed_dim"],
        l2_norm=args["codebook_l2_norm"],
        dropout=args["dropout_p"],
    )


def _filled(
    given: Mapping[str, Any], defaults: dict[str, Any], ignored: set[str], what: str
) -> dict[str, Any]:
    unknown = sorted(set(given) - set(defaults) - ignored)
    if unknown:
        raise ValueError(
            f"{what}: unknown settings {', '.join(unknown)} (known: {', '.join(defaults)})"
        )
    return {name: given.get(name, value) for name, value in defaults.items()}


# -- DnD-Transformer
def dnd_config(model_args: Mapping[str, Any]) -> DnDConfig:
    """Our config of the official `ModelArgs` of gpt_multitoken_v3.py, which are LlamaGen's and
    three more. Layers behind the last head, which nothing reads, are left out."""
    args = dict(model_args)
    count = args.pop("num_pred_heads", 2)
    at = tuple(args.pop("pred_head_positions", [39, 47]))
    shared = bool(args.pop("share_prediction_heads", 0))
    if len(at) != count:
        raise ValueError(f"pred_head_positions must be {count} layers, got {at}")
    llama = {f.name: getattr(gpt_config(args), f.name) for f in fields(LlamaGenConfig)}
    mine = {f.name for f in fields(DnDConfig)}
    kept = {n: v for n, v in llama.items() if n in mine}
    return DnDConfig(**kept | {"depth": count, "at": at, "layers": at[-1] + 1}, shared_heads=shared)


# -- VAR
VAE_DEFAULTS: dict[str, Any] = {
    "vocab_size": 4096,
    "z_channels": 32,
    "ch": 128,
    "dropout": 0.0,
    "using_znorm": False,
    "quant_conv_ks": 3,
    "quant_resi": 0.5,
    "share_quant_resi": 4,
    "default_qresi_counts": 0,
    "v_patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
}
"""Arguments of `VQVAE` in models/vqvae.py, those that shape weights or outputs."""

VAE_TRAINING = {"beta", "test_mode"}


def vae_config(
    arguments: Mapping[str, Any],
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
) -> MultiScaleConfig:
    """Our config of the official arguments of `VQVAE`; the other two are fixed upstream.

    Images are as large as the last scale asks for. Raises ValueError for an unknown argument.
    """
    unknown = sorted(arguments.keys() - VAE_DEFAULTS.keys() - VAE_TRAINING)
    if unknown:
        raise ValueError(
            f"VAR VQVAE: unknown settings {', '.join(unknown)} (known: {', '.join(VAE_DEFAULTS)})"
        )
    args = VAE_DEFAULTS | dict(arguments)
    scales = pyramid(*args["v_patch_nums"])
    side = scales[-1][0] * 2 ** (len(ch_mult) - 1)
    return MultiScaleConfig(
        size=(side, side),
        channels=args["ch"],
        multipliers=tuple(ch_mult),
        blocks=num_res_blocks,
        scales=scales,
        vocab=args["vocab_size"],
        dim=args["z_channels"],
        phis=args["share_quant_resi"] or args["default_qresi_counts"],
        phi_ratio=abs(args["quant_resi"]),
        l2_norm=args["using_znorm"],
        kernel=args["quant_conv_ks"],
        dropout=args["dropout"],
    )


VAR_DEFAULTS: dict[str, Any] = {
    "num_classes": 1000,
    "depth": 16,
    "embed_dim": 1024,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "norm_eps": 1e-6,
    "shared_aln": False,
    "attn_l2_norm": False,
    "patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
}
"""Arguments of `VAR` in models/var.py, those that shape weights or outputs."""


def var_config(constructor: Mapping[str, Any], vocab: int, latent: int, **codes: Any) -> VARConfig:
    """Our config of the arguments of the official `VAR`, whose defaults fill what is not given, and
    of its tokenizer: entries and dimensions of the codebook, `phis` and `phi_ratio`."""
    args = VAR_DEFAULTS | dict(constructor)
    return VARConfig(
        scales=pyramid(*args["patch_nums"]),
        vocab=vocab,
        latent=latent,
        **codes,
        classes=args["num_classes"],
        layers=args["depth"],
        heads=args["num_heads"],
        dim=args["embed_dim"],
        mlp_ratio=args["mlp_ratio"],
        shared_adaln=args["shared_aln"],
        l2_norm=args["attn_l2_norm"],
        norm_eps=args["norm_eps"],
        dropout=args["drop_rate"],
        drop_path=args["drop_path_rate"],
    )


# -- HART
HART_VAE_DEFAULTS = VAE_DEFAULTS | {"ch": 160, "ch_mult": [1, 1, 2, 2, 4]}
"""Arguments of `HARTAutoEncoderConfig`, those that shape weights or outputs."""

HART_VAE_OTHER = {
    *("beta", "test_mode", "levels", "hybrid", "disable_quant_resi"),
    *("freeze_codebook_for_hybrid", "quantizer_type"),
}
"""Those that say how it is trained; `disable_quant_resi` works on VAR's quantizer alone."""


def hart_vae_config(constructor: Mapping[str, Any]) -> HARTVAEConfig:
    """Our config of the official arguments of `HARTAutoEncoderConfig`. Raises ValueError for an
    unknown one, for another quantizer, and for a second decoder."""
    given = dict(constructor)
    if given.get("quantizer_type", "var_hybrid") != "var_hybrid" or given.pop(
        "double_decoder", False
    ):
        raise ValueError(f"a hybrid quantizer and one decoder, got {constructor}")
    args = _filled(given, HART_VAE_DEFAULTS, HART_VAE_OTHER, "HART")
    multipliers = args.pop("ch_mult")
    plain = vae_config(args, multipliers)
    return HARTVAEConfig(**{f.name: getattr(plain, f.name) for f in fields(plain)})


HART_DEFAULTS: dict[str, Any] = {
    "context_token": 77,
    "context_dim": 768,
    "depth": 16,
    "embed_dim": 1024,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "norm_eps": 1e-6,
    "patch_nums": [1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
    "diff_width": 1024,
    "diff_depth": 6,
    "diffusion_batch_mul": 4,
    "mlp_type": "gpt2",
    "attn_type": "gpt2",
    "attn_l2_norm": False,
    "shared_aln": False,
    "disable_aln": False,
    "use_timestep_embed": False,
    "sep_aln_pooling_mode": "max",
    "use_cross_attn": False,
    "use_context_norm": False,
    "sampler": "iddpm",
}
"""Arguments of `HARTForT2IConfig`, those that shape weights or outputs."""

HART_OTHER = {
    *("vae_path", "attn_drop_rate", "cond_drop_rate", "flash_if_available", "fused_if_available"),
    *("num_sampling_steps", "context_norm_scale", "diffusion_head_repeats"),
}
"""Those that say how it is trained, computed or drawn from."""


def hart_config(constructor: Mapping[str, Any], codes: HARTVAEConfig, **ours: Any) -> HARTConfig:
    """Our config of the arguments of `HARTForT2IConfig`, of its tokenizer, and other settings by
    our names. Raises ValueError for an unknown one, and for attention without rotation, which the
    official code cannot draw with."""
    args = _filled(constructor, HART_DEFAULTS, HART_OTHER, "HART")
    if args["attn_type"] != "llama" or args["sampler"] != "iddpm":
        raise ValueError(f"attn_type must be llama and sampler iddpm, got {args}")
    swiglu = args["mlp_type"] == "llama"
    own, shared = not args["disable_aln"], args["shared_aln"]
    return HARTConfig(
        scales=pyramid(*args["patch_nums"]),
        vocab=codes.vocab,
        latent=codes.dim,
        phis=codes.phis,
        phi_ratio=codes.phi_ratio,
        text_length=args["context_token"],
        text_dim=args["context_dim"],
        text_norm=args["use_context_norm"],
        layers=args["depth"],
        heads=args["num_heads"],
        dim=args["embed_dim"],
        mlp_ratio=args["mlp_ratio"],
        feed_forward="swiglu" if swiglu else "gelu",
        adaln="own" if own else "shared" if shared else "none",
        pool=args["sep_aln_pooling_mode"],
        cross=args["use_cross_attn"],
        waves=args["use_timestep_embed"],
        l2_norm=args["attn_l2_norm"],
        norm_eps=args["norm_eps"],
        dropout=args["drop_rate"],
        drop_path=args["drop_path_rate"],
        head=DiffusionConfig(
            depth=args["diff_depth"],
            width=args["diff_width"],
            repeat=args["diffusion_batch_mul"],
            clip=1.0,
        ),
        **ours,
    )


# -- RAR
def rar_config(constructor: Mapping[str, Any], grid: tuple[int, int] | None = None) -> RARConfig:
    """Our config of the official `model` section: `generator` and `vq_model`.

    Without a grid, which upstream has not, it is square. Raises ValueError if it has another number
    of codes than `image_seq_len`.
    """
    generator, length = constructor["generator"], constructor["generator"]["image_seq_len"]
    side = math.isqrt(length)
    height, width = grid or (side, side)
    if height * width != length:
        raise ValueError(f"image_seq_len is {length}, a grid of {height}x{width} is not: give grid")
    return RARConfig(
        grid=(height, width),
        vocab=constructor["vq_model"]["codebook_size"],
        classes=generator["condition_num_classes"],
        layers=generator["num_hidden_layers"],
        heads=generator["num_attention_heads"],
        dim=generator["hidden_size"],
        ffn_dim=generator["intermediate_size"],
        dropout=generator["dropout"],
    )


# -- MAR
MAR_DEFAULTS: dict[str, Any] = {
    "img_size": 256,
    "vae_stride": 16,
    "patch_size": 1,
    "encoder_embed_dim": 1024,
    "encoder_depth": 16,
    "encoder_num_heads": 16,
    "decoder_embed_dim": 1024,
    "decoder_depth": 16,
    "decoder_num_heads": 16,
    "mlp_ratio": 4.0,
    "vae_embed_dim": 16,
    "class_num": 1000,
    "attn_dropout": 0.1,
    "proj_dropout": 0.1,
    "buffer_size": 64,
    "diffloss_d": 3,
    "diffloss_w": 1024,
    "diffusion_batch_mul": 4,
}
"""Arguments of `MAR` in models/mar.py, those that shape weights or outputs."""

MAR_OTHER = {
    "mask_ratio_min",
    "label_drop_prob",
    "num_sampling_steps",
    "grad_checkpointing",
    "norm_layer",
}
"""Those that say how it is trained or drawn from; `norm_layer` has an epsilon of 1e-6 in all
published sizes."""


def mar_config(arguments: Mapping[str, Any], **ours: Any) -> MARConfig:
    """Our config of the official arguments of `MAR`; `ours` are fields of our own: `norm_eps`.

    Raises ValueError for an unknown argument, and if the codes do not tile the image.
    """
    unknown = sorted(arguments.keys() - MAR_DEFAULTS.keys() - MAR_OTHER)
    if unknown:
        known = ", ".join(MAR_DEFAULTS)
        raise ValueError(f"MAR: unknown settings {', '.join(unknown)} (known: {known})")
    args = MAR_DEFAULTS | dict(arguments)
    side, rest = divmod(args["img_size"], args["vae_stride"] * args["patch_size"])
    if rest or not side:
        raise ValueError(
            "img_size must be a multiple of vae_stride * patch_size, got "
            f"{args['img_size']}, {args['vae_stride']} * {args['patch_size']}"
        )
    return MARConfig(
        grid=(side, side),
        channels=args["vae_embed_dim"] * args["patch_size"] ** 2,
        classes=args["class_num"],
        encoder_layers=args["encoder_depth"],
        decoder_layers=args["decoder_depth"],
        heads=args["encoder_num_heads"],
        dim=args["encoder_embed_dim"],
        decoder_heads=args["decoder_num_heads"],
        decoder_dim=args["decoder_embed_dim"],
        mlp_ratio=args["mlp_ratio"],
        buffer=args["buffer_size"],
        dropout=args["proj_dropout"],
        attention_dropout=args["attn_dropout"],
        head=DiffusionConfig(
            depth=args["diffloss_d"],
            width=args["diffloss_w"],
            repeat=args["diffusion_batch_mul"],
        ),
        **ours,
    )


# -- the KL-VAE of MAR
KL_DEFAULTS: dict[str, Any] = {
    "ch": 128,
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "resolution": 256,
    "dropout": 0.0,
}
"""Arguments of `Encoder`, those that shape weights or outputs."""


def kl_config(
    constructor: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    **ours: Any,
) -> KLVAEConfig:
    """Our config of the official arguments of `AutoencoderKL`, and of those of its `Encoder` and
    `Decoder`; `ours` are fields of our own: `scale`, `group`.

    `size` is the height and width of the images, by default upstream's resolution. Raises
    ValueError for an unknown argument.
    """
    overrides = dict(overrides or {})
    unknown = sorted(overrides.keys() - KL_DEFAULTS.keys())
    unknown += sorted(constructor.keys() - {"embed_dim", "ch_mult", "use_variational", "ckpt_path"})
    if unknown or not constructor.get("use_variational", True):
        raise ValueError(
            f"MAR AutoencoderKL: unknown settings {', '.join(unknown) or 'use_variational=False'} "
            f"(known: embed_dim, ch_mult, {', '.join(KL_DEFAULTS)})"
        )
    args = KL_DEFAULTS | overrides
    side = args["resolution"]
    return KLVAEConfig(
        size=size or (side, side),
        channels=args["ch"],
        multipliers=tuple(constructor["ch_mult"]),
        blocks=args["num_res_blocks"],
        latent=constructor["embed_dim"],
        attention_at=tuple(side // r for r in args["attn_resolutions"]),
        dropout=args["dropout"],
        **ours,
    )


# -- MaskGIT-VQGAN
def maskgit_config(
    conf: Mapping[str, Any], quantizer: Mapping[str, Any], size: tuple[int, int] | None = None
) -> MaskGITVQGANConfig:
    """Our config of the official `conf` and of the quantizer's arguments.

    `size` is the height and width of the images, by default upstream's resolution. Raises
    ValueError if the settings contradict each other or ask for other images than RGB.
    """
    wanted = {
        "num_channels": (conf["num_channels"], 3),
        "num_resolutions": (conf["num_resolutions"], len(conf["channel_mult"])),
        "z_channels": (conf["z_channels"], quantizer["embedding_dim"]),
    }
    for name, (given, needed) in wanted.items():
        if given != needed:
            raise ValueError(f"MaskGIT-VQGAN: {name} must be {needed}, got {given}")
    return MaskGITVQGANConfig(
        size=size or (conf["resolution"], conf["resolution"]),
        channels=conf["hidden_channels"],
        multipliers=tuple(conf["channel_mult"]),
        blocks=conf["num_res_blocks"],
        vocab=quantizer["num_embeddings"],
        dim=quantizer["embedding_dim"],
        dropout=conf["dropout"],
    )


# -- Infinity
INFINITY_FIXED: dict[str, Any] = {"schedule_mode": None, "test_mode": None, "vqgan_ckpt": None}
"""Options of `vae_model` that change nothing here: schedules are given."""


def infinity_config(
    constructor: Mapping[str, Any],
    scales: Sequence[Sequence[int]],
    base_ch: int = 128,
    num_res_blocks: int = 2,
) -> InfinityVAEConfig:
    """`vae_model` of infinity/models/bsq_vae/vae.py, for scales (1, h, w), and what it fixes."""
    made = {"patch_size": 16, "encoder_ch_mult": (1, 2, 4, 4, 4)} | dict(constructor)
    down = tuple(made.pop("encoder_ch_mult"))
    up = tuple(made.pop("decoder_ch_mult", (1, 2, 4, 4, 4)))
    bits, patch = made.pop("codebook_dim"), made.pop("patch_size")
    assert made.pop("codebook_size", 2**bits) == 2**bits
    assert patch == 2 ** (len(down) - 1), "each level but the last halves the size"
    assert made.keys() <= INFINITY_FIXED.keys(), f"unknown options {made.keys()}"
    grids = tuple((h, w) for _, h, w in scales)
    return InfinityVAEConfig(
        size=(grids[-1][0] * patch, grids[-1][1] * patch),
        channels=base_ch,
        multipliers=down,
        decoder_multipliers=() if up == down else up,
        blocks=num_res_blocks,
        scales=grids,
        bits=bits,
    )


INFINITY_GPT_DEFAULTS: dict[str, Any] = {
    "text_channels": 0,
    "text_maxlen": 0,
    "embed_dim": 1024,
    "depth": 16,
    "num_heads": 16,
    "mlp_ratio": 4.0,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "norm_eps": 1e-6,
    "shared_aln": False,
    "cos_attn": True,
    "apply_spatial_patchify": 0,
    "vae_local": {},
}
"""Arguments of `Infinity` in models/infinity.py, those that shape weights or outputs."""

INFINITY_GPT_FIXED = {
    "rms_norm": False,
    "head_aln": True,
    "nm0": False,
    "tau": 1,
    "swiglu": False,
    "head_depth": 1,
    "use_bit_label": 1,
    "add_lvl_embeding_only_first_block": 1,
    "rope2d_each_sa_layer": 1,
    "rope2d_normalized_by_hw": 2,
}
"""What all published models have."""

INFINITY_GPT_TRAINING = {
    *("cond_drop_rate", "rand_uncond", "customized_flash_attn", "fused_mlp", "fused_norm"),
    *("block_chunks", "pad_to_multiplier", "use_flex_attn", "inference_mode", "pn"),
    *("cross_attn_layer_scale", "checkpointing", "batch_size", "train_h_div_w_list"),
}


def infinity_gpt_config(
    constructor: Mapping[str, Any], schedule: Sequence[Sequence[int]], **ours: Any
) -> InfinityConfig:
    """Our config of the arguments of the official `Infinity` and its schedule of scales, and other
    settings by our names. Raises ValueError for an option that no published model has."""
    given = dict(constructor)
    for name, value in INFINITY_GPT_FIXED.items():
        if given.pop(name, value) != value:
            raise ValueError(f"{name} must be {value}, got {constructor[name]}")
    if given.get("cross_attn_layer_scale", -1) >= 0:
        raise ValueError("cross_attn_layer_scale must be negative, which is none")
    args = _filled(given, INFINITY_GPT_DEFAULTS, INFINITY_GPT_TRAINING, "Infinity")
    return InfinityConfig(
        scales=tuple((h, w) for _, h, w in schedule),
        bits=args["vae_local"]["embed_dim"],
        cells=2 if args["apply_spatial_patchify"] else 1,
        text_length=args["text_maxlen"],
        text_dim=args["text_channels"],
        layers=args["depth"],
        heads=args["num_heads"],
        dim=args["embed_dim"],
        mlp_ratio=args["mlp_ratio"],
        shared_adaln=bool(args["shared_aln"]),
        l2_norm=bool(args["cos_attn"]),
        norm_eps=args["norm_eps"],
        dropout=args["drop_rate"],
        drop_path=args["drop_path_rate"],
        **ours,
    )


# -- VILA-U
def vila_u_depth(told: Mapping[str, Any]) -> DepthConfig:
    """The head of a folder's `rqtransformer`."""
    block, dim = told["head"]["block"], told["embed_dim"]
    return DepthConfig(
        layers=told["head"]["n_layer"],
        heads=block["n_head"],
        dim=dim,
        block="gpt",
        gelu=GELUS[block.get("gelu", "v1")],
        positions=True,
        bias=True,
        sums=True,
        projected=dim in (told["input_embed_dim_1"], told["input_embed_dim_2"]),
    )


def vila_u_scale(config: Mapping[str, Any]) -> float:
    """The scale of guidance of a folder, which says it in words: "..., cfg=3"; 3 where it does not,
    as in the official `generate`."""
    words = config.get("tensors", {}).get("gen_cfg_logits_d", "")
    said = re.search(r"cfg ?= ?([\d.]*\d)", words)
    return float(config.get("cfg", said[1] if said else 3.0))

"""LlamaGen's official files: names and settings (FoundationVision/LlamaGen, commit ce98ec4).

Our modules keep the official names where they can, so a map is a few renames. The number of
positions is not in a checkpoint; take it from the file name (256 px: 16 x 16 codes, 384: 24 x 24).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.models.llamagen import LlamaGenConfig
from smalti.tokenizers.vqgan import VQGANConfig

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

GPT_NAMES = {
    "cls_embedding.embedding_table.weight": "cls_embedding.weight",
    "cls_embedding.uncond_embedding": "text_prefix.uncond",
    "cls_embedding.cap_proj.fc1.weight": "text_prefix.fc1.weight",
    "cls_embedding.cap_proj.fc2.weight": "text_prefix.fc2.weight",
    "output.weight": "head.proj.weight",
}
"""Official names that are not ours; every other name is the same."""


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


def gpt_state(state: Mapping[str, Tensor], config: LlamaGenConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, without the rotary table and caches of some files.

    Raises ValueError if the weights are conditioned on something else than `config`.
    """
    text = "cls_embedding.uncond_embedding" in state
    if text != (config.text_length > 0):
        held, wanted = ("t2i", "c2i") if text else ("c2i", "t2i")
        raise ValueError(f"the weights are of a {held} model, the config is of a {wanted} one")
    return {
        GPT_NAMES.get(name, name): tensor
        for name, tensor in state.items()
        if name not in ("freqs_cis", "causal_mask") and ".kv_cache." not in name
    }


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


def vq_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one: the window that counts used codes is dropped."""
    return {name: t for name, t in state.items() if name != "quantize.codebook_used"}


def _filled(
    given: Mapping[str, Any], defaults: dict[str, Any], ignored: set[str], what: str
) -> dict[str, Any]:
    unknown = sorted(set(given) - set(defaults) - ignored)
    if unknown:
        raise ValueError(
            f"{what}: unknown settings {', '.join(unknown)} (known: {', '.join(defaults)})"
        )
    return {name: given.get(name, value) for name, value in defaults.items()}

"""VAR's official files: names and settings (FoundationVision/VAR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.models.var import VARConfig
from smalti.tokenizers.quantize.multiscale import pyramid

RENAMES = (
    ("class_emb.", "cls_embedding."),
    ("lvl_embed.", "scale_embedding."),
    ("pos_1LC", "pos"),
    ("pos_start", "start_pos"),
    (".attn.mat_qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".attn.scale_mul_1H11", ".attention.log_scale"),
    (".attn.", ".attention."),
    (".ffn.fc1.", ".feed_forward.w1."),
    (".ffn.fc2.", ".feed_forward.w2."),
    ("shared_ada_lin.1.", "shared_adaln."),
    ("head_nm.ada_lin.1.", "adaln."),
    (".ada_lin.1.", ".adaln."),
    (".ada_gss", ".constants"),
    ("blocks.", "layers."),
)
"""Parts of official names and of ours, in this order."""

CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
"""Buffers that follow from the settings."""


def var_config(constructor: Mapping[str, Any], vocab: int, latent: int, **codes: Any) -> VARConfig:
    """Our config of the arguments of the official `VAR` and of its tokenizer: entries and
    dimensions of the codebook, `phis` and `phi_ratio`."""
    return VARConfig(
        scales=pyramid(*constructor["patch_nums"]),
        vocab=vocab,
        latent=latent,
        **codes,
        classes=constructor["num_classes"],
        layers=constructor["depth"],
        heads=constructor["num_heads"],
        dim=constructor["embed_dim"],
        mlp_ratio=constructor["mlp_ratio"],
        shared_adaln=constructor["shared_aln"],
        l2_norm=constructor["attn_l2_norm"],
        norm_eps=constructor["norm_eps"],
        dropout=constructor["drop_rate"],
        drop_path=constructor["drop_path_rate"],
    )


def var_state(state: Mapping[str, Tensor], tokenizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one and of our tokenizer's, whose quantizer the model keeps."""
    ours = {name: t for name, t in tokenizer.items() if name.startswith("quantize.")}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in CONSTANTS:
            continue
        for _ in range(leading(name)):
            tensor = tensor.squeeze(0)
        ours[renamed(name)] = tensor
    return ours


def leading(name: str) -> int:
    """How many leading axes of size 1 an official tensor has that ours has not."""
    ones = {"pos_1LC": 1, "pos_start": 1, "scale_mul_1H11": 1, "ada_gss": 2}
    return ones.get(name.rpartition(".")[2], 0)


def renamed(name: str) -> str:
    """Our name of an official one."""
    if name.startswith("head."):
        return name.replace("head.", "head.proj.")
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name

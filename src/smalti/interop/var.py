"""VAR's official files: names and settings (FoundationVision/VAR).

Files are bare state dicts. The tokenizer's attention has one convolution for queries, keys and
values, which we split; its decoder is stored shallow first, ours deepest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from smalti.models.var import VARConfig
from smalti.tokenizers.multiscale_vqvae import MultiScaleConfig
from smalti.tokenizers.quantize.multiscale import pyramid

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

VAE_RENAMES = (
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
    (".down.", ".conv_blocks."),
    (".up.", ".conv_blocks."),
    (".block.", ".res."),
    ("quant_resi.qresi_ls.", "phi."),
    ("quant_resi.qresi.", "phi.0."),
    ("quant_resi.", "phi."),
)
"""Parts of official names and of ours, tried in this order."""


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


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one, without the count of used codes."""
    levels = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "quantize.ema_vocab_hit_SV":
            continue
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(max(levels) - int(parts[2]))
        name = ".".join(parts)
        for official, own in VAE_RENAMES:
            name = name.replace(official, own)
        if ".qkv." in name:
            for own, part in zip("qkv", tensor.chunk(3), strict=True):
                ours[name.replace(".qkv.", f".{own}.")] = part
        else:
            ours[name] = tensor
    return ours


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

CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
"""Buffers that follow from the settings."""


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

"""MAR's official files: names and settings (LTH14/mar).

Files are state dicts of the model and of its moving average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.heads.diffusion import DiffusionConfig
from smalti.models.mar import MARConfig

DEFAULTS: dict[str, Any] = {
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

OTHER = {
    "mask_ratio_min",
    "label_drop_prob",
    "num_sampling_steps",
    "grad_checkpointing",
    "norm_layer",
}
"""Those that say how it is trained or drawn from; `norm_layer` has an epsilon of 1e-6 in all
published sizes."""

RENAMES = (
    ("coder_blocks.", "coder.layers."),
    ("coder_norm.", "coder.norm."),
    (".attn.qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".mlp.fc1.", ".feed_forward.w1."),
    (".mlp.fc2.", ".feed_forward.w2."),
    ("z_proj_ln.", "z_norm."),
    ("diffloss.net.", "head."),
    ("time_embed.mlp.0.", "time_embed.w1."),
    ("time_embed.mlp.2.", "time_embed.w2."),
    (".res_blocks.", ".blocks."),
    (".in_ln.", ".norm."),
    (".mlp.0.", ".w1."),
    (".mlp.2.", ".w2."),
    (".final_layer.linear.", ".out."),
    (".final_layer.", "."),
    (".adaLN_modulation.1.", ".adaln."),
)
"""Parts of official names and of ours, tried in this order."""

TABLES = {
    "encoder_pos_embed_learned": "encoder_pos",
    "decoder_pos_embed_learned": "decoder_pos",
    "diffusion_pos_embed_learned": "head_pos",
    "mask_token": "mask_token",
}
"""Stored with an axis for the batch, which ours lack."""


def mar_config(arguments: Mapping[str, Any], **ours: Any) -> MARConfig:
    """Our config of the official arguments of `MAR`; `ours` are fields of our own: `norm_eps`.

    Raises ValueError for an unknown argument, and if the codes do not tile the image.
    """
    unknown = sorted(arguments.keys() - DEFAULTS.keys() - OTHER)
    if unknown:
        known = ", ".join(DEFAULTS)
        raise ValueError(f"MAR: unknown settings {', '.join(unknown)} (known: {known})")
    args = DEFAULTS | dict(arguments)
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


def mar_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one. Raises KeyError for a name that is missing."""
    state = dict(state)
    classes = (state.pop("class_emb.weight"), state.pop("fake_latent"))
    ours = {"cls_embedding.weight": torch.cat(classes)}
    ours |= {our: state.pop(name)[0] for name, our in TABLES.items()}
    return ours | {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    """Our name of an official one."""
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name

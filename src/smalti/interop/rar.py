"""RAR's official files: names and settings (bytedance/1d-tokenizer, commit 942a96f).

A file is a flat state dict. One table embeds codes, an unused mask, classes and the null class;
tables of positions and steps have rows beyond the sequence, which nothing reads: they are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.models.rar import RARConfig

EXTRA_POSITIONS = 1024
"""Rows of the official tables of positions beyond those of the codes."""
EXTRA_STEPS = 100
"""The same of the official table of steps."""

RENAMES = (
    (".attn.qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".attn.", ".attention."),
    (".mlp.fc1.", ".feed_forward.w1."),
    (".mlp.fc2.", ".feed_forward.w2."),
    ("adaln_before_head.adaLN_modulation.1.", "adaln."),
    (".adaLN_modulation.1.", ".adaln."),
    ("lm_head.", "head.proj."),
    ("blocks.", "layers."),
)
"""Parts of official names and of ours."""


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


def rar_state(state: Mapping[str, Tensor], config: RARConfig) -> dict[str, Tensor]:
    """Our state dict of an official one. Raises KeyError for a name that is missing."""
    state, n = dict(state), config.spec.positions
    embeddings, positions = state.pop("embeddings.weight"), state.pop("pos_embed")[0]
    ours = {
        "start": state.pop("cls_token")[0, 0],
        "start_pos": positions[:2],
        "cell_pos.weight": positions[2 : 2 + n],
        "target_pos.weight": state.pop("target_aware_pos_embed")[0, 2 : 2 + n],
        "steps.weight": state.pop("timesteps_embeddings")[0, : n + 1],
        "tok_embeddings.weight": embeddings[: config.vocab],
        "cls_embedding.weight": embeddings[config.vocab + 1 :],  # after the mask
    }
    state.pop("attn_mask", None)
    return ours | {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    """Our name of an official one."""
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name

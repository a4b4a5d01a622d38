"""Names of the tensors of open_flamingo (commit 655f693) and of lucidrains' flamingo-pytorch
(10913ab), and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

PARTS = {
    "norm_media": "features_norm",
    "norm_latents": "norm",
    "norm": "norm",
    "to_q": "attention.wq",
    "to_kv": "attention.wkv",
    "to_out": "attention.wo",
    "0": "feed_forward.norm",
    "1": "feed_forward.w1",
    "3": "feed_forward.w2",
}
"""Modules of attention, and of a feed-forward, there and ours."""
WHOLE = {
    "frame_embs": "frames",
    "media_time_embs": "pictures",
    "media_pos_emb": "pictures",
    "attn_gate": "attention_gate",
    "ff_gate": "ffn_gate",
}
"""Tensors there, of lucidrains' the third, and ours."""
LAYER = re.compile(r"(layers\.\d+\.|)(0|1|attn|ff)\.(\w+)\.(\w+)")
"""A tensor of a layer of a resampler, or of a gated layer."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a resampler, or of a gated layer, by our names. What is of something else
    keeps its name."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if (layer := LAYER.fullmatch(name)) and layer[3] in PARTS:
            name = f"{layer[1]}{PARTS[layer[3]]}.{layer[4]}"
        found[WHOLE.get(name, name)] = tensor
    return found

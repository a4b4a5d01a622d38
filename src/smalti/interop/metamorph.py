"""Names of MetaMorph's tensors (facebookresearch/metamorph, commit 0b13deb) and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from smalti.interop.language import language_state
from smalti.models.language import LanguageConfig

IGNORED = re.compile(r"(^|\.)vision_tower\.|^model\.(vision_proj|image_newline)")
"""The tower, which is frozen and has a folder of its own, and what nothing reads."""


def model_state(state: Mapping[str, Tensor], language: LanguageConfig) -> dict[str, Tensor]:
    """Our state dict of a model's: its language model, its projector and its head, each a layer or
    a stack in which every second part is a function."""
    rest, found = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.items():
        part = re.fullmatch(r"(model\.mm_projector|vision_head)(?:\.(\d+))?\.(weight|bias)", name)
        if part:
            ours = "head" if part[1] == "vision_head" else "projector"
            found[f"{ours}.layers.{int(part[2] or 0) // 2}.{part[3]}"] = tensor
        elif not IGNORED.search(name):
            rest[name] = tensor
    ours = language_state(rest, language)
    return found | {f"language.{name}": tensor for name, tensor in ours.items()}


NAMES = (
    (r"^token_embeddings$", "tokens"),
    (r"^input_norm\.", "norm."),
    (r"^cross_attn_layers\.", "layers."),
    (r"\.cross_attn\.out_proj\.", ".attention.wo."),
    (r"\.ffn\.0\.", ".w1."),
    (r"\.ffn\.2\.", ".w2."),
)
"""Parts of the names of an adapter's tensors there and ours."""


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an adapter's: queries stand apart from keys and values."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        if packed := re.fullmatch(r"cross_attn_layers\.(\d+)\.cross_attn\.in_proj_(\w+)", name):
            layer, wide = f"layers.{packed[1]}.attention", len(tensor) // 3
            found[f"{layer}.wq.{packed[2]}"] = tensor[:wide]
            found[f"{layer}.wkv.{packed[2]}"] = tensor[wide:]
            continue
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)
        found[name] = tensor.flatten(0, 1) if name == "tokens" else tensor
    return found

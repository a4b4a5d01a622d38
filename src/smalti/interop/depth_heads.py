"""Heads over depth under a language model, as the projects that have one name their tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from smalti.interop.language import language_state
from smalti.interop.projects.rq import BLOCK, fused
from smalti.models.language import LanguageConfig

VILA_U = (
    *BLOCK,
    ("head_transformer.blocks.", "layers."),
    ("classifier_mlp.layer_norm.", "norm."),
    ("classifier_mlp.linear.", "parts.0.proj."),
    ("in_mlp_1.", "read."),
    ("in_mlp_2.", "into."),
)
"""Parts of names there and of ours, in this order."""


def vila_u_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of our head of those of VILA-U's, without the vectors that it reads."""
    found = dict[str, Tensor]()
    for name, tensor in fused(state).items():
        if name == "pos_emb_d":
            found["positions"] = tensor[0]
            continue
        for theirs, ours in VILA_U:
            name = name.replace(theirs, ours)
        found[name] = tensor
    return found


def unitok_head(state: Mapping[str, Tensor], layers: int, heads: int) -> dict[str, Tensor]:
    """The tensors of our head of those of UniTok's, layers of transformers' Llama. There pairs i
    and i + half of a head are turned, in our layers neighbours: queries and keys change places."""
    count = sum(name.startswith("codebooks.") for name in state)
    named = {f"model.{n}": t for n, t in state.items() if n.startswith(("layers.", "norm."))}
    dim = state["norm.weight"].shape[0]
    found = language_state(named, LanguageConfig(2, layers, heads, dim, 1))
    for i in range(layers):
        name = f"layers.{i}.attention.wqkv.weight"
        q, k, v = found[name].chunk(3)
        pairs = [t.view(heads, 2, -1, dim).transpose(1, 2).reshape(-1, dim) for t in (q, k)]
        found[name] = torch.cat([*pairs, v])
    found |= {f"parts.0.proj.{kind}": state[f"linear_head.{kind}"] for kind in ("weight", "bias")}
    tables = [state[f"codebooks.{k}.weight"] for k in range(count)]
    return found | {"seen.weight": torch.cat(tables)}

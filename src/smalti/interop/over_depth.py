"""Transformers over depth, by the names that projects have for their tensors: the layers of
kakaobrain, VILA-U's head and UniTok's under language models, how such a model is filled, and how
it was taught to be spoken to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from smalti.interop.language import language_state
from smalti.models.language import LanguageConfig
from smalti.nn.finite import require_finite_weights

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
"""What stands before a conversation, as Vicuna has it."""
BLOCK = (
    ("ln1.", "attention_norm."),
    ("ln2.", "ffn_norm."),
    ("attn.proj.", "wo."),
    ("mlp.0.", "feed_forward.w1."),
    ("mlp.2.", "feed_forward.w2."),
)
"""Parts of names of a layer there and of ours."""
VILA_U = (
    *BLOCK,
    ("head_transformer.blocks.", "layers."),
    ("classifier_mlp.layer_norm.", "norm."),
    ("classifier_mlp.linear.", "parts.0.proj."),
    ("in_mlp_1.", "read."),
    ("in_mlp_2.", "into."),
)
"""Parts of names there and of ours, in this order."""


def fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with one tensor for queries, keys and values."""
    ours = dict(state)
    for name in [name for name in ours if ".attn.query." in name]:
        parts = [ours.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        ours[name.replace("attn.query", "wqkv")] = torch.cat(parts)
    return ours


def with_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, with zeros where the products of layers have no bias (`attn_bias`, `mlp_bias`)."""
    found = dict(state)
    for name, tensor in state.items():
        bias = name.removesuffix("weight") + "bias"
        if "_transformer.blocks." in name and name.endswith(".weight") and bias not in state:
            found[bias] = tensor.new_zeros(len(tensor))
    return found


def vila_u_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of our head of those of VILA-U's, without the vectors that it reads."""
    found = dict[str, Tensor]()
    for name, tensor in fused(with_biases(state)).items():
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


def fill_beside(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a model, which are all but those of its `language`.

    Raises ValueError beginning with `where` if one is missing or too many, of another shape, or
    has NaN or infinite weights.
    """
    mine = {n: t for n, t in model.state_dict().items() if not n.startswith("language.")}
    if other := sorted(mine.keys() ^ state.keys()):
        what = "is missing" if other[0] in mine else "is no part of such a model"
        raise ValueError(f"{where}: {other[0]} {what}")
    require_finite_weights(dict(state), where)
    for name, tensor in mine.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"{where}: {name} has shape {tuple(state[name].shape)}, its settings ask for "
                f"{tuple(tensor.shape)}"
            )
        tensor.copy_(state[name])

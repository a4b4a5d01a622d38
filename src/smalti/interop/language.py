"""Language models as folders of transformers: config.json and weights, mostly in shards.

Names and settings are those of transformers 5.24.0, and of the files that older versions wrote.
Weights go into the model shard by shard, so that loading needs the memory of one beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smalti.config import did_you_mean, read_json
from smalti.interop.pickles import files_of, read_checkpoint
from smalti.models.language import Language, LanguageConfig
from smalti.nn.finite import require_finite_weights
from smalti.nn.unfilled import unfilled

Settings = Mapping[str, Any]


def _llama(told: Settings) -> dict[str, Any]:
    biased = bool(told.get("attention_bias"))
    return {"feed_forward": "silu", "qkv_bias": biased, "out_bias": biased, **_width(told)}


def _qwen2(told: Settings) -> dict[str, Any]:
    return {"feed_forward": "silu", "qkv_bias": True, **_width(told)}


def _gemma(told: Settings) -> dict[str, Any]:
    scale = told["hidden_size"] ** 0.5
    return {"feed_forward": "gelu", "embedding_scale": scale, **_width(told)}


def _width(told: Settings) -> dict[str, Any]:
    """The width of a head, where settings say another than `hidden_size` / `num_attention_heads`,
    which is 0."""
    width, usual = told.get("head_dim") or 0, told["hidden_size"] // told["num_attention_heads"]
    return {"head_dim": 0 if width == usual else width}


def _phi(told: Settings) -> dict[str, Any]:
    normed = "shared" if told.get("qk_layernorm") else "none"
    return {
        **{"feed_forward": "plain", "order": "parallel", "norm": "layer", "qk_norm": normed},
        **{"qkv_bias": True, "out_bias": True, "head_bias": True},
    }


def _chameleon(told: Settings) -> dict[str, Any]:
    swin, biased = "swin" if told.get("swin_norm") else "pre", bool(told.get("attention_bias"))
    normed = {"qk_norm": "heads", "order": swin}
    return {"feed_forward": "silu", "qkv_bias": biased, "out_bias": biased, **normed}


DECODER = (
    "model.embed_tokens.",
    "model.layers.0.self_attn.q_proj.",
    "model.layers.0.mlp.gate_proj.",
)
OTHER = ("model.layers.0.self_attn.q_norm.", "vision_head.")
"""How names begin in a folder of any decoder with gates; those that others have beside them:
Chameleon's, and one that says features."""
KINDS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma": _gemma,
    "phi": _phi,
    "chameleon": _chameleon,
    "emu3_text_model": _llama,
    "Emu3": _llama,
}
"""What is set by a `model_type`, beside the sizes."""
SIZES = (
    *("vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size"),
    "intermediate_size",
)
OWN = {"gemma": ("head_dim",)}
"""Settings that there must be, of all kinds and of one."""
GATES = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu", "gelu_new": "plain"}
"""Functions by their names there, and the feed-forward that has them."""


def config_of(told: Settings, where: str = "config.json") -> LanguageConfig:
    """The configuration that the settings of a model of transformers stand for.

    Raises ValueError beginning with `where` for a kind that is not known, and for settings of one
    that is known but that would be computed otherwise: scaled positions, sliding windows, other
    functions, biases of the feed-forward.
    """
    kind = str(told.get("model_type"))
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f" (known are {', '.join(KINDS)})"
        raise ValueError(f"{where}: model_type {kind!r} is not known{hint}")
    rope = told.get("rope_parameters") or told.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        raise ValueError(f"{where}: rope_type must be default, got {scaling!r}")
    if missing := [name for name in (*SIZES, *OWN.get(kind, ())) if told.get(name) is None]:
        raise ValueError(f"{where}: {missing[0]} of a {kind} is missing")
    settings = KINDS[kind](told)
    gate = told.get("hidden_act") or told.get("hidden_activation")
    if kind == "gemma" and gate == "gelu":  # its first files say so, and mean the form with a tanh
        gate = "gelu_pytorch_tanh"
    if gate and GATES.get(gate) != settings["feed_forward"]:
        raise ValueError(f"{where}: the function of a {kind} cannot be {gate!r}")
    for name in ("mlp_bias", "use_sliding_window"):
        if told.get(name):
            raise ValueError(f"{where}: {name} is not known")
    eps = told.get("rms_norm_eps", told.get("layer_norm_eps", 1e-5))
    base = rope.get("rope_theta", told.get("rope_theta", 10000.0))
    turned = rope.get("partial_rotary_factor", told.get("partial_rotary_factor"))
    return LanguageConfig(
        vocab=told["vocab_size"],
        layers=told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        dim=told["hidden_size"],
        ffn_dim=told["intermediate_size"],
        kv_heads=told.get("num_key_value_heads") or 0,
        norm_eps=eps,
        tied=bool(told.get("tie_word_embeddings", kind == "gemma")),
        rope_base=float(base),
        turned=(0.5 if kind == "phi" else 1.0) if turned is None else turned,
        **settings,
    )


class Place(NamedTuple):
    """Where a tensor of a file goes."""

    name: str
    """Our tensor."""
    start: int = 0
    rows: int = 0
    """Those of ours that it is; 0: all."""


LAYER = {
    "self_attn.o_proj": "attention.wo",
    "self_attn.dense": "attention.wo",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "self_attn.q_layernorm": "attention.q_norm",
    "self_attn.k_layernorm": "attention.k_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.fc1": "feed_forward.w1",
    "mlp.fc2": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Parts of a layer there, and ours."""
WHOLE = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "model.final_layernorm": "norm",
    "lm_head": "output",
}
IGNORED = re.compile(r"rotary_emb\.inv_freq$|^model\.vqmodel\.")
"""Tables that are computed, and the tokenizer of pictures that Chameleon's files hold."""


def place_of(name: str, config: LanguageConfig) -> Place | None:
    """Where a tensor of this name goes; None if it is of something else."""
    part, _, kind = name.rpartition(".")
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", part):
        layer, part = f"layers.{found[1]}", found[2]
        if part in LAYER:
            return Place(f"{layer}.{LAYER[part]}.{kind}")
        heads, kv = config.heads * config.width, (config.kv_heads or config.heads) * config.width
        starts = {"q": (0, heads), "k": (heads, kv), "v": (heads + kv, kv)}
        if taken := re.fullmatch(r"self_attn\.([qkv])_proj", part):
            return Place(f"{layer}.attention.wqkv.{kind}", *starts[taken[1]])
    return Place(f"{WHOLE[part]}.{kind}") if part in WHOLE else None


def language_state(state: Mapping[str, Tensor], config: LanguageConfig) -> dict[str, Tensor]:
    """The tensors of a `Language` of those that a file has, with queries, keys and values in one;
    what is of something else keeps its name."""
    found, parts = dict[str, Tensor](), dict[str, dict[int, Tensor]]()
    for name, tensor in state.items():
        place = place_of(name, config)
        if IGNORED.search(name):
            continue
        if place is None:
            found[name] = tensor
        elif place.rows:
            parts.setdefault(place.name, {})[place.start] = tensor
        else:
            shared = place.name.rpartition(".")[0].endswith(("q_norm", "k_norm"))
            found[place.name] = tensor.view(-1, config.width) if shared else tensor
    return found | {n: torch.cat([p[i] for i in sorted(p)]) for n, p in parts.items()}


def fill(model: Language, tensors: Iterator[tuple[str, Tensor]], kind: str, where: str) -> None:
    """Copy the tensors of files of a `model_type` into a model.

    Raises ValueError beginning with `where` if one is of no part, of another shape, missing, or has
    NaN or infinite weights.
    """
    state, config = model.state_dict(), model.config
    missing = {name: len(tensor) for name, tensor in state.items()}
    for name, tensor in tensors:
        if IGNORED.search(name) or (config.tied and name == "lm_head.weight"):
            continue
        place = place_of(name, config)
        if place is None or place.name not in state:
            raise ValueError(f"{where}: {name} is no part of a {kind} of these settings")
        ours, start, rows = state[place.name], place.start, place.rows or len(state[place.name])
        into = ours[start : start + rows]
        if not tensor.is_floating_point():
            raise ValueError(f"{where}: {name} holds {tensor.dtype}, not weights")
        if kind == "gemma" and name.endswith("norm.weight"):  # norms multiply by 1 + weight
            tensor = tensor.float() + 1
        require_finite_weights({name: tensor}, where)
        if tensor.numel() != into.numel() or tensor.shape[-1] != into.shape[-1]:
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, its settings ask for "
                f"{tuple(into.shape)}"
            )
        into.copy_(tensor.view(into.shape))
        missing[place.name] -= rows
    if gone := [name for name, rows in missing.items() if rows > 0]:
        raise ValueError(f"{where}: {len(gone)} tensors missing, such as {gone[0]}")


def stored(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder, shard by shard, of which one is in memory at a time."""
    files = files_of(path)
    for file in files if len(files) == 1 else files[1:]:
        state = read_checkpoint(file).state
        while state:
            yield state.popitem()


def load_language(path: Path, dtype: torch.dtype | None = None) -> Language:
    """The language model of a folder of transformers, in evaluation mode.

    `dtype` None is the one that config.json says, or float32. Raises ValueError if there is none,
    or if it is damaged or of a kind that is not known.
    """
    settings = path / "config.json"
    if not settings.is_file():
        raise ValueError(f"{path} is no folder with a config.json")
    told = read_json(settings)
    config = config_of(told, str(settings))
    named = str(told.get("dtype") or told.get("torch_dtype") or "float32")
    if dtype is None:
        dtype = getattr(torch, named, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{settings}: dtype {named!r} is not known")
    with unfilled():
        model = Language(config)
    model = model.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        fill(model, stored(path), str(told["model_type"]), str(path))
    return model.eval()

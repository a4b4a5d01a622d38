"""Meta's files of a language model: `consolidated.pth`, or one for each of several processes.

Beside them is params.json. Of several files each has a part of every product, `consolidated.00.pth`
and so on: rows of those that go into heads or feed-forwards, columns of those that come out of
them, as Megatron splits them (Shoeybi et al. 2019, arXiv:1909.08053). Names become those of
transformers, and so do rotary positions: there neighbours are pairs, here both halves of a head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import read_json
from smalti.interop.pickles import Checkpoint, files_of, read_checkpoint
from smalti.interop.tensor_shapes import shape
from smalti.models.language import LanguageConfig

NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.q_normalization": "self_attn.q_norm",
    "attention.k_normalization": "self_attn.k_norm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
"""Parts there, and what transformers call them."""
ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
COLUMNS = ("o_proj", "down_proj", "embed_tokens")
"""Products of which each file has some rows, or some columns."""
COMPUTED = "rope.freqs"
"""A table that is computed."""


def is_one(path: Path) -> bool:
    """Whether a path is such a file, or a folder of them."""
    if path.is_dir():
        return any(path.glob("consolidated*.pth")) and not (path / "config.json").is_file()
    return re.fullmatch(r"consolidated(\.\d\d)?\.pth", path.name) is not None


def files(path: Path) -> tuple[Path, ...]:
    """The files of a model. Raises ValueError if one of several is given."""
    if path.is_file() and path.name != "consolidated.pth":
        raise ValueError(f"{path} is a part of a model: give the folder of all parts")
    return files_of(path)


def renamed(name: str) -> str:
    """The name that transformers have for a tensor."""
    layer, rest = re.fullmatch(r"(layers\.\d+\.|)(.*)", name).groups()  # type: ignore[union-attr]
    part, _, kind = rest.rpartition(".")
    return f"{'model.' * bool(layer)}{layer}{NAMES[part]}.{kind}" if part in NAMES else name


def first(path: Path) -> Checkpoint:
    """The first file of a model, with the names of transformers."""
    checkpoint = read_checkpoint(files(path)[0])
    state = {renamed(n): t for n, t in checkpoint.state.items() if n != COMPUTED}
    return checkpoint._replace(path=path, state=state)


def settings(path: Path) -> dict[str, Any]:
    """What params.json beside the files says, by the names of transformers.

    Raises ValueError if it is missing, or says less.
    """
    folder = path if path.is_dir() else path.parent
    told: dict[str, Any] = read_json(folder / "params.json")
    told = {**told, **told.get("model", {})}
    if missing := [n for n in ("dim", "n_layers", "n_heads", "norm_eps") if n not in told]:
        raise ValueError(f"{folder / 'params.json'} says no {missing[0]}")
    if not told.get("qk_normalization"):
        raise ValueError(f"{folder / 'params.json'}: qk_normalization must be true")
    one = first(path)
    vocab, _ = shape(one, "model.embed_tokens.weight", 2, "Meta")
    width, _ = shape(one, "model.layers.0.mlp.gate_proj.weight", 2, "Meta")
    return {
        "vocab_size": vocab,
        "num_hidden_layers": told["n_layers"],
        "num_attention_heads": told["n_heads"],
        "num_key_value_heads": told.get("n_kv_heads") or told["n_heads"],
        "hidden_size": told["dim"],
        "intermediate_size": width * len(files(path)),
        "rms_norm_eps": told["norm_eps"],
        "rope_theta": told.get("rope_theta", 10000.0),
        "swin_norm": told.get("swin_norm", False),
    }


def tensors(path: Path, config: LanguageConfig) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model, one after another, of the parts that files have of them.

    Raises ValueError if a file lacks one.
    """
    parts = files(path)
    states = [read_checkpoint(file).state for file in parts]
    for name in list(states[0]):
        if name == COMPUTED:
            continue
        for file, state in zip(parts, states, strict=True):
            if name not in state:
                raise ValueError(f"{file} has no {name}, which {parts[0].name} has")
        yield renamed(name), whole(renamed(name), [state[name] for state in states], config)


def whole(name: str, parts: list[Tensor], config: LanguageConfig) -> Tensor:
    """A tensor of the parts that files have of it, with positions as transformers turn them."""
    part, kv = name.split(".")[-2], config.kv_heads or config.heads
    heads = kv if part.startswith("k_") else config.heads
    if part in ("q_norm", "k_norm"):  # one for all heads of a file
        each = [halves(t, 1).expand(heads // len(parts), -1) for t in parts]
        return torch.cat(each)
    if part in ROWS:
        tensor = torch.cat(parts)
        return halves(tensor, heads) if part in ("q_proj", "k_proj") else tensor
    if part in COLUMNS:
        return torch.cat(parts, 1)
    return torch.stack(parts).mean(0)  # they are the same


def halves(x: Tensor, heads: int) -> Tensor:
    """Rows (heads * hd, ...) of which neighbours are pairs, with both halves of a head as pairs: of
    a single vector (1, hd)."""
    paired = x.unflatten(0, (heads, -1, 2)).transpose(1, 2)  # (H, 2, hd / 2, ...)
    return paired.reshape(x.shape) if x.dim() > 1 else paired.reshape(1, -1)

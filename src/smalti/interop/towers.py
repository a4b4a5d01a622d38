"""CLIP and SigLIP towers as folders of transformers: config.json and weights, one file or shards.

Names and settings are those of transformers 5.24.0; what older versions wrote beside the weights,
tables of positions, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import read_json
from smalti.interop.pickles import read_checkpoint
from smalti.models.towers import Matcher, TowerConfig, Towers, TowersConfig
from smalti.modules import assemble
from smalti.text.words import Words

Settings = Mapping[str, Any]
Numbers = tuple[float, float, float]

KINDS = {"clip": "clip", "siglip": "siglip"}
"""What a `model_type` stands for."""
GELU = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "quick_gelu": "sigmoid"}
"""Functions by their names there, and ours."""
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text_config": {
            **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048},
            **{"num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77},
            **{"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407},
        },
        "vision_config": {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
            **{"num_attention_heads": 12, "image_size": 224, "patch_size": 32},
            **{"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        },
    },
    "siglip": {
        "text_config": {
            **{"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072},
            **{"num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 64},
            **{"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
        },
        "vision_config": {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
            **{"num_attention_heads": 12, "image_size": 224, "patch_size": 16},
            **{"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
        },
    },
}
"""What a setting is that a file leaves out."""
PIXELS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of pixels, where a folder does not say them."""
OLD_STOP = 2
"""The id of the end in old files of CLIP, which stands for the largest id of a text."""


def config_of(told: Settings, where: str = "config.json") -> TowersConfig:
    """The configuration that the settings of a model of transformers stand for; the marks of texts
    are those of the settings, and of a SigLIP none.

    Raises ValueError beginning with `where` for a kind that is not known, and for settings of one
    that is known but that would be computed otherwise.
    """
    kind = told.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{where}: model_type must be one of {', '.join(KINDS)}, got {kind!r}")
    text, vision = (
        DEFAULTS[kind][part] | _settings(told, part, where)
        for part in ("text_config", "vision_config")
    )
    for name, wanted in (("num_channels", 3), ("vision_use_head", True)):
        if vision.get(name, wanted) != wanted:
            raise ValueError(f"{where}: {name} must be {wanted}, got {vision[name]!r}")
    if kind == "siglip":
        features = text.get("projection_size") or text["hidden_size"]
        marks: dict[str, Any] = {"stop": 0, "pad": 0}
    else:
        features = told.get("projection_dim") or 512
        stop = text["eos_token_id"]
        marks = {"stop": stop, "pad": stop, "largest": stop == OLD_STOP}
    return TowersConfig(
        kind=KINDS[kind],  # pyright: ignore[reportArgumentType] - checked there
        size=_side(vision["image_size"], f"{where}: image_size"),
        patch=_side(vision["patch_size"], f"{where}: patch_size"),
        mean=PIXELS[kind][0],
        std=PIXELS[kind][1],
        length=text["max_position_embeddings"],
        vocab=text["vocab_size"],
        features=features,
        vision=_tower(vision, where),
        text=_tower(text, where),
        **marks,
    )


def _tower(told: Settings, where: str) -> TowerConfig:
    act = told["hidden_act"]
    if act not in GELU:
        raise ValueError(f"{where}: hidden_act must be one of {', '.join(GELU)}, got {act!r}")
    return TowerConfig(
        layers=told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        dim=told["hidden_size"],
        ffn_dim=told["intermediate_size"],
        gelu=GELU[act],  # pyright: ignore[reportArgumentType] - one of three
        norm_eps=told["layer_norm_eps"],
    )


def _side(value: Any, where: str) -> int:
    """A number of pixels that may be written twice."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"{where} must be square, got {value}")
    return sides.pop()


LAYER = {
    "self_attn.out_proj": "wo",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "feed_forward.w1",
    "mlp.fc2": "feed_forward.w2",
}
"""Parts of a layer there, and ours."""
WHOLE = {
    "text_model.embeddings.token_embedding.weight": "text.tokens.weight",
    "text_model.embeddings.position_embedding.weight": "text.positions",
    "text_projection.weight": "text.head.weight",
    "vision_model.embeddings.class_embedding": "vision.token",
    "vision_model.embeddings.position_embedding.weight": "vision.positions",
    "visual_projection.weight": "vision.head.weight",
    "vision_model.head.probe": "vision.head.query",
    "vision_model.head.attention.in_proj_weight": "vision.head.wqkv.weight",
    "vision_model.head.attention.in_proj_bias": "vision.head.wqkv.bias",
    "logit_scale": "scale",
    "logit_bias": "bias",
}
"""Tensors there, and ours."""
PARTS = {
    "text_model.final_layer_norm": "text.norm",
    "text_model.head": "text.head",
    "vision_model.embeddings.patch_embedding": "vision.patches",
    "vision_model.pre_layrnorm": "vision.pre_norm",
    "vision_model.post_layernorm": "vision.norm",
    "vision_model.head.attention.out_proj": "vision.head.wo",
    "vision_model.head.layernorm": "vision.head.norm",
    "vision_model.head.mlp.fc1": "vision.head.feed_forward.w1",
    "vision_model.head.mlp.fc2": "vision.head.feed_forward.w2",
}
"""Modules there, and ours."""
NUMBERS = ("logit_scale", "logit_bias")
"""Single numbers, which some have in a list of one."""
IGNORED = re.compile(r"embeddings\.position_ids$")
"""Tables that are counted."""


def towers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `Towers` of those that a file has, with queries, keys and values in one; what
    is of something else keeps its name."""
    found, parts = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, tensor in state.items():
        if IGNORED.search(name):
            continue
        part, _, kind = name.rpartition(".")
        layer = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)", part)
        if name in WHOLE:
            found[WHOLE[name]] = tensor.reshape(()) if name in NUMBERS else tensor
        elif part in PARTS:
            found[f"{PARTS[part]}.{kind}"] = tensor
        elif layer and layer[3] in LAYER:
            found[f"{layer[1]}.layers.{layer[2]}.{LAYER[layer[3]]}.{kind}"] = tensor
        elif layer and (one := re.fullmatch(r"self_attn\.([qkv])_proj", layer[3])):
            ours = f"{layer[1]}.layers.{layer[2]}.wqkv.{kind}"
            parts.setdefault(ours, {})[one[1]] = tensor
        else:
            found[name] = tensor
    return found | {n: torch.cat([p[i] for i in "qkv" if i in p]) for n, p in parts.items()}


def load_released(path: Path) -> Matcher:
    """The towers of a folder of transformers and their text tokenizer, in evaluation mode and
    float32.

    Raises ValueError naming the file if something is missing, damaged, or of a kind that is not
    known.
    """
    file = path / "config.json"
    config = config_of(read_json(file), str(file))
    words = Words.open(path)
    mean, std = pixels_of(path, config.mean, config.std)
    config = _marked(replace(config, mean=mean, std=std), words, path)
    state = towers_state(read_checkpoint(path).state)
    towers = assemble(Towers, config, state, str(path), torch.float32)
    return Matcher(towers, words)


def pixels_of(folder: Path, mean: Numbers, std: Numbers) -> tuple[Numbers, Numbers]:
    """What a folder takes from red, green and blue in [0, 1], and what it divides them by: `mean`
    and `std` where it does not say.

    transformers 5 writes it into processor_config.json, older ones into preprocessor_config.json.
    Raises ValueError naming the file for pixels that are not in [0, 1].
    """
    told, file = {}, folder / "processor_config.json"
    if file.is_file():
        told = _settings(read_json(file), "image_processor", str(file))
    if not told and (file := folder / "preprocessor_config.json").is_file():
        told = read_json(file)
    if told.get("do_rescale") is False:
        raise ValueError(f"{file}: do_rescale must be true, got false")
    if told.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _three(told, "image_mean", mean, file), _three(told, "image_std", std, file)


def _settings(told: Settings, name: str, where: str) -> dict[str, Any]:
    """Settings inside others, {} where there are none. Raises ValueError for anything else."""
    found = told.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {name} must hold a JSON object, got {found!r}")
    return found


def _three(told: Settings, name: str, usual: Numbers, file: Path) -> Numbers:
    """Three numbers, or one that stands for three. Raises ValueError for anything else."""
    value = told.get(name) or usual
    found = value if isinstance(value, list | tuple) else [value] * 3
    if len(found) != 3 or not all(isinstance(number, int | float) for number in found):
        raise ValueError(f"{file}: {name} must be three numbers, got {value!r}")
    return found[0], found[1], found[2]


def _marked(config: TowersConfig, words: Words, path: Path) -> TowersConfig:
    """The configuration with the marks of its text tokenizer; padding has the name that
    tokenizer_config.json gives it, which SigLIP has in common with the end."""
    fitted = config.fitted(words)
    if words.vocab > config.vocab:
        raise ValueError(
            f"{path}: the text tokenizer has {words.vocab} ids, the towers read {config.vocab}"
        )
    file = path / "tokenizer_config.json"
    named = read_json(file).get("pad_token") if file.is_file() else None
    name = named.get("content") if isinstance(named, dict) else named
    pad = words.id(name) if isinstance(name, str) else fitted.pad
    return replace(fitted, vocab=config.vocab, pad=pad, largest=False)

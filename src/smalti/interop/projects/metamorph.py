"""MetaMorph's files (facebookresearch/metamorph, commit 0b13deb) and what they become here.

A model is a folder of transformers: Llama 3 with two ids more, a projector of features and a head
that says them. The tower that sees is not in it: it is SigLIP-so400m/14 at 384 pixels, as its
owners publish it. Nor is what makes pictures of features, a U-Net of Stable Diffusion with one of
three adapters; a renderer that was trained here stands for it, and without one a model reads and
writes but draws nothing that can be seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from smalti.codes import Form
from smalti.config import from_dict, read_json
from smalti.interop import towers
from smalti.interop.language import DECODER, config_of, language_state
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, words_of
from smalti.interop.saved import Dtype
from smalti.models.language import LanguageConfig
from smalti.models.metamorph import MetaMorph, MetaMorphConfig
from smalti.models.unified import Marks
from smalti.pipeline.conversation import Phrases
from smalti.tokenizers.rendered import SO400M, Rendered, RenderedConfig
from smalti.tokenizers.renderer import RendererConfig

BEGIN, END, OVER = "<image_start>", "<image_end>", "<|eot_id|>"
"""Names of ids: around a picture, and behind what each side says."""
USER, MODEL_TURN = (
    f"<|start_header_id|>{name}<|end_header_id|>\n" for name in ("user", "assistant")
)
"""What stands before what each side says: as Llama 3 learned it, but for a line less."""
SEES = "vit.sees."


@dataclass(frozen=True)
class MetaMorphFiles:
    """A tower and a model of MetaMorph; without --model, the tower alone, as features.

    smalti convert metamorph --tokenizer siglip-so400m-patch14-384/ --model metamorph-8b/ \\
        --out metamorph
    smalti convert metamorph --tokenizer runs/metamorph-renderer/tokenizer/model.safetensors \\
        --model metamorph-8b/ --out metamorph
    """

    tokenizer: Path
    """Folder of the SigLIP, or weights of a renderer that was trained on its features, which then
    draws."""
    model: Path | None = None
    """Folder of transformers."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


def settings(path: Path) -> tuple[dict[str, Any], str]:
    """The config.json of a folder, or of what a file of weights stands beside, and its name."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file), str(file)


# -- the tower


def read_tower(path: Path, weights: str, inside: str) -> Checkpoint:
    """The weights of a SigLIP, or of a renderer, under our names."""
    checkpoint = read_checkpoint(path, weights, inside)
    if any(name.startswith(SEES) for name in checkpoint.state):
        return checkpoint
    found = dict[str, Tensor]()
    for name, tensor in towers.towers_state(checkpoint.state).items():
        part = name.partition(".")[0]
        if part == "vision" and not name.startswith("vision.head."):
            found[SEES + name.removeprefix("vision.")] = tensor
        elif part not in ("vision", "text", "scale", "bias"):
            found[name] = tensor
    return checkpoint._replace(state=found)


def tower_sizes(checkpoint: Checkpoint, options: MetaMorphFiles) -> RenderedConfig:
    """The config of a tower or a renderer. The model says which hidden states it takes.

    Raises ValueError for settings that are not known.
    """
    told, where = settings(checkpoint.path)
    if told.get("type") == "rendered":
        return from_dict(RenderedConfig, told["config"], where)
    found = towers.config_of(told, where)
    chosen = settings(options.model)[0].get("mm_vision_select_layer", -2) if options.model else -1
    layers = found.vision.layers + 1 + chosen if chosen < 0 else chosen
    if not 1 <= layers <= found.vision.layers:
        raise ValueError(
            f"mm_vision_select_layer must be one of {found.vision.layers} layers, got {chosen}"
        )
    seen = replace(found, vision=replace(found.vision, layers=layers))
    side = found.size // found.patch
    return RenderedConfig(
        size=(side, side),
        vit=replace(SO400M.of(seen), normed=False),
        grid=(side, side),
        form="plain",
        renderer=RendererConfig(layers=0, patch=1),
    )


def tower_state(state: Mapping[str, Tensor], config: RenderedConfig) -> dict[str, Tensor]:
    """The tensors of a tower that are asked for, of all that a file has."""
    found = dict[str, Tensor]()
    for name, tensor in state.items():
        layer = re.match(r"vit\.sees\.layers\.(\d+)\.", name)
        late = layer and int(layer[1]) >= config.vit.vision.layers
        if not late and (config.vit.normed or not name.startswith("vit.sees.norm.")):
            found[name] = tensor
    return found


def fit(codes: RenderedConfig, config: MetaMorphConfig) -> RenderedConfig:
    """A tower whose features are those of a model. Raises ValueError for a renderer of others."""
    if not codes.renderer.layers:
        size = tuple(codes.vit.size // side * side for side in config.grid)
        codes = replace(codes, size=size, grid=config.grid, form=config.form)
    if codes.spec != config.spec:
        raise ValueError(
            f"the model reads {config.spec.positions} features {config.spec.words}, --tokenizer "
            f"gives {codes.spec.positions} {codes.spec.words}"
        )
    return codes


# -- the model

FORMS: dict[tuple[bool, bool], Form] = {
    (False, False): "plain",
    (True, False): "unit",
    (False, True): "softmax",
    (True, True): "unit softmax",
}
"""Features by whether they are normalised, and become a softmax."""
HEADS = {"mlp": 2, "mlp2x_gelu": 3}
"""Layers of a head of a type; of all others one."""


def projector_of(kind: str, where: str) -> tuple[int, str]:
    """Layers of a projector of a type, and what stands between them. Raises ValueError for one that
    is not known."""
    known = {"identity": (0, "gelu"), "linear": (1, "gelu"), "mlpsoftmax": (2, "softmax")}
    if layers := re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind):
        return int(layers[1]), "gelu"
    if kind not in known:
        raise ValueError(
            f"{where}: mm_projector_type must be one of {', '.join(known)}, mlp2x_gelu or the "
            f"like, got {kind!r}"
        )
    return known[kind]


def features_of(told: Mapping[str, Any], channels: int, where: str = "") -> dict[str, Any]:
    """The fields of a model's config that its settings say of features of so many numbers."""
    layers, between = projector_of(told.get("mm_projector_type", "linear"), where)
    count = told.get("num_image_tokens", 256)
    side = math.isqrt(max(count, 0))
    reduction = told.get("image_token_reduction", "interpolation")
    if side < 1 or side**2 != count or reduction not in ("interpolation", "none"):
        raise ValueError(
            f"{where}: pictures must be a square of vectors, by interpolation; got {count}, "
            f"by {reduction!r}"
        )
    form = bool(told.get("normalize_vision", False)), bool(told.get("apply_softmax", False))
    head = HEADS.get(told.get("vision_head_type", ""), 1)
    return {
        **{"grid": (side, side), "channels": channels, "form": FORMS[form], "head_layers": head},
        **{"projector_layers": layers, "projector": between},
    }


def model_sizes(
    checkpoint: Checkpoint, options: MetaMorphFiles, codes: RenderedConfig
) -> MetaMorphConfig:
    """The config of a model's folder, which reads features of this tower.

    Raises ValueError if its settings are missing or unknown.
    """
    words, (told, where) = words_of(options), settings(checkpoint.path)
    language = config_of(told | {"model_type": "llama"}, where)
    stops = [i for i in (words.stop, words.names.get(OVER)) if i is not None]
    return MetaMorphConfig(
        language,
        begin=words.id(BEGIN),
        end=words.id(END),
        marks=Marks(words.start, tuple(stops), words.pad),
        length=told.get("tokenizer_model_max_length") or told.get("max_position_embeddings", 4096),
        **features_of(told, codes.spec.channels, where),
    )


IGNORED = re.compile(r"(^|\.)vision_tower\.|^model\.(vision_proj|image_newline)")
"""A copy of the tower, which is frozen, and what nothing reads."""


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


# -- adapters

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


# -- the record

TOKENIZER = Part(
    title="a tower that sees, or a renderer of its features",
    marks=(f"{SEES}patches.", f"{SEES}layers.0."),
    module=Rendered,
    config=tower_sizes,
    state=lambda state, config, _: tower_state(state, config),
    read=read_tower,
)

MODEL = Part(
    title="a model of MetaMorph",
    marks=(*DECODER, "vision_head."),
    module=MetaMorph,
    config=model_sizes,
    state=lambda state, config, _: model_state(state, config.language),
)

PROJECT = Project(
    options=MetaMorphFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, checkpoint, options: codes,
    model=MODEL,
    fit=fit,
    phrases=Phrases(
        draw=f"{USER}Generate an image of {{}}{OVER}{MODEL_TURN}",
        caption=f"{USER}<image>\nDescribe this image.{OVER}{MODEL_TURN}",
        ask=f"{USER}<image>\n{{}}{OVER}{MODEL_TURN}",
        edit=f"{USER}<image>\n{{}}{OVER}{MODEL_TURN}",
        say=f"{USER}{{}}{OVER}{MODEL_TURN}",
        reply=f"{{}}{OVER}",
        marks=("<|start_header_id|>", "<|end_header_id|>", OVER),
    ),
)

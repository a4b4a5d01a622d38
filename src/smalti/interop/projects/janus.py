"""Janus's and Janus-Pro's files, of deepseek-ai (commit 1daa72f of their code) and of transformers
5.24.0, and what they become here.

A folder holds all of a model in one checkpoint: the SigLIP that reads pictures, a Llama, what lies
between the two, and LlamaGen's VQ-16, which draws. Here these are four parts, of which the eye and
the tokenizer are kept beside the model. Both layouts have the same weights under other names;
decoders of transformers count levels in the order in which they run, as ours do.

On the hub: deepseek-ai/Janus-1.3B, Janus-Pro-1B and Janus-Pro-7B, and deepseek-community for those
of transformers. A whole repository has to be downloaded by hand, as the names of ids stand beside
the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from smalti.config import read_json
from smalti.interop.language import config_of, fill, stored
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, words_of
from smalti.interop.projects.llamagen import vq_sizes, vq_state
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype
from smalti.interop.tensor_shapes import count, shape
from smalti.interop.towers import GELU, pixels_of, towers_state
from smalti.models.eye import TowerEye, TowerEyeConfig
from smalti.models.janus import Janus, JanusConfig
from smalti.models.towers import TowerConfig
from smalti.models.unified import Marks
from smalti.nn.finite import require_finite_weights
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "Janus"
BEGIN, END = "<begin_of_image>", "<end_of_image>"
"""The names of the ids around a picture."""
START, STOP, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
HEADS = {"siglip_large_patch16_384": 16, "siglip_so400m_patch14_384": 16}
"""Attention heads of the towers that files of deepseek-ai name."""


@dataclass(frozen=True)
class JanusFiles:
    """A model of Janus or Janus-Pro with its eye and its tokenizer; without --model, the tokenizer
    alone.

    smalti convert janus --model Janus-Pro-1B/ --out janus
    """

    model: Path | None = None
    """Folder of the repository, with config.json and tokenizer.json beside the weights."""
    tokenizer: Path | None = None
    """The same for the tokenizer of pictures alone; with --model it is in that folder."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    plain_codes: bool = False
    """Compare latents with codes as they are, as transformers does, and not normalised, as the
    tokenizer was trained."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""

    def __post_init__(self) -> None:
        if self.model is None and self.tokenizer is None:
            raise ValueError("give --model FOLDER, or --tokenizer FOLDER for the tokenizer alone")


# -- names

PARTS = (
    ("vision_model.vision_tower.", "model.vision_model."),
    ("gen_vision_model.", "model.vqmodel."),
    ("gen_aligner.", "model.generation_aligner."),
    ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
    ("gen_head.", "model.generation_head."),
    ("gen_embed.", "model.generation_embeddings."),
    ("aligner.", "model.aligner."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
)
"""How names of parts begin in files of deepseek-ai, and in those of transformers."""
TOWER = (
    (r"^patch_embed\.proj\.", "patches."),
    (r"^pos_embed$", "positions"),
    (r"^blocks\.", "layers."),
    (r"\.attn\.qkv\.", ".wqkv."),
    (r"\.attn\.proj\.", ".wo."),
    (r"\.mlp\.fc(\d)\.", r".feed_forward.w\1."),
)
"""Parts of names of deepseek-ai's tower and of ours."""
OWN = (
    (r"^generation_embeddings\.", "code_embeddings."),
    (r"^generation_head\.proj_out\.", "code_proj."),
    (r"^generation_head\.vision_head\.", "code_head."),
    (r"^generation_aligner\.", "code_aligner."),
    (r"aligner\.fc1\.", "aligner.layers.0."),
)
"""Parts of names between the eye, the language model and the tokenizer, and ours."""


def common(name: str) -> str:
    """A name of either layout, with its part as transformers calls it."""
    for theirs, ours in PARTS:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """A name with some parts replaced."""
    for theirs, ours in names:
        name = re.sub(theirs, ours, name)
    return name


def inside(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a part, by their names in it."""
    begin = f"model.{part}."
    return {n.removeprefix(begin): t for n, t in state.items() if n.startswith(begin)}


def read(path: Path, weights: str, holder: str) -> Checkpoint:
    """A checkpoint of either layout."""
    found = read_checkpoint(path, weights, holder)
    state = {common(found.prefix + name): tensor for name, tensor in found.state.items()}
    return found._replace(state=state, prefix="")


def eye_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the eye. What pools a whole picture, which some files have, is left out; keys
    without a bias have one of zeros."""
    tower = inside(state, "vision_model")
    if "pos_embed" in tower:
        found = {renamed(name, TOWER): tensor for name, tensor in tower.items()}
        found["positions"] = found["positions"].squeeze(0)
    else:
        theirs = {
            f"vision_model.{name.replace('projection_layer', 'out_proj')}": tensor
            for name, tensor in tower.items()
        }
        ours = towers_state(theirs)
        found = {name.removeprefix("vision."): tensor for name, tensor in ours.items()}
    for name in [name for name in found if name.endswith("wqkv.weight")]:
        bias = name.removesuffix("weight") + "bias"
        found.setdefault(bias, found[name].new_zeros(len(found[name])))
    return {f"tower.{n}": t for n, t in found.items() if not n.startswith("attn_pool.")}


def tokenizer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the tokenizer."""
    found = inside(state, "vqmodel")
    runs = {name.replace("decoder.up.", "decoder.conv_blocks."): t for name, t in found.items()}
    return vq_state(vae_state(runs))


def own_name(name: str) -> str | None:
    """Our name of a tensor that is neither the eye's, nor the tokenizer's, nor the language
    model's; None if it is one of theirs."""
    if not re.match(r"model\.(aligner|generation_\w+)\.", name):
        return None
    name = renamed(name.removeprefix("model."), OWN)
    if linear := re.match(r"(.*aligner)\.layers\.(\d*[2468])\.(.+)", name):  # a GELU is between two
        return f"{linear[1]}.layers.{int(linear[2]) // 2}.{linear[3]}"
    if hidden := re.match(r"(.*aligner)\.hidden_layers\.(\d+)\.(.+)", name):
        return f"{hidden[1]}.layers.{int(hidden[2]) + 1}.{hidden[3]}"
    return name


def language_name(name: str) -> str | None:
    """The name of a tensor of the language model as a Llama alone has it; None if it is none."""
    if name.startswith("lm_head."):
        return name
    begin = "model.language_model."
    return f"model.{name.removeprefix(begin)}" if name.startswith(begin) else None


# -- configurations


def settings(path: Path) -> tuple[dict[str, Any], str]:
    """The settings of a model and where they are."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        raise ValueError(f"{file} is missing: give the whole folder of the repository")
    return read_json(file), str(file)


def tokenizer_sizes(checkpoint: Checkpoint, options: JanusFiles) -> VQGANConfig:
    """The config of the tokenizer, for images of a single code."""
    found = vq_sizes(checkpoint._replace(state=tokenizer_state(checkpoint.state)))
    return replace(found, plain_codes=options.plain_codes)


def eye_sizes(checkpoint: Checkpoint, options: JanusFiles) -> TowerEyeConfig:
    """The config of the eye. Raises ValueError for settings that would be computed otherwise."""
    told, where = settings(checkpoint.path)
    vision = dict(told.get("vision_config") or {})
    named = vision.get("params", {}).get("model_name")
    if named is not None and named not in HEADS:
        raise ValueError(f"{where}: model_name must be one of {', '.join(HEADS)}, got {named!r}")
    if vision.get("use_qk_norm"):
        raise ValueError(f"{where}: use_qk_norm is not known")
    tower = checkpoint._replace(state=eye_state(checkpoint.state))
    dim, _, patch, _ = shape(tower, "tower.patches.weight", 4, NAME)
    places, _ = shape(tower, "tower.positions", 2, NAME)
    path, half = checkpoint.path, (0.5, 0.5, 0.5)
    mean, std = pixels_of(path if path.is_dir() else path.parent, half, half)
    return TowerEyeConfig(
        size=math.isqrt(places) * patch,
        patch=patch,
        mean=mean,
        std=std,
        vision=TowerConfig(
            layers=count(tower, "tower.layers."),
            heads=vision.get("num_attention_heads", HEADS.get(str(named), 16)),
            dim=dim,
            ffn_dim=shape(tower, "tower.layers.0.feed_forward.w1.weight", 2, NAME)[0],
            gelu=act_of(vision, where),
            norm_eps=vision.get("layer_norm_eps", 1e-6),
        ),
    )


def act_of(told: Mapping[str, Any], where: str) -> Any:
    """The GELU that settings say. Raises ValueError for another function."""
    act = told.get("hidden_act", "gelu")
    if act not in GELU:
        raise ValueError(f"{where}: hidden_act must be one of {', '.join(GELU)}, got {act!r}")
    return GELU[act]


def model_sizes(checkpoint: Checkpoint, options: JanusFiles, codes: VQGANConfig) -> JanusConfig:
    """The config of the model, which draws codes of this tokenizer.

    Raises ValueError if its settings are unknown, or the text tokenizer has no names for its ids.
    """
    told, where = settings(checkpoint.path)
    for part in ("aligner_config", "gen_aligner_config"):
        kind = told.get(part, {}).get("params", {}).get("projector_type", "mlp_gelu")
        if kind != "mlp_gelu":
            raise ValueError(f"{where}: projector_type must be mlp_gelu, got {kind!r}")
    own = {ours: t for name, t in checkpoint.state.items() if (ours := own_name(name))}
    mine, seen = checkpoint._replace(state=own), eye_sizes(checkpoint, options).sight
    language, words = language_sizes(checkpoint, told, where), words_of(options)
    rows, width = shape(mine, "code_embeddings.weight", 2, NAME)
    if rows != codes.vocab:
        raise ValueError(f"{checkpoint.path} draws one of {rows} codes, its tokenizer has "
                         f"{codes.vocab}")  # fmt: skip
    inner = shape(mine, "code_head.weight", 2, NAME)[1]
    (grid, *_), dim = seen.spec.grids, shape(mine, "aligner.layers.0.weight", 2, NAME)[1]
    return JanusConfig(
        language,
        grid,
        codes.vocab,
        code_dim=width,
        code_layers=count(mine, "code_aligner.layers."),
        code_gelu=act_of(told.get("vq_config") or {}, where),
        head_dim=0 if inner == language.dim else inner,
        seen_grid=grid,
        seen_dim=dim,
        seen_layers=count(mine, "aligner.layers."),
        seen_gelu=act_of(told.get("vision_config") or {}, where),
        begin=words.id(BEGIN),
        end=words.id(END),
        marks=Marks(words.id(START), (words.id(STOP),), words.id(PAD)),
        length=text_settings(told).get("max_position_embeddings", 4096),
    )


def text_settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the language model."""
    return dict(told.get("text_config") or told.get("language_config") or {})


def language_sizes(checkpoint: Checkpoint, told: Mapping[str, Any], where: str) -> Any:
    """The config of the language model; what its settings leave out its tensors say."""
    begin = "model.language_model."
    vocab, dim = shape(checkpoint, f"{begin}embed_tokens.weight", 2, NAME)
    found = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "num_hidden_layers": count(checkpoint, f"{begin}layers."),
        "num_attention_heads": 32,
        "intermediate_size": shape(checkpoint, f"{begin}layers.0.mlp.gate_proj.weight", 2, NAME)[0],
        "rms_norm_eps": 1e-6,
    }
    tied = "lm_head.weight" not in checkpoint.state
    return replace(config_of(found | text_settings(told), where), tied=tied)


def fill_model(model: Janus, path: Path) -> None:
    """Write the weights of a folder into a model, shard by shard.

    Raises ValueError naming the folder if tensors are missing, of another shape, or NaN.
    """
    own = dict[str, Tensor]()

    def language() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in stored(path):
            name = common(name)
            if ours := own_name(name):
                own[ours] = tensor
            elif theirs := language_name(name):
                yield theirs, tensor

    fill(model.language, language(), "llama", str(path))
    require_finite_weights(own, str(path))
    wanted = {n for n in model.state_dict() if not n.startswith("language.")}
    if wrong := sorted(wanted ^ own.keys()):
        raise ValueError(f"{path}: {len(wrong)} tensors are missing or unknown, such as {wrong[0]}")
    try:
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path}: {str(error).splitlines()[-1].strip()}") from None


# -- the record

MARKS = (
    "model.generation_embeddings.",
    "model.language_model.embed_tokens.",
    "model.vision_model.",
    "model.vqmodel.quantize.embedding.",
)
"""One checkpoint has all parts."""
TOKENIZER = Part(
    title="a tokenizer of Janus",
    marks=MARKS,
    module=VQGAN,
    config=tokenizer_sizes,
    state=lambda state, *_: tokenizer_state(state),
    read=read,
)

EYE = Part(
    title="an eye of Janus",
    marks=MARKS,
    module=TowerEye,
    config=eye_sizes,
    state=lambda state, *_: eye_state(state),
    read=read,
)

MODEL = Part(
    title="a model of Janus",
    marks=MARKS,
    module=Janus,
    config=model_sizes,
    state=lambda state, *_: state,
    read=read,
    fill=fill_model,
)

DRAWN = Sampling.of(guidance=5.0)
"""How the released code draws."""


def alone(codes: VQGANConfig, checkpoint: Checkpoint, options: JanusFiles) -> VQGANConfig:
    """The tokenizer for pictures of as many codes as the eye has patches."""
    places, _ = shape(checkpoint._replace(state=eye_state(checkpoint.state)), "tower.positions", 2,
                      NAME)  # fmt: skip
    side = math.isqrt(places) * codes.factor
    return replace(codes, size=(side, side))


PROJECT = Project(
    options=JanusFiles,
    tokenizer=TOKENIZER,
    alone=alone,
    model=MODEL,
    eye=EYE,
    sampling=lambda config: DRAWN,
    phrases=Phrases(
        draw=f"{USER}: {{}}\n\n{ASSISTANT}:",
        caption=f"{USER}: <image>\nDescribe this image.\n\n{ASSISTANT}:",
        ask=f"{USER}: <image>\n{{}}\n\n{ASSISTANT}:",
        edit=f"{USER}: <image>\n{{}}\n\n{ASSISTANT}:",
        say=f"{USER}: {{}}\n\n{ASSISTANT}:",
        reply=f" {{}}{STOP}",
        marks=(USER, ASSISTANT, STOP),
        margin=(127, 127, 127),
    ),
)

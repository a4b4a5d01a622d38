"""taming-transformers (CompVis, commit 3ba01b2): VQGANs, and the GPTs that learned their codes.

All are checkpoints of Lightning. That of a GPT also holds the VQGAN of its pictures and, where maps
are the condition, that of the maps. Tensors do not tell heads, dropout and what the condition is
called; the yaml of the project does, which is published beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.interop.bundles import read_config
from smalti.interop.lightning import read_lightning
from smalti.interop.over_depth import BLOCK, fused
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, sized
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype, pair
from smalti.interop.taming import VQGAN_MARKS, convolutions
from smalti.interop.tensor_shapes import count, shape
from smalti.models.taming import SIZES, Taming, TamingConfig
from smalti.pipeline.sampling import Sampling
from smalti.sampling import orders
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "taming-transformers"
FIRST, COND, PERMUTER = "first_stage_model.", "cond_stage_model.", "permuter.forward_shuffle_idx"
"""Where the file of a GPT has the tokenizer of pictures and of maps, and the order of codes."""
UNCONDITIONAL = "__is_unconditional__"
STAGES = (UNCONDITIONAL, "SOSProvider", "Labelator", "CoordStage")
"""What gives a GPT its condition, but for tokenizers of maps: nothing, twice, a class, places."""
YAMLS = ("*project.yaml", "../configs/*project.yaml", "model.yaml", "config.yaml")
"""Where the project's yaml stands, seen from the checkpoint's folder; behind one of its name."""


@dataclass(frozen=True)
class TamingFiles:
    """A GPT of taming-transformers, with the VQGANs in its file, as a pipeline; without --model, a
    VQGAN alone.

    smalti convert taming --model drin_transformer/checkpoints/last.ckpt --out drin
    """

    tokenizer: Path | None = None
    """Checkpoint of a VQGAN; default: that in the file of the model."""
    model: Path | None = None
    """Checkpoint of a GPT. Its yaml is read if it has the same name, ends in project.yaml, or is
    called model.yaml, beside it or in a folder configs beside its own."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384: the window of the GPT."""
    heads: int | None = None
    """Attention heads; needed without a yaml, for sizes that were never published."""
    classes: int | None = None
    """Class labels, 1 of pictures of one kind; needed without a yaml, for sizes that were never
    published."""
    dtype: Dtype = "stored"
    """Of the GPT's weights in the pipeline."""


# -- reading


def read_stage(path: Path, weights: str = "model", stage: str = FIRST) -> Checkpoint:
    """A VQGAN's checkpoint, or the VQGAN of a stage of that of a GPT."""
    checkpoint = read_lightning(path)
    state = {n: t for n, t in checkpoint.state.items() if not n.endswith("colorize")}
    inside = {n.removeprefix(stage): t for n, t in state.items() if n.startswith(stage)}
    inside = {n: t for n, t in inside.items() if not n.startswith("loss.")}
    return checkpoint._replace(state=inside or state)


def read_gpt(path: Path, weights: str = "model", part: str = "") -> Checkpoint:
    """A GPT's checkpoint; `args` has its yaml, the order of codes and the tokenizer of maps."""
    checkpoint = read_lightning(path)
    maps = read_stage(path, stage=COND)._replace(args={})
    has_maps = any(name.startswith(COND + "encoder.") for name in checkpoint.state)
    about = {
        "yaml": read_yaml(path),
        "order": checkpoint.state.get(PERMUTER),
        "map": map_sizes(maps) if has_maps else None,
    }
    others = (FIRST, COND, "permuter.")
    state = {n: t for n, t in checkpoint.state.items() if not n.startswith(others)}
    return checkpoint._replace(state=state, args=about)


def read_yaml(path: Path) -> dict[str, Any]:
    """The parameters in the yaml of a checkpoint's project, {} if there is none."""
    if path.is_dir():
        return {}
    own = path.with_suffix(".yaml")
    found = (
        [own] if own.is_file() else [f for name in YAMLS for f in sorted(path.parent.glob(name))]
    )
    if not found:
        return {}
    told: Any = read_config(found[0], path)
    for name in ("model", "params"):
        told = told.get(name)
        if not isinstance(told, dict):
            raise ValueError(f"{found[0]} is no yaml of {NAME}: it has no {name}")
    return told


# -- configurations


def vqgan_sizes(checkpoint: Checkpoint) -> VQGANConfig:
    """The config of a VQGAN's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a VQGAN.
    """
    gumbel = "quantize.proj.weight" in checkpoint.state
    table = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    vocab, dim = shape(checkpoint, table, 2, NAME)
    planes = shape(checkpoint, "encoder.conv_in.weight", 4, NAME)[1]
    kind: dict[str, Any] = {} if planes == 3 else {"map": "segmentation", "kinds": planes}
    if planes == 1:
        kind = {"map": "depth"}
    levels = convolutions(checkpoint, NAME, patch=1)
    return VQGANConfig(
        vocab=vocab, dim=dim, l2_norm=False, deep_attention=False, gumbel=gumbel, **levels, **kind
    )


def map_sizes(checkpoint: Checkpoint) -> VQGANConfig:
    """The config of a tokenizer of maps."""
    config = vqgan_sizes(checkpoint)
    return config if config.map else replace(config, map="depth")


def gpt_sizes(checkpoint: Checkpoint, options: TamingFiles, codes: VQGANConfig) -> TamingConfig:
    """The config of a GPT's checkpoint.

    Raises ValueError if the tensors are not those of such a GPT, if it has too few positions or
    codes, or if its heads or its condition cannot be known.
    """
    path = checkpoint.path
    rows, dim = shape(checkpoint, "tok_emb.weight", 2, NAME)
    layers = count(checkpoint, "blocks.")
    told: dict[str, Any] = checkpoint.args["yaml"]
    gpt = told.get("transformer_config", {}).get("params", {})
    heads = options.heads or gpt.get("n_head") or published(layers, dim).get("heads")
    if heads is None:
        raise ValueError(
            f"{path}: no published model has {layers} layers of width {dim}; give --heads"
        )
    grid = pair("--size", options.size, codes.factor)
    config = TamingConfig(
        grid=grid,
        vocab=codes.vocab,
        **condition_of(checkpoint, options, told),
        unmasked=unmasked_of(checkpoint),
        keep=float(told.get("pkeep", 1.0)),
        order=order_of(checkpoint, grid),
        cell=codes.factor,
        layers=layers,
        heads=heads,
        dim=dim,
        dropout=gpt.get("resid_pdrop", 0.0),
        attention_dropout=gpt.get("attn_pdrop", 0.0),
    )
    check_fits(checkpoint, config, rows)
    return config


def check_fits(checkpoint: Checkpoint, config: TamingConfig, rows: int) -> None:
    """Raise ValueError unless a checkpoint has the positions and the rows of a configuration."""
    has, needs = shape(checkpoint, "pos_emb", 3, NAME)[1], config.prefix + config.spec.positions - 1
    if has < needs:
        raise ValueError(
            f"{checkpoint.path} has {has} positions; a window of {config.spec.positions} codes "
            f"behind {config.prefix} of the condition needs {needs}: give a smaller --size"
        )
    if rows < config.rows:
        raise ValueError(
            f"{checkpoint.path} knows {rows} codes; its tokenizers and classes have {config.rows}"
        )


def condition_of(
    checkpoint: Checkpoint, options: TamingFiles, told: Mapping[str, Any]
) -> dict[str, Any]:
    """What the condition of a GPT is: a map, the places of codes, or a class.

    Raises ValueError for another one, such as bounding boxes, and for maps that are made smaller.
    """
    if (pixels := told.get("downsample_cond_size", -1)) > -1:
        raise ValueError(
            f"{checkpoint.path}: its maps are made smaller; downsample_cond_size must be -1, got "
            f"{pixels}"
        )
    maps: VQGANConfig | None = checkpoint.args["map"]
    if maps is not None:
        size = pair("--size", options.size, maps.factor)
        return {"classes": 0, "map_grid": size, "map_vocab": maps.vocab}
    kind, given = stage_of(told)
    if told and kind not in STAGES:
        allowed = ", ".join(STAGES)
        raise ValueError(f"{checkpoint.path}: its condition must be one of {allowed}, got {kind}")
    first = int(told.get("sos_token", given.get("sos_token", 0)))
    if kind == "CoordStage":
        return {"classes": 1, "places": int(given["n_embed"])}
    if options.classes is not None:
        return {"classes": options.classes, "first": first}
    if kind == "Labelator":
        return {"classes": int(given["n_classes"])}
    if told:
        return {"classes": 1, "first": first}
    layers, dim = count(checkpoint, "blocks."), shape(checkpoint, "tok_emb.weight", 2, NAME)[1]
    if not published(layers, dim):
        raise ValueError(f"{checkpoint.path} has no yaml beside it: give --classes")
    return {"classes": 1000 if layers == SIZES["imagenet"]["layers"] else 1}


def stage_of(told: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The class that gives a GPT its condition, by its own name, and the parameters of it."""
    stage = told.get("cond_stage_config", "")
    if told.get("unconditional") or stage == UNCONDITIONAL:
        return UNCONDITIONAL, {}
    if not isinstance(stage, Mapping):
        return str(stage), {}
    return str(stage.get("target", "")).rpartition(".")[2], stage.get("params", {})


def published(layers: int, dim: int) -> dict[str, Any]:
    """The published size with such layers; {} if there is none."""
    sizes = [s for s in SIZES.values() if (s["layers"], s["dim"]) == (layers, dim)]
    return sizes[0] if sizes else {}


def unmasked_of(checkpoint: Checkpoint) -> int:
    """How many positions, from the first on, see each other in both directions."""
    mask = checkpoint.state.get("blocks.0.attn.mask")
    seen = 0 if mask is None else int(mask[0, 0, 0].sum())  # by the first position
    return seen if seen > 1 else 0


def order_of(checkpoint: Checkpoint, grid: tuple[int, int]) -> str:
    """The name of the order in which codes are drawn. Raises ValueError if it has none."""
    told = checkpoint.args["order"]
    if told is None or torch.equal(told, torch.arange(len(told))):
        return "row-major"
    names = [name for name in orders.NAMES if name not in ("row-major", "random")]
    for name in names if len(told) == math.prod(grid) else ():
        if torch.equal(told, orders.order(name, grid)):
            return name
    raise ValueError(
        f"{checkpoint.path} draws {len(told)} codes in an order that is none of "
        f"{', '.join(names)} of a grid of {grid[0]} x {grid[1]}"
    )


# -- names

RENAMES = (
    *BLOCK,
    ("blocks.", "layers."),
    ("ln_f.", "norm."),
    ("tok_emb.", "tok_embeddings."),
    ("head.", "head.proj."),
)
"""Parts of official names and of ours, in this order."""


AVERAGES = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
"""What the codebook of an EMAVQ was averaged from."""


def vqgan_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official VQGAN's, without what only its training needs."""
    renamed = {n.replace("quantize.embed.", "quantize.embedding."): t for n, t in state.items()}
    return vae_state({name: t for name, t in renamed.items() if name not in AVERAGES})


def gpt_state(state: Mapping[str, Tensor], config: TamingConfig) -> dict[str, Tensor]:
    """Our state dict of an official GPT's. A condition that is dropped, of which upstream knows
    nothing, is the mean of what conditions can be."""
    length = config.prefix + config.spec.positions - 1
    found = dict[str, Tensor]()
    for name, tensor in fused(state).items():
        if name.endswith(".attn.mask"):
            continue
        if name == "pos_emb":
            found["positions"] = tensor[0, :length].contiguous()
            continue
        for theirs, ours in RENAMES:
            name = name.replace(theirs, ours)
        found[name] = tensor
    table = found["tok_embeddings.weight"][: config.rows]
    some = table[config.first : config.first + config.classes] if config.classes else table
    dropped = some.float().mean(0, keepdim=True).to(table.dtype)
    found["tok_embeddings.weight"] = torch.cat((table, dropped))
    found["head.proj.weight"] = found["head.proj.weight"][: config.vocab].contiguous()
    return found


# -- the record

TOKENIZER = Part(
    title="a VQGAN of taming-transformers",
    marks=VQGAN_MARKS,
    module=VQGAN,
    config=lambda checkpoint, options: vqgan_sizes(checkpoint),
    state=lambda state, *_: vqgan_state(state),
    inside=FIRST,
    read=read_stage,
)

MAP = TOKENIZER._replace(
    title="a VQGAN of maps of taming-transformers",
    config=lambda checkpoint, options: map_sizes(checkpoint),
    inside=COND,
)

MODEL = Part(
    title="a GPT of taming-transformers",
    marks=("tok_emb.", "pos_emb", "blocks.0.attn.query.", "ln_f."),
    module=Taming,
    config=gpt_sizes,
    state=lambda state, config, _: gpt_state(state, config),
    read=read_gpt,
)


def _drawn(config: TamingConfig) -> Sampling:
    """How upstream draws."""
    if config.classes > 1:
        return Sampling.of(top_k=600, top_p=0.92)
    return Sampling.of(top_k=250 if config.classes else 100)


PROJECT = Project(
    options=TamingFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, _, options: sized(codes, pair("--size", options.size, codes.factor)),
    model=MODEL,
    map=MAP,
    sampling=_drawn,
)

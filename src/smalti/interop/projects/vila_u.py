"""VILA-U's released folders (mit-han-lab/vila-u) and what they become here.

A folder holds three: `llm`, a language model of transformers and its text tokenizer;
`vision_tower`, the tokenizer of pictures and the head over depth; and `mm_projector`, what makes
the sums of codes as wide as the language model. Codes have no ids; the ids that begin and end a
picture are words of the text tokenizer. Tensors do not tell the heads of attention: those of the
head over depth the config.json of `vision_tower` says, those of the SigLIP its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.config import read_json
from smalti.heads.depth import DepthConfig
from smalti.interop.language import DECODER, config_of, fill, stored
from smalti.interop.over_depth import VICUNA, fill_beside, vila_u_head
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project, words_of
from smalti.interop.projects.rq import gelu_of, tables
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype
from smalti.interop.tensor_shapes import count, shape
from smalti.interop.towers import towers_state
from smalti.models.depth_language import DepthLanguage, DepthLanguageConfig
from smalti.models.unified import Marks
from smalti.nn.vision import TowerConfig
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.vila_u import VILAU, VILAUConfig

NAME = "VILA-U"
DRAW, ASK = f"{VICUNA}USER: {{}} ASSISTANT: ", f"{VICUNA}USER: <image>\n{{}} ASSISTANT:"
"""How it was taught to be spoken to."""
PARTS = ("llm", "vision_tower", "mm_projector")
"""The folders of a released one."""


@dataclass(frozen=True)
class VILAUFiles:
    """A tokenizer and a language model of VILA-U; without --model, the tokenizer alone.

    smalti convert vila-u --tokenizer vila-u-7b-256/ --model vila-u-7b-256/ --out vila-u
    """

    tokenizer: Path
    """A released folder, for its `vision_tower`, or that alone."""
    model: Path | None = None
    """A released folder, or its `llm`, beside which the others are."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in `llm`."""
    heads: int | None = None
    """Attention heads of the SigLIP; default: those of the published one of its width."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""

    def __post_init__(self) -> None:
        for name, part in (("tokenizer", PARTS[1]), ("model", PARTS[0])):
            path = getattr(self, name)
            if path is not None and (path / part).is_dir():
                object.__setattr__(self, name, path / part)


# -- configurations


def settings(path: Path, part: str, *names: str) -> dict[str, Any]:
    """What the config.json of a `vision_tower` says of a part.

    Raises ValueError naming the file if there is none of such names.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    told = read_json(file)
    found = told.get(part) or told
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{file}: {missing[0]} of the {part} of {NAME} is missing")
    return found


HEADS = {768: 12, 1024: 16, 1152: 16}
"""Attention heads of the published SigLIPs, by width."""


def codes_of(told: Mapping[str, Any]) -> tuple[int, bool]:
    """How many codes a depth has, and whether all have the same. Raises ValueError if depths differ
    in how many."""
    vocabs = {told["n_embed"]} if isinstance(told["n_embed"], int) else set(told["n_embed"])
    if len(vocabs) > 1:
        raise ValueError(f"depths must have one n_embed, got {told['n_embed']}")
    return vocabs.pop(), bool(told.get("shared_codebook", True))


def tower_of(checkpoint: Checkpoint, options: VILAUFiles) -> tuple[TowerConfig, int]:
    """The SigLIP that sees, and the pixels of one side of what it sees as one. Raises ValueError if
    its heads are unknown."""
    tower = "siglip_model.vision_model."
    width, _, cell, _ = shape(checkpoint, f"{tower}embeddings.patch_embedding.weight", 4, NAME)
    heads = options.heads or HEADS.get(width)
    if heads is None:
        raise ValueError(f"{checkpoint.path} has no width of a published SigLIP: give --heads")
    ffn_dim = shape(checkpoint, f"{tower}encoder.layers.0.mlp.fc1.weight", 2, NAME)[0]
    return TowerConfig(count(checkpoint, f"{tower}encoder.layers."), heads, width, ffn_dim), cell


def attends(checkpoint: Checkpoint, drawn: Mapping[str, Any]) -> bool:
    """Whether the deepest level of the decoder has attention. Raises ValueError if another has, or
    for what our decoder does not have."""
    names = [n.split(".") for n in checkpoint.state if n.startswith("decoder.up.")]
    levels = {name[2] for name in names if name[3] == "attn"}
    if levels - {str(len(drawn["ch_mult"]) - 1)} or drawn.get("double_z"):
        raise ValueError(
            f"{checkpoint.path}: a decoder must have attention at its deepest level alone, and no "
            f"double_z, got levels {', '.join(sorted(levels))}"
        )
    return bool(levels)


def tokenizer_sizes(checkpoint: Checkpoint, options: VILAUFiles) -> VILAUConfig:
    """The config of a tokenizer, for images of the size that it was trained with.

    Raises ValueError if its settings are missing, or are not those of such a tokenizer.
    """
    told = settings(checkpoint.path, "rqvaesiglip", "code_shape", "n_embed", "ddconfig")
    (vision, cell), (vocab, shared) = tower_of(checkpoint, options), codes_of(told)
    height, width, depth = told["code_shape"]
    drawn, side = told["ddconfig"], told.get("decoder_latent_shape") or (height, width)
    factor = 2 ** (len(drawn["ch_mult"]) - 1)
    config = VILAUConfig(
        size=(side[0] * factor, side[1] * factor),
        channels=drawn["ch"],
        multipliers=tuple(drawn["ch_mult"]),
        blocks=drawn["num_res_blocks"],
        latent=drawn["z_channels"],
        vision=vision,
        cell=cell,
        vocab=vocab,
        depth=depth,
        shared=shared,
        deep_attention=attends(checkpoint, drawn),
    )
    if config.grid != (height, width):
        raise ValueError(
            f"{checkpoint.path}: cells of {cell} pixels make {config.grid} positions of images of "
            f"{config.size}, its code_shape says {(height, width)}"
        )
    return config


def model_sizes(
    checkpoint: Checkpoint, options: VILAUFiles, codes: VILAUConfig
) -> DepthLanguageConfig:
    """The config of a language model's folder, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, or its parts do not fit each other.
    """
    words, folder = words_of(options), checkpoint.path
    told, vision = read_json(folder / "config.json"), folder.parent / PARTS[1]
    language = config_of(told, str(folder / "config.json"))
    _, depth, _ = shape(checkpoint, "rqtransformer.pos_emb_d", 3, NAME)
    vocab = shape(checkpoint, "rqtransformer.classifier_mlp.linear.weight", 2, NAME)[0]
    if (depth, vocab) != (codes.depth, codes.vocab):
        raise ValueError(
            f"{vision} draws {depth} codes out of {vocab} at each position; the tokenizer has "
            f"{codes.depth} out of {codes.vocab}"
        )
    return DepthLanguageConfig(
        language,
        codes.grid,
        codes.vocab,
        codes.depth,
        codes.vision.dim,
        codes.shared,
        head=head_sizes(checkpoint, vision, (codes.vision.dim, language.dim)),
        begin=words.id("<im_start>"),
        end=words.id("<im_end>"),
        nothing=tuple(words.read(DRAW.format(""))),
        marks=Marks(words.start, tuple(i for i in [words.stop] if i is not None), words.pad),
        length=told.get("max_position_embeddings", DepthLanguageConfig.length),
    )


def head_sizes(checkpoint: Checkpoint, vision: Path, widths: tuple[int, int]) -> DepthConfig:
    """The settings of the head, which reads vectors of codes and hidden states of such widths."""
    block = settings(vision, "rqtransformer", "head")["head"].get("block") or {}
    if "n_head" not in block:
        raise ValueError(f"{vision}: n_head of the rqtransformer of {NAME} is missing")
    dim = shape(checkpoint, "rqtransformer.pos_emb_d", 3, NAME)[2]
    equal = [f"in_mlp_{i}.weight" for i, width in enumerate(widths, 1) if width == dim]
    return DepthConfig(
        layers=count(checkpoint, "rqtransformer.head_transformer.blocks."),
        heads=block["n_head"],
        dim=dim,
        block="gpt",
        gelu=gelu_of([block]),
        positions=True,
        bias=True,
        sums=True,
        projected=any(f"rqtransformer.{name}" in checkpoint.state for name in equal),
    )


# -- names


def tokenizer_state(state: Mapping[str, Tensor], config: VILAUConfig) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's, without what of the SigLIP reads texts."""
    kept = ("post_quant_conv.", "decoder.")
    ours = vae_state({n: t for n, t in state.items() if n.startswith(kept)})
    tower = "siglip_model."
    seen = {n.removeprefix(tower): t for n, t in state.items()
            if n.startswith(f"{tower}vision_model.")}  # fmt: skip
    ours |= {n.replace("vision.", "tower.", 1): t for n, t in towers_state(seen).items()}
    found = tables(state, config.depth, config.vocab, config.shared)
    return ours | {"quantize.embedding.weight": torch.cat(found)}


def beside(path: Path) -> dict[str, Tensor]:
    """The tensors of the folders beside `llm`: the head, the vectors of codes, and what makes these
    as wide as the language model."""
    folder = path.parent if path.is_dir() else path.parent.parent
    vision, codes = read_checkpoint(folder / PARTS[1]).state, "rqvaesiglip."
    found = {n: t for n, t in vision.items() if n.startswith("rqtransformer.")}
    for name, tensor in vision.items():
        if name.startswith(f"{codes}quantizer."):
            found[name.removeprefix(codes)] = tensor
    projector = read_checkpoint(folder / PARTS[2]).state
    return found | {f"mm_projector.{name}": tensor for name, tensor in projector.items()}


def read_model(path: Path, weights: str, inside: str) -> Checkpoint:
    """The language model of a folder, with what stands beside it."""
    checkpoint = read_checkpoint(path, weights, inside)
    return checkpoint._replace(state=checkpoint.state | beside(path))


def fill_model(model: DepthLanguage, path: Path) -> None:
    """Write the weights of a folder into a model."""
    where, config = str(path), model.config
    fill(model.language, stored(path), str(read_json(path / "config.json")["model_type"]), where)
    state, head = beside(path), "rqtransformer."
    mine = {n.removeprefix(head): t for n, t in state.items() if n.startswith(head)}
    found = {f"head.{name}": tensor for name, tensor in vila_u_head(mine).items()}
    books = tables(state, config.depth, config.codes, config.shared)
    into = "mm_projector.layers."
    found |= {f"into.{n.removeprefix(into)}": t for n, t in state.items() if n.startswith(into)}
    fill_beside(model, found | {"head.seen.vectors": torch.cat(books)}, where)


# -- the record

DRAWN = Sampling.of(guidance=3.0, top_k=900, top_p=0.96)
"""How the released code draws."""
TOKENIZER = Part(
    title="a tokenizer of VILA-U",
    marks=("siglip_model.vision_model.", "quantizer.codebooks.", "decoder.up."),
    module=VILAU,
    config=tokenizer_sizes,
    state=lambda state, config, _: tokenizer_state(state, config),
)

MODEL = Part(
    title="a language model of VILA-U",
    marks=(*DECODER, "rqtransformer.", "mm_projector."),
    module=DepthLanguage,
    config=model_sizes,
    state=lambda state, *_: state,
    read=read_model,
    fill=fill_model,
)

PROJECT = Project(
    options=VILAUFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, checkpoint, options: codes,
    model=MODEL,
    fit=lambda codes, config: codes,
    sampling=lambda config: DRAWN,
    phrases=Phrases(DRAW, ASK.format("Describe the image."), ASK, edit="{}"),
)

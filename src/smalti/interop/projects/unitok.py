"""UniTok (FoundationVision/UniTok, commit bb8012e), and its language model.

The hub has one file of UniTok's trainer, `unitok_tokenizer.pth`. Its text tower and the temperature
of its contrastive loss are not kept, the features of pictures that go with them are. Tensors do not
tell the heads of the transformers, 64 channels each of all published ones, and whether the
attention around the codes is causal, as it was in files published before April 2025.

The language model is a folder of transformers, Llama-2-7B, with what reads codes and a head over
depth among its tensors. Its tables of codes are its own copy. Tensors do not tell the heads of the
head, which are taken to be those of the language model. A picture begins with the byte 0, of which
a prompt that is to be drawn ends; that it ends with the byte 1 is remembered, not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.config import read_json
from smalti.heads.depth import DepthConfig
from smalti.interop.language import DECODER, config_of, fill, stored
from smalti.interop.over_depth import VICUNA, fill_beside, unitok_head
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size, words_of
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.depth_language import DepthLanguage, DepthLanguageConfig
from smalti.models.depth_language import unitok as unitok_language
from smalti.models.unified import Marks
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.unitok import UniTok, UniTokConfig

NAME = "UniTok"
HEAD = 64
"""Channels of an attention head of all published ones."""
DROPPED = ("text_encoder.", "logit_scale", "encoder.pos_embed")
"""What our tokenizer does not have; the positions are zeros."""


@dataclass(frozen=True)
class UniTokFiles:
    """A tokenizer and a language model of UniTok; without --model, the tokenizer alone.

    smalti convert unitok --tokenizer unitok_tokenizer.pth --model unitok_mllm/ --out unitok
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: unitok_tokenizer.pth."""
    model: Path | None = None
    """Folder of transformers, for the language model."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""
    causal: bool = False
    """Whether the attention around the codes is causal, as in files from before April 2025."""
    heads: int | None = None
    """Attention heads of the transformers; needed where a head has not 64 channels."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


def sizes(checkpoint: Checkpoint, options: UniTokFiles) -> UniTokConfig:
    """The config of a tokenizer's checkpoint, for images of a single position.

    Raises ValueError if the tensors are not those of such a tokenizer, or if the heads are unknown.
    """

    def wide(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    state, path = checkpoint.state, checkpoint.path
    if any(name.startswith(("encoder.reg_token", "decoder.reg_token")) for name in state):
        raise ValueError(f"{path} has query tokens; num_query must be 0")
    places = state.get("encoder.pos_embed")
    if places is not None and places.any():
        raise ValueError(f"{path} has embeddings of positions, encoder.pos_embed must be zeros")
    stages = count(checkpoint, "encoder.patch_embed.backbone.stages.")
    begin = "encoder.patch_embed.backbone.stages."
    widths = [wide(f"{begin}{i}.0.conv3_1x1.weight", 4)[0] for i in range(stages)]
    width = wide("encoder.norm.weight", 1)[0]
    depth = count(checkpoint, "quantizer.codebooks.")
    vocab, part = wide("quantizer.codebooks.0.codebook.weight", 2)
    if options.heads is None and width % HEAD:
        raise ValueError(f"{path} has no heads of {HEAD} channels in {width}: give --heads")
    factor = 4 * 2 ** len(widths)
    features = "projection.weight" in state
    return UniTokConfig(
        size=(factor, factor),
        widths=tuple(widths),
        blocks=tuple(count(checkpoint, f"{begin}{i}.") for i in range(stages)),
        layers=count(checkpoint, "encoder.blocks."),
        heads=options.heads or width // HEAD,
        width=width,
        vocab=vocab,
        dim=part * depth,
        depth=depth,
        causal=options.causal,
        features=wide("projection.weight", 2)[0] if features else 0,
    )


def tokenizer_state(state: Mapping[str, Tensor], config: UniTokConfig) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    kept = {n: t for n, t in state.items() if not n.startswith((*DROPPED, "quantizer."))}
    ours = {renamed(n, len(config.widths)): t for n, t in projection_state(kept).items()}
    ours["quantize.embedding.weight"] = table(state, config.depth)
    return ours


def renamed(name: str, stages: int) -> str:
    """Our name of an official one, of a network of so many stages."""
    name = name.replace("encoder.patch_embed.backbone.", "encoder.")
    if not name.startswith("decoder.up_conv"):
        return name
    place, _, rest = name.removeprefix("decoder.up_conv").partition(".")
    part = int(place) - 2
    if part < 0:
        return f"decoder.up.{rest}"
    return f"decoder.out.{rest}" if part >= stages else f"decoder.stages.{part}.{rest}"


def projection_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the biases of keys, which are zeros.

    Raises ValueError if they are not.
    """
    keys = [name for name in state if name.endswith(".zero_k_bias")]
    if found := [name for name in keys if state[name].any()]:
        raise ValueError(f"{found[0]} must be zeros, keys have no bias")
    return {name: tensor for name, tensor in state.items() if name not in keys}


def table(state: Mapping[str, Tensor], depth: int) -> Tensor:
    """All tables of codes, (K * V, c), one behind the other; how often codes were used is left
    out."""
    names = [f"quantizer.codebooks.{k}.codebook.weight" for k in range(depth)]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"each of {depth} codebooks must have a table, got no {missing[0]}")
    return torch.cat([state[name] for name in names])


# -- the language model

EMBEDDER, OVER_DEPTH = "model.multi_embedder.", "ar_head."
"""How names begin of what reads codes, and of what draws them."""
BEGIN, END, NOTHING = "<0x00>", "<0x01>", "<unconditional>"
"""Words before a picture, after it, and in the place of a text that guidance leaves out."""


def told_by(path: Path) -> tuple[dict[str, Any], str]:
    """What the config.json of a folder says of its language model, which is a Llama, and where."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(file) | {"model_type": "llama"}, str(file)


def model_sizes(
    checkpoint: Checkpoint, options: UniTokFiles, codes: UniTokConfig
) -> DepthLanguageConfig:
    """The config of a language model's folder, which draws codes of this tokenizer.

    Raises ValueError if its settings are missing or unknown, or its codes are another tokenizer's.
    """
    words, (told, where) = words_of(options), told_by(checkpoint.path)
    language = config_of(told, where)
    depth = count(checkpoint, f"{EMBEDDER}quantizer.codebooks.")
    first = f"{EMBEDDER}quantizer.codebooks.0.codebook.weight"
    vocab, part = shape(checkpoint, first, 2, NAME)
    if (depth, vocab) != (codes.depth, codes.vocab):
        raise ValueError(
            f"{checkpoint.path} draws {depth} codes out of {vocab} at each position; the tokenizer "
            f"has {codes.depth} out of {codes.vocab}"
        )
    (width,) = shape(checkpoint, f"{EMBEDDER}mm_projector.0.weight", 1, NAME)
    ffn_dim = shape(checkpoint, f"{OVER_DEPTH}layers.0.mlp.gate_proj.weight", 2, NAME)[0]
    layers, unconditional = count(checkpoint, f"{OVER_DEPTH}layers."), words.names.get(NOTHING)
    head = DepthConfig(
        layers, language.heads, language.dim, "llama", ffn_dim, rotary=True, bias=True
    )
    return unitok_language(
        language,
        grid=pair("--size", options.size, codes.factor),
        codes=vocab,
        depth=depth,
        code_dim=part,
        width=width,
        heads=width // (part * depth),
        head=head,
        begin=words.id(BEGIN),
        end=words.id(END),
        nothing=tuple(words.read(NOTHING)) if unconditional is None else (unconditional,),
        marks=Marks(words.start, tuple(i for i in [words.stop] if i is not None), words.pad),
        length=told.get("max_position_embeddings", 2048),
    )


def fill_model(model: DepthLanguage, path: Path) -> None:
    """Write the weights of a folder into a model."""
    others, config = dict[str, Tensor](), model.config

    def language() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in stored(path):
            if name.startswith((EMBEDDER, OVER_DEPTH)):
                others[name] = tensor
            else:
                yield name, tensor

    fill(model.language, language(), "llama", str(path))
    mine = {n.removeprefix(EMBEDDER): t for n, t in others.items() if n.startswith(EMBEDDER)}
    head = {n.removeprefix(OVER_DEPTH): t for n, t in others.items() if n.startswith(OVER_DEPTH)}
    found = unitok_head(head, config.head.layers, config.head.heads)
    found = {f"head.{name}": tensor for name, tensor in found.items()}
    for theirs, ours in (("attn_projection.", "projection."), ("mm_projector.", "into.")):
        part = {n: t for n, t in mine.items() if n.startswith(theirs)}
        found |= {n.replace(theirs, ours, 1): t for n, t in projection_state(part).items()}
    found["seen.vectors"] = F.normalize(table(mine, config.depth).float(), dim=-1)
    fill_beside(model, found, str(path))


# -- the record

DRAWN = Sampling.of(guidance=5.0, temperature=0.9, top_k=2048, top_p=0.96)
"""How the released script draws."""
TOKENIZER = Part(
    title="a UniTok tokenizer",
    marks=("quantizer.codebooks.0.codebook.", "post_quant_proj.", "decoder.up_conv1."),
    module=UniTok,
    config=sizes,
    state=lambda state, config, _: tokenizer_state(state, config),
    inside="unitok",
)

MODEL = Part(
    title="a language model of UniTok",
    marks=(*DECODER, EMBEDDER, OVER_DEPTH),
    module=DepthLanguage,
    config=model_sizes,
    state=lambda state, *_: state,
    fill=fill_model,
)

PROJECT = Project(
    options=UniTokFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: DRAWN,
    phrases=Phrases(
        draw="{} Generate an image based on this description.",
        caption=f"{VICUNA}USER: <image>\nDescribe the image. ASSISTANT:",
        ask=f"{VICUNA}USER: <image>\n{{}} ASSISTANT:",
        edit="{}",
    ),
    repositories={"FoundationVision/unitok_tokenizer": Repository(("unitok_tokenizer.pth",))},
)

"""UniTok (FoundationVision/UniTok, commit bb8012e).

The hub has one file of UniTok's trainer, `unitok_tokenizer.pth`. Its text tower and the temperature
of its contrastive loss are not kept, the features of pictures that go with them are. Tensors do not
tell the heads of the transformers, 64 channels each of all published ones, and whether the
attention around the codes is causal, as it was in files published before April 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.tokenizers.unitok import UniTok, UniTokConfig

NAME = "UniTok"
HEAD = 64
"""Channels of an attention head of all published ones."""
DROPPED = ("text_encoder.", "logit_scale", "encoder.pos_embed")
"""What our tokenizer does not have; the positions are zeros."""


@dataclass(frozen=True)
class UniTokFiles:
    """The tokenizer of UniTok, alone.

    smalti convert unitok --tokenizer unitok_tokenizer.pth --out unitok
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: unitok_tokenizer.pth."""
    size: str = "256"
    """Pixels of an image, 256 or height x width, 256x384."""
    causal: bool = False
    """Whether the attention around the codes is causal, as in files from before April 2025."""
    heads: int | None = None
    """Attention heads of the transformers; needed where a head has not 64 channels."""


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


TOKENIZER = Part(
    title="a UniTok tokenizer",
    marks=("quantizer.codebooks.0.codebook.", "post_quant_proj.", "decoder.up_conv1."),
    module=UniTok,
    config=sizes,
    state=lambda state, config, _: tokenizer_state(state, config),
    inside="unitok",
)

PROJECT = Project(
    options=UniTokFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    repositories={"FoundationVision/unitok_tokenizer": Repository(("unitok_tokenizer.pth",))},
)

"""Meissonic (viiika/Meissonic, commit 9360def).

The hub has folders of diffusers: `transformer` and `vqvae`, each a safetensors file, or shards with
an index, beside a config.json. Queries, keys and values are apart, ours are one product; the table
of codes has rows that no code has, of which the last one stands for hidden codes. The tokenizer is
the VQGAN of diffusers, whose pictures are in [0, 1]. What stands for no text is that of an empty
text, which the text encoder says when a folder is converted.

Tensors do not tell what turns with rows and with columns; the config.json beside them does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, sized
from smalti.interop.saved import Dtype, Repository, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.meissonic import Meissonic, MeissonicConfig
from smalti.models.meissonic_layers import SINUSOID
from smalti.pipeline.sampling import Sampling
from smalti.text.clip import CLIP, CLIPConfig, config_of
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "Meissonic"
DRAWN = Sampling.of(guidance=9.0, steps=48, reveal="meissonic", confidence=2.0)
"""How upstream's pipeline draws; its scripts and its page take 48 to 64 steps."""


@dataclass(frozen=True)
class MeissonicFiles:
    """A tokenizer and a transformer of Meissonic as a pipeline; without --model, the tokenizer
    alone.

    smalti convert meissonic --tokenizer Meissonic/vqvae --model Meissonic/transformer \\
        --out meissonic
    """

    tokenizer: Path
    """Folder or file of the tokenizer, `vqvae` of a released folder."""
    model: Path | None = None
    """Folder or file of the transformer, likewise `transformer`."""
    size: str = "1024"
    """Pixels of an image, 1024 or height x width, 1024x768."""
    axes: tuple[int, int, int] | None = None
    """Numbers of a head that are not turned, that turn with rows, and with columns; default: those
    of the config.json beside the transformer, else as published, 16 56 56."""
    text: str = CLIPConfig.model
    """Hub id or folder of the CLIP that reads texts; of a released folder, that folder itself."""
    dtype: Dtype = "stored"
    """Of the transformer's weights in the pipeline."""


# -- the tokenizer


def vq_sizes(checkpoint: Checkpoint) -> VQGANConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """

    def width(name: str) -> int:
        return shape(checkpoint, name, 4, NAME)[0]

    channels, levels = width("encoder.conv_in.weight"), count(checkpoint, "encoder.down_blocks.")
    down = [width(f"encoder.down_blocks.{i}.resnets.0.conv1.weight") for i in range(levels)]
    if bad := [n for n in down if n % channels]:
        raise ValueError(
            f"{checkpoint.path}: widths must be multiples of the first, {channels}, got {bad[0]}"
        )
    vocab, dim = shape(checkpoint, "quantize.embedding.weight", 2, NAME)
    attends = [n for n in checkpoint.state if re.match(r"(en|de)coder\.\w+_blocks\.\d+\.att", n)]
    if attends:
        raise ValueError(
            f"{checkpoint.path}: only tokenizers with attention in the middle are converted, it "
            f"has {attends[0]}"
        )
    factor = 2 ** max(levels - 1, 0)
    return VQGANConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=tuple(n // channels for n in down),
        blocks=count(checkpoint, "encoder.down_blocks.0.resnets."),
        latent=width("encoder.conv_out.weight"),
        vocab=vocab,
        dim=dim,
        l2_norm=False,
        attention=count(checkpoint, "encoder.mid_block.attentions.") > 0,
        deep_attention=False,
        unit=True,
    )


VQ_RENAMES = (
    (r"\.(down|up)_blocks\.", ".conv_blocks."),
    (r"\.mid_block\.resnets\.0\.", ".mid.0."),
    (r"\.mid_block\.resnets\.1\.", ".mid.2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.1."),
    (r"\.resnets\.", ".res."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid\.1\.group_norm\.", ".mid.1.norm."),
    (r"\.mid\.1\.to_out\.0\.", ".mid.1.proj_out."),
    (r"\.mid\.1\.to_([qkv])\.", r".mid.1.\1."),
)
"""Patterns of official names and what they become, in this order."""


def vq_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, own in VQ_RENAMES:
            name = re.sub(pattern, own, name)
        if ".mid.1." in name and name.endswith("weight") and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]  # a convolution here
        ours[name] = tensor
    return ours


# -- the transformer


def model_sizes(
    checkpoint: Checkpoint, grid: tuple[int, int], axes: tuple[int, int, int] | None = None
) -> MeissonicConfig:
    """The config of a transformer's checkpoint that draws `grid` codes; the length of texts and the
    pixels of a code, which no tensor tells, are the published ones.

    Raises ValueError if the tensors are not those of Meissonic, or if `axes` do not fit them.
    """

    def size(name: str, axes: int = 2) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    dim, words = size("context_embedder.weight")
    joint, single = (count(checkpoint, f"{kind}transformer_blocks.") for kind in ("", "single_"))
    first = "transformer_blocks" if joint else "single_transformer_blocks"
    (head_dim,) = size(f"{first}.0.attn.norm_q.weight", 1)
    pooled = size("cond_embed.linear_1.weight")[1] - 5 * SINUSOID
    axes = axes or told_axes(checkpoint.path) or MeissonicConfig.axes
    if sum(axes) != head_dim:
        raise ValueError(
            f"{checkpoint.path}: axes {axes} must add up to the {head_dim} numbers of a head: give "
            "--axes"
        )
    return MeissonicConfig(
        grid=grid,
        vocab=size("mlm_layer.conv2.weight", 4)[0],
        text_dim=max(words, pooled),
        word_dim=0 if words >= pooled else words,
        pooled=pooled,
        joint_layers=joint,
        single_layers=single,
        heads=dim // head_dim,
        dim=dim,
        axes=axes,
        compress="down_block.downsample.conv.weight" in checkpoint.state,
        clock="steps",
        guided=3.5 if count(checkpoint, "time_text_embed.guidance_embedder.") else None,
    )


def told_axes(path: Path) -> tuple[int, int, int] | None:
    """`axes_dims_rope` of the config.json beside a checkpoint; None if there is none."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        first, second, third = json.loads(file.read_text(encoding="utf-8"))["axes_dims_rope"]
        return int(first), int(second), int(third)
    except (OSError, ValueError, KeyError, TypeError):
        return None


RENAMES = (
    (r"^context_embedder\.", "text_proj."),
    (r"^encoder_proj_layer_norm\.", "text_norm."),
    (r"^time_text_embed\.text_embedder\.", "text_embed."),
    (r"^time_text_embed\.timestep_embedder\.", "time_embed."),
    (r"^time_text_embed\.guidance_embedder\.", "guide_embed."),
    (r"_embed\.linear_([12])\.", r"_embed.w\1."),
    (r"^embed\.embeddings\.", "tok_embeddings."),
    (r"^embed\.layer_norm\.", "embed_norm."),
    (r"^embed\.conv\.", "embed_proj."),
    (r"^down_block\.downsample\.", "down."),
    (r"^up_block\.upsample\.", "up."),
    (r"^project_to_hidden_norm\.", "in_norm."),
    (r"^project_to_hidden\.", "in_proj."),
    (r"^project_from_hidden_norm\.", "last_norm."),
    (r"^project_from_hidden\.", "last_proj."),
    (r"^mlm_layer\.conv1\.", "out."),
    (r"^mlm_layer\.layer_norm\.", "out_norm."),
    (r"^mlm_layer\.conv2\.", "head.proj."),
    (r"^transformer_blocks\.", "joint."),
    (r"^single_transformer_blocks\.", "single."),
    (r"^(joint\.\d+)\.norm1_context\.linear\.", r"\1.words.adaln."),
    (r"^(joint\.\d+)\.norm1\.linear\.", r"\1.codes.adaln."),
    (r"^(joint\.\d+)\.ff_context\.", r"\1.words.feed_forward."),
    (r"^(joint\.\d+)\.ff\.", r"\1.codes.feed_forward."),
    (r"\.net\.0\.proj\.", ".w1."),
    (r"\.net\.2\.", ".w2."),
    (r"^(joint\.\d+)\.attn\.norm_added_([qk])\.", r"\1.words.attention.\2_norm."),
    (r"^(joint\.\d+)\.attn\.norm_([qk])\.", r"\1.codes.attention.\2_norm."),
    (r"^(joint\.\d+)\.attn\.add_([qkv])_proj\.", r"\1.words.attention.\2."),
    (r"^(joint\.\d+)\.attn\.to_add_out\.", r"\1.words.attention.wo."),
    (r"^(joint\.\d+)\.attn\.to_out\.0\.", r"\1.codes.attention.wo."),
    (r"^(joint\.\d+)\.attn\.to_([qkv])\.", r"\1.codes.attention.\2."),
    (r"^(single\.\d+)\.norm\.linear\.", r"\1.adaln."),
    (r"^(single\.\d+)\.proj_mlp\.", r"\1.wide."),
    (r"^(single\.\d+)\.proj_out\.", r"\1.attention.wo."),
    (r"^(single\.\d+)\.attn\.norm_([qk])\.", r"\1.attention.\2_norm."),
    (r"^(single\.\d+)\.attn\.to_([qkv])\.", r"\1.attention.\2."),
)
"""Patterns of official names and what they become, in this order."""

POINTWISE = ("embed.conv.weight", "mlm_layer.conv1.weight", "mlm_layer.conv2.weight")
"""Convolutions of one position, which are products here."""


def model_state(state: Mapping[str, Tensor], config: MeissonicConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, with zeros for no text."""
    like = state["context_embedder.weight"]
    ours = {"null": torch.zeros(config.text_length, config.text_dim, dtype=like.dtype)}
    for name, tensor in state.items():
        if name in POINTWISE:
            tensor = tensor.flatten(1)
        elif name == "embed.embeddings.weight":
            tensor = torch.cat((tensor[: config.vocab], tensor[-1:]))
        for pattern, own in RENAMES:
            name = re.sub(pattern, own, name)
        if found := re.match(r"single\.(\d+)\.", name):  # behind the others
            name = f"layers.{config.joint_layers + int(found[1])}.{name[found.end() :]}"
        ours[re.sub(r"^joint\.", "layers.", name)] = tensor
    return joined(ours)


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with queries, keys and values as one product."""
    ours = {name: tensor for name, tensor in state.items() if ".attention.q." not in name}
    for name in state:
        if ".attention.q." in name:
            names = [name.replace(".attention.q.", f".attention.{part}.") for part in "qkv"]
            parts = [state[n] if n == name else ours.pop(n) for n in names if n in state]
            ours[name.replace(".attention.q.", ".attention.wqkv.")] = torch.cat(parts)
    return ours


# -- the record


def _model(checkpoint: Checkpoint, options: MeissonicFiles, codes: VQGANConfig) -> MeissonicConfig:
    config = model_sizes(checkpoint, pair("--size", options.size, codes.factor), options.axes)
    if config.vocab != codes.vocab:
        raise ValueError(
            f"{checkpoint.path} draws one of {config.vocab} codes; the tokenizer has {codes.vocab}"
        )
    return replace(config, factor=codes.factor, text_length=config_of(options.text).length)


def _alone(codes: Any, checkpoint: Checkpoint, options: MeissonicFiles) -> Any:
    return sized(codes, pair("--size", options.size, codes.factor))


TOKENIZER = Part(
    title="a tokenizer of Meissonic",
    marks=("encoder.down_blocks.0.resnets.", "quantize.embedding.", "decoder.up_blocks.0.resnets."),
    module=VQGAN,
    config=lambda checkpoint, options: vq_sizes(checkpoint),
    state=lambda state, *_: vq_state(state),
)

MODEL = Part(
    title="a transformer of Meissonic",
    marks=("mlm_layer.conv1.", "project_to_hidden.", "time_text_embed."),
    module=Meissonic,
    config=_model,
    state=lambda state, config, _: model_state(state, config),
)

PROJECT = Project(
    options=MeissonicFiles,
    tokenizer=TOKENIZER,
    alone=_alone,
    model=MODEL,
    sampling=lambda config: DRAWN,
    text=lambda config, options: CLIP(config_of(options.text)),
    repositories={
        "MeissonFlow/Meissonic": Repository(("vqvae",), ("transformer",)),
    },
)

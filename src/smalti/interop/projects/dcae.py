"""DC-AE (mit-han-lab/efficientvit, and as diffusers 0.42.1 has it, AutoencoderDC).

The hub has each tokenizer twice: with the names of the project, whose config.json has a name alone,
and with those of diffusers, whose config.json says every setting. Both have the same tensors, but
that diffusers keeps queries, keys and values apart. What no tensor tells is read there, or else is
as published: activations are relu where norms are over the batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint, read_described
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Repository
from smalti.interop.tensor_shapes import option, shape
from smalti.nn.deep_compression import ACTIVATIONS, Activation
from smalti.tokenizers.dcae import DCAE, DCAEConfig, HalfConfig

NAME = "DC-AE"

SCALES = {
    "f32c32-in-1.0": 0.3189,
    "f32c32-mix-1.0": 0.4552,
    "f64c128-in-1.0": 0.2889,
    "f64c128-mix-1.0": 0.4538,
    "f128c512-in-1.0": 0.4883,
    "f128c512-mix-1.0": 0.3620,
    "f32c32-sana-1.0": 0.41407,
    "f32c32-sana-1.1": 0.41407,
}
"""One over the standard deviation of the latents of each published tokenizer; those of f128c512 are
remembered."""


@dataclass(frozen=True)
class DCAEFiles:
    """A tokenizer of DC-AE.

    smalti convert dcae --tokenizer dc-ae-f64c128-in-1.0 --out dc-ae-f64
    """

    tokenizer: Path
    """Folder or file of the tokenizer, with its config.json beside it."""
    scale: float | None = None
    """What latents are multiplied by, one over their standard deviation; default: what config.json
    says, or what is published of the tokenizer whose name it has."""
    head_dim: int | None = None
    """Numbers of an attention head, which no tensor tells where there are no further kernels;
    default: what config.json says, else 32."""
    size: str = "512"
    """Pixels of an image, 512 or height x width, 512x768."""


def read_told(path: Path, weights: str = "model", part: str = "") -> Checkpoint:
    """A checkpoint under our names, with the settings of the config.json beside it."""
    checkpoint = read_described(path, weights, part)
    return checkpoint._replace(state=our_names(checkpoint.state))


# -- names

RENAMES = (
    (r"\.op_list\.", "."),
    (r"\.main\.", "."),
    (r"encoder\.stages\.", "encoder.down_blocks."),
    (r"decoder\.stages\.", "decoder.up_blocks."),
    (r"encoder\.project_out\.0\.conv\.", "encoder.conv_out."),
    (r"decoder\.project_out\.0\.", "decoder.norm_out."),
    (r"decoder\.project_out\.2\.conv\.", "decoder.conv_out."),
    (r"coder\.project_in\.conv\.", "coder.conv_in."),
    (r"\.context_module\.qkv\.conv\.", ".attn.to_qkv."),
    (r"\.context_module\.aggreg\.", ".attn.scales."),
    (r"\.context_module\.proj\.conv\.", ".attn.to_out."),
    (r"\.context_module\.proj\.norm\.", ".attn.norm_out."),
    (r"\.local_module\.(depth|inverted|point)_conv\.conv\.", r".conv_out.conv_\1."),
    (r"\.local_module\.point_conv\.norm\.", ".conv_out.norm."),
    (r"\.(conv1|conv2)\.conv\.", r".\1."),
    (r"\.conv2\.norm\.", ".norm."),
    (r"(\d)\.conv\.conv\.", r"\1.conv."),
)
"""Patterns of the project's names and what they become, in this order."""

DIFFUSERS = (
    (r"\.to_qkv_multiscale\.(\d+)\.proj_in\.", r".scales.\1.0."),
    (r"\.to_qkv_multiscale\.(\d+)\.proj_out\.", r".scales.\1.1."),
)
"""The same of diffusers' names."""


def renamed(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    """A name after all patterns."""
    for pattern, ours in patterns:
        name = re.sub(pattern, ours, name)
    return name


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of either kind of file under our names, queries, keys and values still apart in
    one of diffusers."""
    original = any(".op_list." in name for name in state)
    ours = {renamed(name, RENAMES if original else DIFFUSERS): t for name, t in state.items()}
    if not any("encoder.down_blocks.0." in name for name in ours):  # pictures are halved at once
        ours = {
            re.sub(r"encoder\.conv_in\.(?!conv)", "encoder.conv_in.conv.", name): tensor
            for name, tensor in ours.items()
        }
    return ours


def dcae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict: products are convolutions, and queries, keys and values are of one."""
    ours = dict[str, Tensor]()
    for name, tensor in state.items():
        if name.endswith((".to_k.weight", ".to_v.weight")):
            continue
        if name.endswith(".to_q.weight"):
            parts = [state[name.replace("to_q", f"to_{part}")] for part in "qkv"]
            name, tensor = name.replace("to_q", "to_qkv"), torch.cat(parts)
        if tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        ours[name] = tensor
    return ours


# -- configurations


Shapes = dict[str, tuple[int, ...]]
"""Of the tensors of one block, or of one way down or up, by their names in it."""


def parts_of(checkpoint: Checkpoint, side: str) -> dict[int, list[Shapes]]:
    """The parts of each level of the encoder or the decoder, by its number."""
    found = dict[tuple[int, int], Shapes]()
    for name, tensor in checkpoint.state.items():
        if part := re.fullmatch(rf"{side}\.(?:down|up)_blocks\.(\d+)\.(\d+)\.(.+)", name):
            at = int(part[1]), int(part[2])
            found.setdefault(at, {})[part[3]] = tuple(tensor.shape)
    levels = sorted({level for level, _ in found})
    return {i: [found[at] for at in sorted(found) if at[0] == i] for i in levels}


def half_sizes(checkpoint: Checkpoint, side: str) -> HalfConfig:
    """The config of the encoder or the decoder of a checkpoint."""
    parts, told = parts_of(checkpoint, side), checkpoint.args
    ways = {i: p["conv.weight"] for i, level in parts.items() for p in level if "conv.weight" in p}
    blocks = {i: [p for p in level if "conv.weight" not in p] for i, level in parts.items()}
    count = 1 + max([*parts, *(i + 1 for i in ways)], default=0)
    encodes = side == "encoder"
    edge = f"{side}.{'conv_out' if encodes else 'conv_in'}.weight"
    widths = [0] * (count - 1) + [shape(checkpoint, edge, 4, NAME)[encodes]]
    for i, (block, *_) in ((i, level) for i, level in blocks.items() if level):
        widths[i] = (block.get("conv1.weight") or block["attn.to_out.weight"])[0]
    if 0 not in blocks and count > 1:
        widths[0] = max(widths[1] // 2, 1)  # there is no such level, nothing has this width
        edge = f"{side}.{'conv_in' if encodes else 'conv_out'}.conv.weight"
        ways[0] = shape(checkpoint, edge, 4, NAME)
    after = {i: widths[i + 1] if encodes else 3 if i not in blocks else widths[i] for i in ways}
    firsts = {i: level[0] for i, level in blocks.items() if level}
    batch_norm = [i for i, block in firsts.items() if any("running_mean" in n for n in block)]
    batch_norm = [0] * (0 not in blocks and 1 in batch_norm) + batch_norm
    shortcut = {"encoder": "encoder_out_shortcut", "decoder": "decoder_in_shortcut"}[side]
    return HalfConfig(
        widths=tuple(widths),
        blocks=tuple(len(blocks.get(i, [])) for i in range(count)),
        attention_at=tuple(2**i for i, block in firsts.items() if "attn.to_out.weight" in block),
        kernels=tuple(pair for i, block in firsts.items() for pair in kernels_of(2**i, block)),
        batch_norm_at=tuple(2**i for i in batch_norm),
        activations=activations(told, [i in batch_norm for i in range(count)]) * (not encodes),
        shuffle=all(way[0] != after[i] for i, way in ways.items()),
        shortcut=option(checkpoint, shortcut, True),
    )


def kernels_of(level: int, block: Shapes) -> list[tuple[int, int]]:
    """The further kernels of the attention of a block, each with its level."""
    names = sorted(n for n in block if re.fullmatch(r"attn\.scales\.\d+\.0\.weight", n))
    return [(level, block[name][-1]) for name in names]


def activations(told: Mapping[str, Any], batch_norm: list[bool]) -> tuple[Activation, ...]:
    """Of the decoder's levels, as config.json says or as published; () if all are silu.

    Raises ValueError for one that there is not.
    """
    said = told.get("decoder_act_fns", ["relu" if batch else "silu" for batch in batch_norm])
    names = [said] * len(batch_norm) if isinstance(said, str) else list(said)
    found: list[Activation] = [activation(name) for name in names]
    return tuple(found) if set(found) != {"silu"} else ()


def activation(name: str) -> Activation:
    """Ours of diffusers' name. Raises ValueError for one that there is not."""
    name = {"swish": "silu"}.get(name, name)
    if name not in ACTIVATIONS:
        raise ValueError(f"activations are {', '.join(ACTIVATIONS)}, config.json says {name}")
    return cast(Activation, name)


def sizes(checkpoint: Checkpoint, options: DCAEFiles) -> DCAEConfig:
    """The config of a checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of a DC-AE, or the scale cannot be told.
    """
    told = checkpoint.args
    encoder, decoder = half_sizes(checkpoint, "encoder"), half_sizes(checkpoint, "decoder")
    factor = 2 ** (len(encoder.widths) - 1)
    return DCAEConfig(
        size=(factor, factor),
        latent=shape(checkpoint, "decoder.conv_in.weight", 4, NAME)[1],
        encoder=encoder,
        decoder=decoder,
        head_dim=options.head_dim or head_dim(checkpoint),
        last_activation=activation(told.get("decoder_conv_act_fn", "relu")),
        scale=scale_of(checkpoint, options),
    )


def head_dim(checkpoint: Checkpoint) -> int:
    """Numbers of a head, of which further kernels mix as many; else what config.json says, or as
    published."""
    for name, tensor in checkpoint.state.items():
        if re.search(r"\.attn\.scales\.\d+\.1\.weight$", name):
            return tensor.shape[1]
    return option(checkpoint, "attention_head_dim", DCAEConfig.head_dim)


def scale_of(checkpoint: Checkpoint, options: DCAEFiles) -> float:
    """The scale that is asked for, stored or published. Raises ValueError if there is none."""
    told = checkpoint.args
    published = SCALES.get(str(told.get("model_name", "")).removeprefix("dc-ae-"))
    scale = options.scale or told.get("scaling_factor") or published
    if not scale:
        known = ", ".join(f"{name} {scale}" for name, scale in SCALES.items())
        raise ValueError(
            f"{checkpoint.path} has no config.json beside it that tells the scale of its latents: "
            f"give --scale, one over their standard deviation (published: {known})"
        )
    return float(scale)


PROJECT = Project(
    options=DCAEFiles,
    tokenizer=Part(
        title="a tokenizer of DC-AE",
        marks=(
            "encoder.down_blocks.",
            "encoder.conv_out.",
            "decoder.up_blocks.",
            "decoder.norm_out.",
        ),
        module=DCAE,
        config=sizes,
        state=lambda state, *_: dcae_state(state),
        read=read_told,
    ),
    alone=at_size,
    repositories={
        f"mit-han-lab/dc-ae-{name}{layout}": Repository((file,), beside=("config.json",))
        for name in SCALES
        for layout, file in (
            ("", "model.safetensors"),
            ("-diffusers", "diffusion_pytorch_model.safetensors"),
        )
    },
)

"""Infinity (FoundationVision/Infinity).

FoundationVision/Infinity publishes tokenizers as .pth files that hold the network under "vae". Each
convolution and each norm is wrapped, so that its name ends in `.conv.` or `.norm.`; the decoder is
stored shallow first, ours deepest first; the quantizer has no weights, but a constant that is
stored twice.

Transformers are bare state dicts, checkpoints of the official trainer, or, the largest, shards with
an index. Layers are named by chunk and number inside it, or by number alone. The head has two
logits for each bit, of which only the difference matters: here it has that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.saved import Dtype, Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.models.infinity import SIZES, Infinity, InfinityConfig
from smalti.pipeline.sampling import Sampling
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig, at, schedule

NAME = "Infinity"
TOKENIZERS = (
    "infinity_vae_d32reg.pth",
    "infinity_vae_d16.pth",
    "infinity_vae_d24.pth",
    "infinity_vae_d32.pth",
    "infinity_vae_d64.pth",
    "infinity_vae_d56_f8_14_patchify.pth",
)
"""The published ones; the model of 2 B parameters learned codes of the first."""
DRAWN = Sampling.of(guidance=4.0, temperature=0.5, top_p=0.97)
"""How upstream's script draws."""
DRAWN_8B = Sampling.of(guidance=3.0, temperature=1.0, top_p=0.97)
"""How upstream's notebook draws with the largest model."""
MASK = re.compile(r"quantizer?\.lfq\.mask")
"""The powers of two of a code's bits, by which upstream makes numbers of them."""


@dataclass(frozen=True)
class InfinityFiles:
    """A tokenizer and a transformer of Infinity as a pipeline; without --model, the tokenizer
    alone.

    smalti convert infinity --tokenizer infinity_vae_d32reg.pth --model infinity_2b_reg.pth \\
        --out infinity-2b
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .pth, .pt or .safetensors."""
    model: Path | None = None
    """Checkpoint of the transformer, likewise; one of the official trainer, or a folder of
    shards."""
    ratio: float = 1.0
    """Height / width of its pictures, one of the published ones; it has codes of all others too."""
    budget: Literal["0.06M", "0.25M", "0.60M", "1M"] | None = None
    """Their pixels, likewise; default: 1M, of the model of 125 M parameters 0.06M."""
    bits: int | None = None
    """Bits of a latent cell, to be sure; default: as many as the tensors have."""
    cells: int | None = None
    """Latent cells of each side that a position of codes covers, which the tensors do not say;
    default: as many as there are in 16 pixels, as published."""
    text: str = T5Config.model
    """Hub id or folder of the T5 that reads texts."""
    text_length: int | None = None
    """Words of a text that are read; default: as many as the transformer has null words of. More
    of them begin as new ones do."""
    heads: int | None = None
    """Attention heads; needed where attention is not l2-normalised and the size not published."""
    norm_eps: float = InfinityConfig.norm_eps
    """Epsilon of the transformer's norms; all published ones have the default."""
    dtype: Dtype = "stored"
    """Of the transformer's weights in the pipeline."""


# -- configurations


def vae_sizes(checkpoint: Checkpoint, cells: int | None = None) -> InfinityVAEConfig:
    """The config of a tokenizer's checkpoint, for images of a single position.

    Raises ValueError if the tensors are not those of Infinity's tokenizer.
    """

    def size(name: str) -> tuple[int, ...]:
        return shape(checkpoint, name, 4, NAME)

    def widths(side: str, count: int) -> tuple[int, ...]:
        names = (f"{side}.{i}.block.0.conv1.conv.weight" for i in range(count))
        return tuple(size(name)[0] // channels for name in names)

    channels, levels = size("encoder.conv_in.conv.weight")[0], count(checkpoint, "encoder.down.")
    down, up = widths("encoder.down", levels), widths("decoder.up", levels)
    factor = 2 ** max(levels - 1, 0)
    cells = max(1, 16 // factor) if cells is None else cells
    return InfinityVAEConfig(
        size=(factor * cells, factor * cells),
        channels=channels,
        multipliers=down,
        decoder_multipliers=() if up == down else up,
        blocks=count(checkpoint, "encoder.down.0.block."),
        scales=((1, 1),),
        bits=bits_of(checkpoint),
        cells=cells,
    )


def bits_of(checkpoint: Checkpoint) -> int:
    """Bits of a latent cell. Raises ValueError if tensors of a file do not agree in them."""
    bits = shape(checkpoint, "encoder.conv_out.conv.weight", 4, NAME)[0]
    held = {
        "decoder.conv_in.conv.weight": shape(checkpoint, "decoder.conv_in.conv.weight", 4, NAME)[1]
    }
    held |= {name: len(t) for name, t in checkpoint.state.items() if MASK.fullmatch(name)}
    for name, found in held.items():
        if found != bits:
            raise ValueError(f"{checkpoint.path} has {bits} bits, but {found} in {name}")
    return bits


def model_sizes(
    checkpoint: Checkpoint, codes: InfinityVAEConfig, heads: int | None = None
) -> InfinityConfig:
    """The config of a transformer's checkpoint, for codes of the tokenizer's bits and scales,
    which no tensor tells.

    `heads` is needed where neither the tensors nor the published sizes tell them. Raises ValueError
    if they do not, or if the tensors are not those of Infinity, or of other bits.
    """

    def size(name: str, axes: int = 2) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    dim, channels = size("word_embed.weight")
    first, layers = _layers(checkpoint)
    if channels != (wanted := codes.spec.channels):
        raise ValueError(
            f"{checkpoint.path} reads {channels} bits, the tokenizer has {wanted} in a position"
        )
    scaled = checkpoint.state.get(f"{first}sa.scale_mul_1H11")
    known = {(s["layers"], s["dim"]): s["heads"] for s in SIZES.values()}
    told = known.get((layers, dim)) if scaled is None else scaled.numel()
    if scaled is not None and heads not in (None, told):
        raise ValueError(f"{checkpoint.path} has {told} heads, got --heads {heads}")
    if not (heads := heads or told):
        raise ValueError(f"{checkpoint.path} does not say its heads: give --heads")
    length, width = size("cfg_uncond")
    inner = size(f"{first}ffn.fc1.weight")[0]
    return InfinityConfig(
        scales=codes.scales,
        bits=codes.bits,
        cells=codes.cells,
        text_length=length,
        text_dim=width,
        layers=layers,
        heads=heads,
        dim=dim,
        mlp_ratio=inner / dim,
        multiple_of=1 if inner % 256 else 256,
        shared_adaln="shared_ada_lin.1.weight" in checkpoint.state,
        l2_norm=scaled is not None,
        most_scales=size("lvl_embed.weight")[0],
        drop_path=0.1,  # as upstream trains the published sizes
    )


def _layers(checkpoint: Checkpoint) -> tuple[str, int]:
    """How names of the first layer begin, and how many layers there are.

    Raises ValueError if chunks have not as many of them each.
    """
    if layers := count(checkpoint, "blocks."):
        return "blocks.0.", layers
    found = {found[0] for name in checkpoint.state if (found := LAYER.match(name))}
    chunks = {LAYER.fullmatch(begin)[1] for begin in found}  # type: ignore[index]
    if not found or len(found) % len(chunks):
        raise ValueError(f"{checkpoint.path} is no such file of {NAME}: it has no blocks")
    return min(found, key=lambda begin: (len(begin), begin)), len(found)


# -- names

RENAMES = (
    (r"\.(conv|norm)\.(weight|bias)$", r".\2"),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"\.(down|up)\.", ".conv_blocks."),
    (r"\.block\.", ".res."),
)
"""Parts of official names and of ours, in this order."""


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    levels = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if MASK.fullmatch(name):
            continue
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(max(levels) - int(parts[2]))
        name = ".".join(parts)
        for official, own in RENAMES:
            name = re.sub(official, own, name)
        ours[name] = tensor
    return ours


LAYER = re.compile(r"block_chunks\.(\d+)\.(?:module\.)?(\d+)\.")
"""How names of a layer begin, of a number inside a chunk."""

MODEL_RENAMES = (
    ("cfg_uncond", "null"),
    ("pos_start", "start_pos"),
    ("lvl_embed.", "scale_embedding."),
    ("text_proj_for_sos.ca.mat_q", "pool.query"),
    ("text_proj_for_sos.ca.mat_kv.", "pool.wkv."),
    ("text_proj_for_sos.ca.proj.", "pool.wo."),
    ("text_proj_for_sos.ca.", "pool."),
    ("text_proj_for_ca.", "text_proj."),
    ("shared_ada_lin.1.", "shared_adaln."),
    ("head_nm.ada_lin.1.", "adaln."),
    ("head.", "head.proj."),
    (".sa.mat_qkv.", ".attention.wqkv."),
    (".sa.proj.", ".attention.wo."),
    (".sa.scale_mul_1H11", ".attention.log_scale"),
    (".sa.", ".attention."),
    (".ca.mat_q.", ".cross.wq."),
    (".ca.mat_kv.", ".cross.wkv."),
    (".ca.proj.", ".cross.wo."),
    (".ca.", ".cross."),
    (".ca_norm.", ".cross_norm."),
    (".ffn.fc1.", ".feed_forward.w1."),
    (".ffn.fc2.", ".feed_forward.w2."),
    (".ada_lin.1.", ".adaln."),
    (".ada_gss", ".constants"),
    ("blocks.", "layers."),
)
"""Parts of official names and of ours, in this order; the first that is in a name is replaced,
and `blocks.` beside it."""

CONSTANTS = ("zero_k_bias", "lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen",
             "Infinity_invisible_qlen")  # fmt: skip
"""Buffers that follow from the settings."""


def model_state(state: Mapping[str, Tensor], config: InfinityConfig) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    chunks = {found[1] for name in state if (found := LAYER.match(name))}
    each = config.layers // max(len(chunks), 1)
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in CONSTANTS:
            continue
        if found := LAYER.match(name):
            number = int(found[1]) * each + int(found[2])
            name = f"blocks.{number}.{name[found.end() :]}"
        if name.startswith("head."):
            tensor = differences(tensor)
        elif name == "cfg_uncond":
            tensor = null_words(tensor, config.text_length)
        ours[renamed(name)] = bare(name, tensor)
    return ours


def renamed(name: str) -> str:
    """Our name of an official one, whose layers are numbered throughout."""
    for theirs, own in MODEL_RENAMES:
        if name.startswith(theirs) or (theirs.startswith(".") and theirs in name):
            name = name.replace(theirs, own, 1)
            break
    return name.replace("blocks.", "layers.", 1) if name.startswith("blocks.") else name


def bare(name: str, tensor: Tensor) -> Tensor:
    """A tensor without the leading axes that ours has not."""
    last = name.rpartition(".")[2]
    if last == "scale_mul_1H11":  # of two layouts, by the kernel
        return tensor.reshape(-1, 1, 1)
    for _ in range({"pos_start": 2, "ada_gss": 2, "mat_q": 1}.get(last, 0)):
        tensor = tensor.squeeze(0)
    return tensor


def differences(logits: Tensor) -> Tensor:
    """The weights of a bit being 1 less those of its being 0, of both (2C, ...): (C, ...)."""
    zeros, ones = logits.float().unflatten(0, (-1, 2)).unbind(1)
    return (ones - zeros).to(logits.dtype)


def null_words(null: Tensor, length: int) -> Tensor:
    """So many null words (length, E) of those of a file; more are drawn as upstream draws them."""
    fresh = torch.empty(length, null.shape[1])
    nn.init.trunc_normal_(fresh, std=1.2, generator=torch.Generator().manual_seed(0))
    fresh = (fresh / null.shape[1] ** 0.5).to(null)
    return torch.cat((null[:length], fresh[len(null) :]))


# -- the record


def _tokenizer(checkpoint: Checkpoint, options: InfinityFiles) -> InfinityVAEConfig:
    config = vae_sizes(checkpoint, options.cells)
    if options.bits not in (None, config.bits):
        raise ValueError(f"{checkpoint.path} has {config.bits} bits, got --bits {options.bits}")
    return config


TOKENIZER = Part(
    title="an Infinity tokenizer",
    marks=("encoder.down.0.block.0.conv1.conv.", "decoder.up.0.block.0.conv1.conv."),
    module=InfinityVAE,
    config=_tokenizer,
    state=lambda state, *_: vae_state(state),
)


def _model(
    checkpoint: Checkpoint, options: InfinityFiles, codes: InfinityVAEConfig
) -> InfinityConfig:
    config = model_sizes(checkpoint, codes, options.heads)
    small = config.dim == SIZES["125M"]["dim"]
    scales = schedule(options.ratio, options.budget or ("0.06M" if small else "1M"))
    length = config.text_length if options.text_length is None else options.text_length
    return replace(config, scales=scales, text_length=length, norm_eps=options.norm_eps)


def _sampling(config: InfinityConfig) -> Sampling:
    return DRAWN_8B if config.dim == SIZES["8B"]["dim"] else DRAWN


MODEL = Part(
    title="an Infinity transformer",
    marks=("text_proj_for_sos.ca.", "lvl_embed."),
    module=Infinity,
    config=_model,
    state=lambda state, config, _: model_state(state, config),
    inside="gpt_fsdp",
)

PROJECT = Project(
    options=InfinityFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, _, options: at(codes, schedule(options.ratio, options.budget or "1M")),
    model=MODEL,
    fit=lambda codes, config: at(codes, config.scales),
    sampling=_sampling,
    text=lambda config, options: T5(T5Config(options.text, config.text_length, config.text_dim)),
    repositories={
        "FoundationVision/Infinity": Repository(
            TOKENIZERS,
            ("infinity_2b_reg.pth", "infinity_125M_256x256.pth", "infinity_8b_weights"),
            learned=(
                ("infinity_125M_256x256.pth", "infinity_vae_d16.pth"),
                ("infinity_8b_weights", "infinity_vae_d56_f8_14_patchify.pth"),
            ),
        ),
    },
)

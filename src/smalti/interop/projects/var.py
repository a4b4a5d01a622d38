"""VAR (FoundationVision/VAR).

FoundationVision/var publishes a tokenizer and transformers as .pth files, bare state dicts. A
checkpoint of the official trainer holds both; give it twice. The tokenizer's attention has one
convolution for queries, keys and values, which we split; its decoder is stored shallow first, ours
deepest first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.saved import Dtype, Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.models.var import VAR, VARConfig
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.multiscale_vqvae import VAR256, VAR512, MultiScaleConfig, MultiScaleVQVAE
from smalti.tokenizers.quantize.multiscale import pyramid

NAME = "VAR"

FID = Sampling.of(guidance=2.5, schedule="linear", top_k=900, top_p=0.96)
"""The published evaluation of every size; upstream's cfg of 1.5 is a guidance of 1 + 1.5."""

Scales = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class VARFiles:
    """A tokenizer and a transformer of VAR as a pipeline; without --model, the tokenizer alone.

    smalti convert var --tokenizer vae_ch160v4096z32.pth --model var_d16.pth --out var-d16
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .pth, .pt or .safetensors; or one of the official trainer."""
    model: Path | None = None
    """Checkpoint of the transformer, likewise."""
    scales: tuple[int, ...] = ()
    """Sides of the grids of codes, coarse to fine; default: what the transformer says; of a
    tokenizer alone, those for 256 pixels."""
    heads: int | None = None
    """Attention heads; needed where attention is not l2-normalised and the width not 64 x depth."""
    l2_norm: bool = False
    """Whether the tokenizer compares directions (upstream: using_znorm); no published one does."""
    quant_resi: float = MultiScaleConfig.phi_ratio
    """Share of the convolutions behind the codebook in what they give, 0 to 1; all published
    tokenizers have the default."""
    norm_eps: float = VARConfig.norm_eps
    """Epsilon of the transformer's norms; all published ones have the default."""
    dtype: Dtype = "stored"
    """Of the transformer's weights in the pipeline."""


# -- configurations


def vae_sizes(checkpoint: Checkpoint, scales: Scales) -> MultiScaleConfig:
    """The config of a tokenizer's checkpoint, for images that have these scales.

    Raises ValueError if the tensors are not those of VAR's tokenizer.
    """

    def size(name: str, axes: int = 4) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    channels = size("encoder.conv_in.weight")[0]
    vocab, dim = size("quantize.embedding.weight", 2)
    levels = count(checkpoint, "encoder.down.")
    widths = [size(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    factor, (height, width) = 2 ** max(levels - 1, 0), scales[-1]
    shared = "quantize.quant_resi.qresi_ls."
    phis = count(checkpoint, shared) or count(checkpoint, "quantize.quant_resi.")
    return MultiScaleConfig(
        size=(height * factor, width * factor),
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=count(checkpoint, "encoder.down.0.block."),
        scales=scales,
        vocab=vocab,
        dim=dim,
        phis=phis,
        kernel=size("quant_conv.weight")[-1],
        attention="encoder.mid.attn_1.qkv.weight" in checkpoint.state,
    )


def var_sizes(checkpoint: Checkpoint, scales: Scales, heads: int | None = None) -> VARConfig:
    """The config of a transformer's checkpoint.

    `heads` is needed where neither the tensors nor the rule of the published sizes, 64 x depth,
    tell them. Raises ValueError if they do not, or if the tensors are not those of VAR.
    """

    def size(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    rows, dim = size("class_emb.weight", 2)
    layers = count(checkpoint, "blocks.")
    scaled = "blocks.0.attn.scale_mul_1H11"
    told = layers if dim == 64 * layers else None
    if l2_norm := scaled in checkpoint.state:
        told = size(scaled, 4)[1]
        if heads not in (None, told):
            raise ValueError(f"{checkpoint.path} has {told} heads, got --heads {heads}")
    if not (heads := heads or told):
        raise ValueError(f"{checkpoint.path} does not say its heads: give --heads")
    return VARConfig(
        scales=scales,
        vocab=size("head.weight", 2)[0],
        latent=size("word_embed.weight", 2)[1],
        classes=rows - 1,
        layers=layers,
        heads=heads,
        dim=dim,
        mlp_ratio=size("blocks.0.ffn.fc1.weight", 2)[0] / dim,
        shared_adaln="shared_ada_lin.1.weight" in checkpoint.state,
        l2_norm=l2_norm,
        drop_path=0.1 * layers / 24,  # as upstream trains every size
    )


def scales_of(checkpoint: Checkpoint, given: Sequence[int] = ()) -> Scales:
    """The scales of a transformer's checkpoint: as given, or of its buffer of levels, or the
    published ones of as many codes.

    Raises ValueError if they are not as many codes as the transformer has, or cannot be told.
    """
    positions = shape(checkpoint, "pos_1LC", 3, NAME)[1]
    known = {sum(h * w for h, w in scales): scales for scales in (VAR256, VAR512)}
    if given:
        found = squares(given)
    elif (levels := checkpoint.state.get("lvl_1L")) is not None:
        found = _levels(checkpoint, levels)
    elif positions in known:
        found = known[positions]
    else:
        raise ValueError(f"{checkpoint.path} does not say the scales of its codes: give --scales")
    codes = sum(h * w for h, w in found)
    if codes != positions:
        sides = " ".join(str(h) for h, _ in found)
        raise ValueError(
            f"{checkpoint.path} has {positions} codes, scales of sides {sides} have {codes}"
        )
    return found


def squares(sides: Sequence[int]) -> Scales:
    """Square grids. Raises ValueError unless the sides ascend from 1 or more."""
    if sides[0] < 1 or list(sides) != sorted(set(sides)):
        raise ValueError(f"--scales must ascend from 1 or more, got {' '.join(map(str, sides))}")
    return pyramid(*sides)


def _levels(checkpoint: Checkpoint, levels: Tensor) -> Scales:
    """The grids of a buffer that has the number of its scale for each code."""
    counts = levels.flatten().unique_consecutive(return_counts=True)[1].tolist()
    sides = [math.isqrt(count) for count in counts]
    if [side * side for side in sides] != counts:
        raise ValueError(f"{checkpoint.path}: scales of {counts} codes are no squares")
    return pyramid(*sides)


# -- names

VAE_RENAMES = (
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
    (".down.", ".conv_blocks."),
    (".up.", ".conv_blocks."),
    (".block.", ".res."),
    ("quant_resi.qresi_ls.", "phi."),
    ("quant_resi.qresi.", "phi.0."),
    ("quant_resi.", "phi."),
)
"""Parts of official names and of ours, tried in this order."""


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one, without the count of used codes."""
    levels = [int(name.split(".")[2]) for name in state if name.startswith("decoder.up.")]
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "quantize.ema_vocab_hit_SV":
            continue
        parts = name.split(".")
        if parts[:2] == ["decoder", "up"]:
            parts[2] = str(max(levels) - int(parts[2]))
        name = ".".join(parts)
        for official, own in VAE_RENAMES:
            name = name.replace(official, own)
        if ".qkv." in name:
            for own, part in zip("qkv", tensor.chunk(3), strict=True):
                ours[name.replace(".qkv.", f".{own}.")] = part
        else:
            ours[name] = tensor
    return ours


RENAMES = (
    ("class_emb.", "cls_embedding."),
    ("lvl_embed.", "scale_embedding."),
    ("pos_1LC", "pos"),
    ("pos_start", "start_pos"),
    (".attn.mat_qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".attn.scale_mul_1H11", ".attention.log_scale"),
    (".attn.", ".attention."),
    (".ffn.fc1.", ".feed_forward.w1."),
    (".ffn.fc2.", ".feed_forward.w2."),
    ("shared_ada_lin.1.", "shared_adaln."),
    ("head_nm.ada_lin.1.", "adaln."),
    (".ada_lin.1.", ".adaln."),
    (".ada_gss", ".constants"),
    ("blocks.", "layers."),
)
"""Parts of official names and of ours, in this order."""

CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
"""Buffers that follow from the settings."""


def var_state(state: Mapping[str, Tensor], tokenizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one and of our tokenizer's, whose quantizer the model keeps."""
    ours = {name: t for name, t in tokenizer.items() if name.startswith("quantize.")}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in CONSTANTS:
            continue
        for _ in range(leading(name)):
            tensor = tensor.squeeze(0)
        ours[renamed(name)] = tensor
    return ours


def leading(name: str) -> int:
    """How many leading axes of size 1 an official tensor has that ours has not."""
    ones = {"pos_1LC": 1, "pos_start": 1, "scale_mul_1H11": 1, "ada_gss": 2}
    return ones.get(name.rpartition(".")[2], 0)


def renamed(name: str) -> str:
    """Our name of an official one."""
    if name.startswith("head."):
        return name.replace("head.", "head.proj.")
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name


# -- the record


def _tokenizer(checkpoint: Checkpoint, options: VARFiles) -> MultiScaleConfig:
    config = vae_sizes(checkpoint, squares(options.scales) if options.scales else VAR256)
    return replace(config, l2_norm=options.l2_norm, phi_ratio=abs(options.quant_resi))


def _transformer(checkpoint: Checkpoint, options: VARFiles, codes: MultiScaleConfig) -> VARConfig:
    config = var_sizes(checkpoint, scales_of(checkpoint, options.scales), options.heads)
    quantizer = {"phis": codes.phis, "phi_ratio": codes.phi_ratio}
    return replace(config, norm_eps=options.norm_eps, **quantizer)


def _fit(codes: MultiScaleConfig, config: VARConfig) -> MultiScaleConfig:
    height, width = config.scales[-1]
    size = (height * codes.factor, width * codes.factor)
    return replace(codes, scales=config.scales, size=size)


TOKENIZER = Part(
    title="a VAR tokenizer",
    marks=("quantize.quant_resi.",),
    module=MultiScaleVQVAE,
    config=_tokenizer,
    state=lambda state, *_: vae_state(state),
    inside="vae_local",
)

MODEL = Part(
    title="a VAR transformer",
    marks=("lvl_embed.", "class_emb."),
    lacks=("text_proj_for_sos.",),
    module=VAR,
    config=_transformer,
    state=lambda state, _, tokenizer: var_state(state, tokenizer.state_dict()),
)

PROJECT = Project(
    options=VARFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, *_: codes,
    model=MODEL,
    fit=_fit,
    sampling=lambda config: FID,
    repositories={
        "FoundationVision/var": Repository(
            ("vae_ch160v4096z32.pth",),
            ("var_d16.pth", "var_d20.pth", "var_d24.pth", "var_d30.pth", "var_d36.pth"),
        )
    },
)

"""VAR's released files as pipelines, and where on the hub they are.

FoundationVision/var publishes a tokenizer and transformers as .pth files, bare state dicts. A
checkpoint of the official trainer holds both; give it twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from smalti.interop.files import Dtype, Repository, dtype_of, save_pipeline, save_tokenizer
from smalti.interop.kinds import VAR as KIND
from smalti.interop.kinds import VAR_VQ, expect
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.shapes import count, shape
from smalti.interop.var import vae_state, var_state
from smalti.models.var import VAR, VARConfig
from smalti.pipeline import Pipeline
from smalti.settings import Sampling
from smalti.storage import assemble
from smalti.tokenizers.multiscale_vqvae import VAR256, VAR512, MultiScaleConfig, MultiScaleVQVAE
from smalti.tokenizers.quantize.multiscale import pyramid

PROJECT = "VAR"

REPOSITORIES = {
    "FoundationVision/var": Repository(
        ("vae_ch160v4096z32.pth",),
        ("var_d16.pth", "var_d20.pth", "var_d24.pth", "var_d30.pth", "var_d36.pth"),
    )
}

FID = Sampling(guidance=2.5, schedule="linear", top_k=900, top_p=0.96)
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


def convert(files: VARFiles, out: Path, source: str) -> None:
    """Write the pipeline of two checkpoints, or the tokenizer of one, as the folder `out`.

    `source` says where the files are from. Raises ValueError naming the file, or the option, that
    does not fit.
    """
    model = files.model
    if model is None:
        save_tokenizer(lambda: _tokenizer(files, VAR256), out, source, files.tokenizer)
    else:
        save_pipeline(lambda: _pipeline(files, model), out, source, files.tokenizer, model)


def _tokenizer(files: VARFiles, scales: Scales) -> MultiScaleVQVAE:
    """The tokenizer, for the scales of the options or else for these."""
    checkpoint = expect(read_checkpoint(files.tokenizer, part="vae_local"), VAR_VQ)
    config = vae_sizes(checkpoint, squares(files.scales) if files.scales else scales)
    config = replace(config, l2_norm=files.l2_norm, phi_ratio=abs(files.quant_resi))
    state = vae_state(checkpoint.state)
    return assemble(MultiScaleVQVAE, config, state, str(files.tokenizer), torch.float32)


def _pipeline(files: VARFiles, path: Path) -> Pipeline:
    checkpoint = expect(read_checkpoint(path), KIND)
    scales = scales_of(checkpoint, files.scales)
    tokenizer = _tokenizer(files, scales)
    codes = tokenizer.config
    config = var_sizes(checkpoint, scales, files.heads)
    config = replace(config, phis=codes.phis, phi_ratio=codes.phi_ratio, norm_eps=files.norm_eps)
    state = var_state(checkpoint.state, tokenizer.state_dict())
    model = assemble(VAR, config, state, str(path), dtype_of(files.dtype))
    return Pipeline(tokenizer, model, sampling=FID)


def vae_sizes(checkpoint: Checkpoint, scales: Scales) -> MultiScaleConfig:
    """The config of a tokenizer's checkpoint, for images that have these scales.

    Raises ValueError if the tensors are not those of VAR's tokenizer.
    """

    def size(name: str, axes: int = 4) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, PROJECT)

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
        return shape(checkpoint, name, axes, PROJECT)

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
    positions = shape(checkpoint, "pos_1LC", 3, PROJECT)[1]
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

"""MAR (LTH14/mar).

It publishes KL-16 and three generators by Dropbox links, none on the hub: state dicts of the model
and of its moving average. The copies in jadechoghari/mar are the generators as trained, not their
moving average, which upstream draws with: a measurable loss. Only its older revision 773c9bd has an
original file, of MAR-B.

Names of the KL-VAE are those of VAR's tokenizer, but for the attention, which has separate
convolutions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, sized
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype, pair
from smalti.interop.tensor_shapes import count, option, shape
from smalti.models.mar import MAR, SIZES, MARConfig
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.kl_vae import KLVAE, KLVAEConfig, kl16

NAME = "MAR"

GUIDANCE = {"B": 2.9, "L": 3.0, "H": 3.2}
"""Of the published evaluation, rising linearly with the share of the codes that are drawn."""

HEADS = {size["dim"]: size["heads"] for size in SIZES.values()}
"""Attention heads of the published widths."""


def fid_sampling(size: str, positions: int = 256) -> Sampling:
    """How a published size was drawn for its FID, in no more steps than there are positions."""
    steps = min(256, positions)
    return Sampling.of(guidance=GUIDANCE[size], schedule="linear", steps=steps)


@dataclass(frozen=True)
class MARFiles:
    """A KL-VAE and a generator of MAR as a pipeline; without --model, the tokenizer alone.

    smalti convert mar --tokenizer kl16.ckpt --model checkpoint-last.pth --out mar-b
    """

    tokenizer: Path
    """Checkpoint of the KL-VAE: .ckpt, .pth or .safetensors."""
    model: Path | None = None
    """Checkpoint of the generator, likewise."""
    weights: Literal["ema", "model"] | None = None
    """The moving average, which upstream's sampler uses, or the weights as trained; default: the
    average where the file has one."""
    scale: float | None = None
    """What latents are multiplied by, one over their standard deviation; no file has it: needed
    unless the tokenizer is of the published size, whose scale is 0.2325."""
    heads: int | None = None
    """Attention heads; needed for widths that were never published."""
    decoder_heads: int | None = None
    """The same of the decoder; default: as the encoder's, if it is as wide."""
    norm_eps: float = MARConfig.norm_eps
    """Epsilon of the norms of encoder and decoder; all published generators have the default."""
    size: str = ""
    """Pixels of an image of a tokenizer alone, 256 (the default) or height x width, 256x384."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


def sampling(config: MARConfig) -> Sampling:
    """The published evaluation of a size; that of L for sizes without one."""
    found = "L"
    for name, size in SIZES.items():
        if all(getattr(config, field) == value for field, value in size.items()):
            found = name
    return fid_sampling(found, config.spec.positions)


# -- configurations


def vae_sizes(checkpoint: Checkpoint, scale: float | None = None) -> KLVAEConfig:
    """The config of a KL-VAE's checkpoint, for images of a single latent.

    Raises ValueError if the tensors are not those of a KL-VAE, or the scale cannot be told.
    """

    def size(name: str) -> tuple[int, ...]:
        return shape(checkpoint, name, 4, "MAR's KL-VAE")

    def widths(part: str) -> tuple[int, ...]:
        levels = range(count(checkpoint, f"{part}."))
        return tuple(size(f"{part}.{i}.block.0.conv1.weight")[0] // channels for i in levels)

    channels = size("encoder.conv_in.weight")[0]
    encoder, decoder = widths("encoder.down"), widths("decoder.up")
    factor = 2 ** max(len(encoder) - 1, 0)
    config = KLVAEConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=encoder,
        decoder_multipliers=() if decoder == encoder else decoder,
        blocks=count(checkpoint, "encoder.down.0.block."),
        latent=size("post_quant_conv.weight")[1],
        attention="encoder.mid.attn_1.q.weight" in checkpoint.state,
        attention_at=tuple(
            2**i
            for i in range(len(encoder))
            if f"encoder.down.{i}.attn.0.q.weight" in checkpoint.state
        ),
    )
    published = kl16()
    told = config.multipliers == published.multipliers  # and so images that it can be of
    told = told and config == replace(published, size=config.size, scale=config.scale)
    if scale is None and not told:
        raise ValueError(
            f"{checkpoint.path} does not hold the scale of its latents: give --scale, one over "
            f"their standard deviation (for the published KL-16 it is {published.scale})"
        )
    return replace(config, scale=published.scale if scale is None else scale)


def group(checkpoint: Checkpoint, channels: int, latent: int) -> int:
    """How many latents in a row make one code. Raises ValueError if none fits its channels."""
    side = math.isqrt(channels // latent)
    if latent * side**2 != channels:
        raise ValueError(
            f"{checkpoint.path} draws codes of {channels} channels, the tokenizer has {latent}"
        )
    return side


def mar_sizes(
    checkpoint: Checkpoint, heads: int | None = None, decoder_heads: int | None = None
) -> MARConfig:
    """The config of a generator's checkpoint.

    Heads are needed for widths that were never published. Raises ValueError if they are missing, or
    if the tensors are not those of MAR.
    """

    def size(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    dim, channels = size("z_proj.weight", 2)
    decoder_dim = size("decoder_embed.weight", 2)[0]
    positions = size("diffusion_pos_embed_learned", 3)[1]
    for name, axes in (("fake_latent", 2), ("mask_token", 3), ("decoder_pos_embed_learned", 3)):
        size(name, axes)
    side = math.isqrt(positions)
    if side * side != positions:
        raise ValueError(f"{checkpoint.path} has {positions} codes, which are no square")
    heads = heads or _published(checkpoint, dim, "--heads")
    if decoder_heads is None:
        same = decoder_dim == dim
        decoder_heads = heads if same else _published(checkpoint, decoder_dim, "--decoder-heads")
    return MARConfig(
        grid=(side, side),
        channels=channels,
        classes=size("class_emb.weight", 2)[0],
        encoder_layers=count(checkpoint, "encoder_blocks."),
        decoder_layers=count(checkpoint, "decoder_blocks."),
        heads=heads,
        dim=dim,
        decoder_heads=0 if decoder_heads == heads else decoder_heads,
        decoder_dim=0 if decoder_dim == dim else decoder_dim,
        mlp_ratio=size("encoder_blocks.0.mlp.fc1.weight", 2)[0] / dim,
        buffer=size("encoder_pos_embed_learned", 3)[1] - positions,
        dropout=option(checkpoint, "proj_dropout", MARConfig.dropout),
        attention_dropout=option(checkpoint, "attn_dropout", MARConfig.attention_dropout),
        head=DiffusionConfig(
            depth=count(checkpoint, "diffloss.net.res_blocks."),
            width=size("diffloss.net.input_proj.weight", 2)[0],
            repeat=option(checkpoint, "diffusion_batch_mul", DiffusionConfig.repeat),
        ),
    )


def _published(checkpoint: Checkpoint, dim: int, name: str) -> int:
    """The heads of a published width."""
    if dim not in HEADS:
        raise ValueError(f"{checkpoint.path}: no published model is {dim} wide; give {name}")
    return HEADS[dim]


# -- names

RENAMES = (
    ("coder_blocks.", "coder.layers."),
    ("coder_norm.", "coder.norm."),
    (".attn.qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".mlp.fc1.", ".feed_forward.w1."),
    (".mlp.fc2.", ".feed_forward.w2."),
    ("z_proj_ln.", "z_norm."),
    ("diffloss.net.", "head."),
    ("time_embed.mlp.0.", "time_embed.w1."),
    ("time_embed.mlp.2.", "time_embed.w2."),
    (".res_blocks.", ".blocks."),
    (".in_ln.", ".norm."),
    (".mlp.0.", ".w1."),
    (".mlp.2.", ".w2."),
    (".final_layer.linear.", ".out."),
    (".final_layer.", "."),
    (".adaLN_modulation.1.", ".adaln."),
)
"""Parts of official names and of ours, tried in this order."""

TABLES = {
    "encoder_pos_embed_learned": "encoder_pos",
    "decoder_pos_embed_learned": "decoder_pos",
    "diffusion_pos_embed_learned": "head_pos",
    "mask_token": "mask_token",
}
"""Stored with an axis for the batch, which ours lack."""


def mar_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one. Raises KeyError for a name that is missing."""
    state = dict(state)
    classes = (state.pop("class_emb.weight"), state.pop("fake_latent"))
    ours = {"cls_embedding.weight": torch.cat(classes)}
    ours |= {our: state.pop(name)[0] for name, our in TABLES.items()}
    return ours | {renamed(name): tensor for name, tensor in state.items()}


def renamed(name: str) -> str:
    """Our name of an official one."""
    for theirs, our in RENAMES:
        name = name.replace(theirs, our)
    return name


def kl_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one, without the weights of its training losses."""
    return vae_state({k: t for k, t in state.items() if not k.startswith("loss.")})


# -- the record


def _generator(checkpoint: Checkpoint, options: MARFiles, codes: KLVAEConfig) -> MARConfig:
    if options.size:
        raise ValueError(
            f"--size is of a tokenizer alone, got {options.size} beside --model {checkpoint.path}"
        )
    config = mar_sizes(checkpoint, options.heads, options.decoder_heads)
    group(checkpoint, config.channels, codes.latent)
    if not checkpoint.averaged and options.weights is None:
        warnings.warn(
            f"{checkpoint.path} has no moving average of the weights, with which MAR draws better "
            "pictures",
            stacklevel=2,
        )
    return replace(config, norm_eps=options.norm_eps)


def _fit(codes: KLVAEConfig, config: MARConfig) -> KLVAEConfig:
    side = math.isqrt(config.channels // codes.latent)
    return sized(replace(codes, group=side, size=tuple(side * s for s in codes.size)), config.grid)


TOKENIZER = Part(
    title="a KL-VAE",
    marks=("encoder.down.", "decoder.up.", "quant_conv.", "post_quant_conv."),
    lacks=("quantize",),
    module=KLVAE,
    config=lambda checkpoint, options: vae_sizes(checkpoint, options.scale),
    state=lambda state, *_: kl_state(state),
)

MODEL = Part(
    title="a MAR generator",
    marks=("encoder_pos_embed_learned", "diffloss."),
    module=MAR,
    config=_generator,
    state=lambda state, *_: mar_state(state),
)

PROJECT = Project(
    options=MARFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, _, options: sized(
        codes, pair("--size", options.size or "256", codes.factor)
    ),
    model=MODEL,
    fit=_fit,
    sampling=sampling,
)

"""HART (mit-han-lab/hart).

mit-han-lab/hart-0.7b-1024px publishes folders of `transformers`: `tokenizer/`, whose weights are a
VAR tokenizer's under "vae." beside a discriminator's, and `llm/`, where `ema_model.bin` is what is
drawn with and `config.json` says what no tensor does. The tokenizer's attention has one convolution
for queries, keys and values, which we split; its decoder is stored shallow first, ours deepest
first. A second decoder, for latents of codes alone, is not taken over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.config import read_json
from smalti.heads.diffusion import DiffusionConfig
from smalti.interop.pickles import Checkpoint, read_checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects import mar, var
from smalti.interop.saved import Dtype, Repository
from smalti.interop.tensor_shapes import count, option, shape
from smalti.models.hart import HART, HARTConfig
from smalti.pipeline.sampling import Sampling
from smalti.text.language_model import LanguageModel, LanguageModelConfig
from smalti.tokenizers.hart_vae import HART1024, HARTVAE, HARTVAEConfig
from smalti.tokenizers.quantize.multiscale import pyramid

NAME = "HART"
CFG = 4.5
"""How far upstream's script leads away from no text at the last scale."""


@dataclass(frozen=True)
class HARTFiles:
    """A tokenizer and a transformer of HART as a pipeline; without --model, the tokenizer alone.

    smalti convert hart --tokenizer hart-0.7b-1024px/tokenizer --model hart-0.7b-1024px/llm \\
        --out hart-0.7b
    """

    tokenizer: Path
    """Folder or checkpoint of the tokenizer: .bin, .pth or .safetensors."""
    model: Path | None = None
    """Folder or checkpoint of the transformer; of a folder the moving average, where it has one."""
    scales: tuple[int, ...] = ()
    """Sides of the grids of codes, coarse to fine; default: what the transformer says; of a
    tokenizer alone, those for 1024 pixels."""
    heads: int | None = None
    """Attention heads; needed where attention is not l2-normalised and no config.json says it."""
    pool: Literal["avg", "max"] | None = None
    """How words are pooled for the layers; default: what config.json says, or avg."""
    quant_resi: float = HARTVAEConfig.phi_ratio
    """Share of the convolutions behind the codebook in what they give, 0 to 1."""
    text: str = LanguageModelConfig.model
    """Hub id or folder of the language model that reads texts."""
    instruction: str = ""
    """What stands before every text; upstream's script has an instruction to describe pictures."""
    dtype: Dtype = "stored"
    """Of the transformer's weights in the pipeline."""


def read(path: Path, weights: str, part: str) -> Checkpoint:
    """A checkpoint, with the options of the config.json in its folder, if there is one."""
    about = (path if path.is_dir() else path.parent) / "config.json"
    found = read_checkpoint(path, weights, part)
    return found._replace(args=read_json(about)) if about.is_file() else found


# -- configurations


def vae_sizes(checkpoint: Checkpoint, options: HARTFiles) -> HARTVAEConfig:
    """The config of a tokenizer's checkpoint. Raises ValueError if the tensors are not those of
    HART's tokenizer."""
    scales = var.squares(options.scales) if options.scales else HART1024
    found = var.vae_sizes(checkpoint, scales)
    normed = option(checkpoint, "using_znorm", found.l2_norm)
    plain = replace(found, l2_norm=normed, phi_ratio=abs(options.quant_resi))
    return HARTVAEConfig(**{f.name: getattr(plain, f.name) for f in fields(plain)})


def model_sizes(checkpoint: Checkpoint, options: HARTFiles, codes: HARTVAEConfig) -> HARTConfig:
    """The config of a transformer's checkpoint, for codes of the tokenizer. Raises ValueError if
    its tensors are not those of HART, or if neither they nor config.json nor options tell all."""

    def size(name: str, axes: int = 2) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    dim, width = size("context_embed.weight")
    vocab, latent = size("head.weight")[0], size("word_embed.weight")[1]
    if (vocab, latent) != (codes.vocab, codes.dim):
        raise ValueError(
            f"{checkpoint.path} predicts {vocab} codes of {latent} dimensions, the tokenizer has "
            f"{codes.vocab} of {codes.dim}"
        )
    length, scales = text_and_scales(checkpoint, options)
    return HARTConfig(
        scales=scales,
        vocab=vocab,
        latent=latent,
        phis=codes.phis,
        phi_ratio=codes.phi_ratio,
        text_length=length,
        text_dim=width,
        text_norm="context_norm.weight" in checkpoint.state,
        layers=count(checkpoint, "blocks."),
        heads=heads_of(checkpoint, options.heads),
        dim=dim,
        pool=options.pool or pooling(checkpoint),
        waves="lvl_embed.mlp.0.weight" in checkpoint.state,
        norm_eps=option(checkpoint, "norm_eps", HARTConfig.norm_eps),
        dropout=option(checkpoint, "drop_rate", HARTConfig.dropout),
        drop_path=option(checkpoint, "drop_path_rate", HARTConfig.drop_path),
        head=DiffusionConfig(
            depth=count(checkpoint, "diffloss.net.res_blocks."),
            width=size("diffloss.net.input_proj.weight")[0],
            repeat=option(checkpoint, "diffusion_batch_mul", DiffusionConfig.repeat),
            clip=1.0,
        ),
        **layer_kinds(checkpoint, dim),
    )


def layer_kinds(checkpoint: Checkpoint, dim: int) -> dict[str, Any]:
    """What the tensors of the first layer say of all."""
    has = {
        name.removeprefix("blocks.0.") for name in checkpoint.state if name.startswith("blocks.0")
    }
    swiglu = "ffn.gate_proj.weight" in has
    name = f"blocks.0.ffn.{'gate_proj' if swiglu else 'fc1'}.weight"
    inner = shape(checkpoint, name, 2, NAME)[0]
    shared = "shared" if "scale_shift_table" in has else "none"
    return {
        "mlp_ratio": (1.5 if swiglu else 1.0) * inner / dim,
        "multiple_of": 256 if swiglu and inner % 256 == 0 else 1,
        "feed_forward": "swiglu" if swiglu else "gelu",
        "adaln": "own" if "ada_lin.1.weight" in has else shared,
        "cross": "cross_attn.q_linear.weight" in has,
        "l2_norm": "attn.scale_mul_1H11" in has,
    }


def pooling(checkpoint: Checkpoint) -> Literal["avg", "max"]:
    """What config.json says. Raises ValueError for another kind."""
    found: Any = option(checkpoint, "sep_aln_pooling_mode", "avg")
    if found not in ("avg", "max"):
        raise ValueError(f"{checkpoint.path}: words are pooled by avg or max, got {found!r}")
    return found


def heads_of(checkpoint: Checkpoint, given: int | None) -> int:
    """Attention heads. Raises ValueError if nothing says how many, or something else than given."""
    scaled = checkpoint.state.get("blocks.0.attn.scale_mul_1H11")
    told = option(checkpoint, "num_heads", 0) if scaled is None else scaled.numel()
    if told and given not in (None, told):
        raise ValueError(f"{checkpoint.path} has {told} heads, got --heads {given}")
    if not (heads := given or told):
        raise ValueError(f"{checkpoint.path} does not say its heads: give --heads")
    return heads


def text_and_scales(checkpoint: Checkpoint, options: HARTFiles) -> tuple[int, var.Scales]:
    """Words of a text, and grids, by the buffer that has the number of its scale for each position:
    the words have 0. Raises ValueError if it lacks, or if scales are given that are others."""
    levels = checkpoint.state.get("lvl_1L")
    if levels is None:
        raise ValueError(f"{checkpoint.path} is no such file of {NAME}: it has no lvl_1L")
    length, *counts = levels.flatten().bincount().tolist()
    sides = [1, *(math.isqrt(n) for n in counts)]
    if [side * side for side in sides[1:]] != counts:
        raise ValueError(f"{checkpoint.path}: scales of {counts} codes are no squares")
    if options.scales and list(options.scales) != sides:
        given, own = (" ".join(map(str, s)) for s in (options.scales, sides))
        raise ValueError(f"{checkpoint.path} has scales of sides {own}, got --scales {given}")
    return length, pyramid(*sides)


# -- names

RENAMES = (
    ("context_embed.", "text_proj."),
    ("context_norm.", "text_norm."),
    ("decoder_norm.", "head.norm."),
    ("lvl_embed.mlp.0.", "scale_embedding.w1."),
    ("lvl_embed.mlp.2.", "scale_embedding.w2."),
    ("lvl_embed.", "scale_embedding."),
    ("head_nm.ada_lin.1.", "adaln."),
    ("head_nm.ln_wo_grad.", "norm."),
    ("head.weight", "head.proj.weight"),
    ("head.bias", "head.proj.bias"),
)
"""Beginnings of official names and of ours."""

LAYER = (
    (".attn.qkv_proj.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".attn.scale_mul_1H11", ".attention.log_scale"),
    (".attn.", ".attention."),
    (".cross_attn.q_linear.", ".cross.wq."),
    (".cross_attn.kv_linear.", ".cross.wkv."),
    (".cross_attn.proj.", ".cross.wo."),
    (".ffn.gate_proj.", ".feed_forward.w1."),
    (".ffn.up_proj.", ".feed_forward.w3."),
    (".ffn.down_proj.", ".feed_forward.w2."),
    (".ffn.fc1.", ".feed_forward.w1."),
    (".ffn.fc2.", ".feed_forward.w2."),
    (".ada_lin.1.", ".adaln."),
    (".ln_wo_grad.", ".norm."),
    (".scale_shift_table", ".constants"),
)
"""Parts of official names of a layer and of ours; the first that fits."""


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one, without its second decoder; no file says how large rests
    are, only the transformer's code."""
    second = ("decoder2.", "post_quant_conv2.")
    ours = var.vae_state({n: t for n, t in state.items() if not n.startswith(second)})
    return ours | {"quantize.rest_std": torch.tensor(HARTConfig.rest_scale)}


def model_state(state: Mapping[str, Tensor], tokenizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one and of our tokenizer's, whose quantizer the model keeps."""
    ours = {name: t for name, t in tokenizer.items() if name.startswith("quantize.")}
    for name, tensor in state.items():
        if name.rpartition(".")[2] in var.CONSTANTS:
            continue
        ours[renamed(name)] = tensor.squeeze(0) if name.endswith("scale_mul_1H11") else tensor
    return ours


def renamed(name: str) -> str:
    """Our name of an official one."""
    if name.startswith("diffloss."):
        return mar.renamed(name).replace("head.", "head.diffusion.", 1)
    if not name.startswith("blocks."):
        fits = (
            ours + name.removeprefix(begin) for begin, ours in RENAMES if name.startswith(begin)
        )
        return next(fits, name)
    found = next(((a, b) for a, b in LAYER if a in name), ("", ""))
    return name.replace(*found, 1).replace("blocks.", "layers.", 1)


# -- the record


def drawn(config: HARTConfig) -> Sampling:
    """How upstream's script draws: guidance grows with the scales, but the last has that of the one
    before it."""
    finest = len(config.scales) - 1
    scales = tuple(1 + CFG * min(k, finest - 1) / finest for k in range(finest + 1))
    return Sampling.of(
        schedule="list", scales=scales, top_k=300, smooth=True, solver="ancestral", head_steps="8"
    )


def _fit(codes: HARTVAEConfig, config: HARTConfig) -> HARTVAEConfig:
    height, width = config.scales[-1]
    size = (height * codes.factor, width * codes.factor)
    return replace(codes, scales=config.scales, size=size)


def _text(config: HARTConfig, options: HARTFiles) -> LanguageModel:
    length, dim = config.text_length, config.text_dim
    return LanguageModel(LanguageModelConfig(options.text, length, dim, options.instruction))


TOKENIZER = Part(
    title="a HART tokenizer",
    marks=("quantize.quant_resi.",),
    module=HARTVAE,
    config=vae_sizes,
    state=lambda state, *_: vae_state(state),
    read=read,
)

MODEL = Part(
    title="a HART transformer",
    marks=("context_embed.", "diffloss.net."),
    module=HART,
    config=model_sizes,
    state=lambda state, _, tokenizer: model_state(state, tokenizer.state_dict()),
    read=read,
)

PROJECT = Project(
    options=HARTFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, *_: codes,
    model=MODEL,
    fit=_fit,
    sampling=drawn,
    text=_text,
    repositories={
        "mit-han-lab/hart-0.7b-1024px": Repository(
            ("tokenizer/model.safetensors", "tokenizer/pytorch_model.bin"),
            ("llm/ema_model.bin",),
            beside=("llm/config.json",),
        )
    },
)

"""Models that lucidrains/transfusion-pytorch trained (0.19.4, commit 3dab4c2).

None are released: these are files of one's own. A file holds the state dict of the model and, where
one was given to it, of what codes its pictures; here pictures are coded by a KL-VAE of latent
diffusion, of whose latents each is a vector of the model. Of models that know several kinds of
pictures, and of those with a U-Net of one's own before and behind the layers, files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size, words_of
from smalti.interop.projects.mar import TOKENIZER
from smalti.interop.saved import Dtype, pair
from smalti.interop.tensor_shapes import count, shape
from smalti.models.transfusion import Transfusion, TransfusionConfig
from smalti.models.transfusion_layers import CHARACTERS
from smalti.pipeline.conversation import Phrases
from smalti.pipeline.sampling import Sampling
from smalti.progress import say
from smalti.tokenizers.kl_vae import KLVAEConfig

NAME = "lucidrains' Transfusion"
MARKS = 6
"""Ids between words and characters, of models that know one kind of picture."""
CODERS = ("modality_encoder.", "modality_decoder.")
"""How names of tensors begin of what codes pictures, where a model was given it."""


@dataclass(frozen=True)
class TransfusionFiles:
    """A KL-VAE and a model of lucidrains' Transfusion; without --model, the tokenizer alone.

    smalti convert transfusion --tokenizer vae.ckpt --scale 0.18215 --model transfusion.pt \\
        --words tokenizer.json --size 256 --out transfusion
    """

    tokenizer: Path
    """Checkpoint of the KL-VAE whose latents the model learned: .ckpt, .pth or .safetensors."""
    model: Path | None = None
    """Checkpoint of the model, likewise."""
    words: Path | None = None
    """The text tokenizer, or its folder; default: tokenizer.json in the folder of the model."""
    weights: Literal["ema", "model"] | None = None
    """The moving average, or the weights as trained; default: the average where the file has
    one."""
    scale: float | None = None
    """What latents were multiplied by; no file has it: needed unless the KL-VAE is MAR's."""
    size: str = "256"
    """Pixels of an image: the model writes any, and draws this. 256 or height x width, 256x384."""
    cap: float = TransfusionConfig.cap
    """softcap_value of the model, which no file has."""
    clean: bool = False
    """model_output_clean of the model, which no file has."""
    dtype: Dtype = "stored"
    """Of the model's weights in the pipeline."""


# -- the configuration


def model_sizes(
    checkpoint: Checkpoint, grid: tuple[int, int], cap: float = 50.0, clean: bool = False
) -> TransfusionConfig:
    """The config of a model's checkpoint.

    Raises ValueError if the tensors are not those of such a model, or of one that is not known
    here.
    """

    def size(name: str, axes: int) -> tuple[int, ...]:
        return shape(checkpoint, name, axes, NAME)

    state, layer = checkpoint.state, "transformer.layers.0."
    vocab, dim = size("text_embed.weight", 2)
    if (kinds := count(checkpoint, "model_to_latent_projs.")) > 1:
        raise ValueError(f"{checkpoint.path} knows {kinds} kinds of pictures, here it is one")
    out = next((n for n in state if re.fullmatch(OUT, n)), None)
    if out is None:
        raise ValueError(f"{checkpoint.path} has layers of its own where a picture becomes vectors")
    head_dim = 2 * size("rotary_emb.freqs", 1)[0]
    inner, last = size(f"{layer}2.fn.net.3.weight", 2)[1], count(checkpoint, "transformer.layers.")
    usual = int(dim * TransfusionConfig.mlp_ratio * 2 / 3) == inner
    return TransfusionConfig(
        words=vocab - MARKS - CHARACTERS,
        channels=size(out, 2)[0],
        layers=last,
        heads=size(f"{layer}1.fn.to_v.0.weight", 2)[0] // head_dim,
        head_dim=head_dim,
        dim=dim,
        mlp_ratio=TransfusionConfig.mlp_ratio if usual else 1.5 * (inner + 0.5) / dim,
        skips=f"transformer.layers.{last - 1}.0.weight" in state,
        value_residual=f"{layer[:-2]}{last - 1}.1.fn.{MIX}.0.weight" in state,
        qk_norm=f"{layer}1.fn.q_norm.gamma" in state,
        cap=cap,
        gated=f"{layer}1.fn.to_gates.0.weight" in state,
        places=any(name.startswith("pos_emb_mlp.") for name in state),
        clean=clean,
        grid=grid,
    )


# -- names

OUT = r"model_to_latent_projs\.0\.(0\.)?weight"
"""The layer behind which vectors are a picture's, alone or before another that turns axes."""
MIX = "to_learned_value_residual"
RENAMES = (
    (r"^transformer\.layers\.(\d+)\.0\.", r"layers.\1.skip."),
    (rf"{MIX}\.", r"to_mix."),
    (r"\.fn\.to_(qk|v|gates|mix)\.0\.", r".fn.to_\1."),
    (r"^transformer\.layers\.(\d+)\.1\.fn\.to_out\.1\.", r"layers.\1.attention.to_out."),
    (r"^transformer\.layers\.(\d+)\.1\.fn\.", r"layers.\1.attention."),
    (r"^transformer\.layers\.(\d+)\.1\.", r"layers.\1.around_attention."),
    (r"^transformer\.layers\.(\d+)\.2\.fn\.net\.0\.", r"layers.\1.feed_forward.w1."),
    (r"^transformer\.layers\.(\d+)\.2\.fn\.net\.3\.", r"layers.\1.feed_forward.w2."),
    (r"^transformer\.layers\.(\d+)\.2\.", r"layers.\1.around_feed_forward."),
    (r"^transformer\.layers\.(\d+)\.3\.", r"layers.\1.mixture."),
    (r"^transformer\.to_time_cond\.0\.weights", "time.frequencies"),
    (r"^transformer\.to_time_cond\.1\.", "time.proj."),
    (r"^rotary_emb\.freqs", "frequencies"),
    (r"^transformer\.norm\.", "norm."),
    (r"^pos_emb_mlp\.0\.mlps\.0\.", "rows."),
    (r"^pos_emb_mlp\.0\.mlps\.1\.", "columns."),
    (r"^latent_to_model_projs\.0\.(1\.)?(?=weight|bias)", "latent_in."),
    (r"^model_to_latent_projs\.0\.(0\.)?(?=weight)", "latent_out."),
    (r"^text_embed\.", "tok_embeddings."),
    (r"^to_text_logits\.", "output."),
)
"""Patterns of upstream's names and ours, tried in this order."""


def model_state(state: Mapping[str, Tensor], config: TransfusionConfig) -> dict[str, Tensor]:
    """Our state dict of upstream's. What codes pictures is left out, which is said."""
    ours = dict[str, Tensor]()
    for name, tensor in state.items():
        if name.startswith(CODERS):
            continue
        for theirs, own in RENAMES:
            name = re.sub(theirs, own, name)
        ours[name] = tensor
    if "latent_in.weight" not in ours and config.channels == config.dim:  # nothing is there
        ours["latent_in.weight"] = torch.eye(config.dim)
        ours["latent_in.bias"] = torch.zeros(config.dim)
    if others := sum(name.startswith(CODERS) for name in state):
        say(f"{others} tensors of {CODERS[0]}* and {CODERS[1]}* are not used: pictures are coded "
            "by --tokenizer")  # fmt: skip
    return ours


# -- the record


def _model(
    checkpoint: Checkpoint, options: TransfusionFiles, codes: KLVAEConfig
) -> TransfusionConfig:
    grid = pair("--size", options.size, codes.factor)
    config = model_sizes(checkpoint, grid, options.cap, options.clean)
    if config.channels != codes.latent:
        raise ValueError(
            f"{checkpoint.path} draws vectors of {config.channels} numbers, latents of "
            f"{options.tokenizer} have {codes.latent}"
        )
    words = words_of(options)
    if words.vocab > config.words:
        raise ValueError(
            f"{checkpoint.path} knows {config.words} ids of text, the text tokenizer has "
            f"{words.vocab}"
        )
    return config


MODEL = Part(
    title="a model of lucidrains' Transfusion",
    marks=("transformer.to_time_cond.0.weights", "model_to_latent_projs.0.", "to_text_logits."),
    module=Transfusion,
    config=_model,
    state=lambda state, config, _: model_state(state, config),
)

PROJECT = Project(
    options=TransfusionFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: Sampling.of(guidance=3.0, solver="midpoint", head_steps="15"),
    phrases=Phrases(draw="{}", edit="{}"),
)

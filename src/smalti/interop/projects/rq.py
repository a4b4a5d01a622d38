"""RQ-VAE and RQ-Transformer (kakaobrain/rq-vae-transformer, commit 341395e).

Each tar.gz holds a tokenizer and the generator that learned its codes, in a folder each: a
`model.pt`, whose weights as trained and their moving average are under `state_dict` and
`state_dict_ema`, and a `config.yaml`, without which tensors do not tell the sizes: one table for
all depths is stored once for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.interop.bundles import CONFIG, read_bundle, told
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype
from smalti.tokenizers.rq_vae import RQVAE, RQVAEConfig

NAME = "RQ-VAE"
CODEBOOKS = "quantizer.codebooks."


@dataclass(frozen=True)
class RQFiles:
    """The tokenizer of RQ-Transformer, an RQ-VAE.

    smalti convert rq --tokenizer imagenet_480M.tar.gz --out rq-vae
    """

    tokenizer: Path
    """The tar, a folder of model.pt and config.yaml, or a model.pt with its config.yaml beside
    it."""
    weights: Literal["ema", "model"] = "model"
    """The moving average, or the weights as trained, which upstream draws with."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> RQVAEConfig:
    """The config of a tokenizer's checkpoint, for images of the size that it was trained with.

    Raises ValueError if it has no config.yaml, if that is not one of such a tokenizer, or if tables
    are others than it says or lack their padding.
    """
    arch = told(checkpoint).get("arch", checkpoint.args)
    where = f"{checkpoint.path} and its {CONFIG}"
    try:
        hparams = arch.get("hparams", arch)
        found = sizes(hparams, arch["ddconfig"] if "ddconfig" in arch else hparams["ddconfig"])
        tables(checkpoint.state, found.depth, found.vocab, found.shared)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} are not those of an {NAME} ({what})") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return found


def sizes(hparams: Mapping[str, Any], shape: Mapping[str, Any]) -> RQVAEConfig:
    """Our settings of official ones: those of the quantizer and of the convolutions.

    Raises ValueError for what our tokenizer does not have, KeyError if one is missing.
    """
    rows, columns, depth = hparams["code_shape"]
    kind, vocab, side = (
        hparams.get("bottleneck_type", "rq"),
        hparams["n_embed"],
        shape["resolution"],
    )
    if kind != "rq" or not isinstance(vocab, int):
        raise ValueError(f"bottleneck_type must be rq with one n_embed, got {kind!r}, {vocab}")
    if (shape["in_channels"], shape["out_ch"]) != (3, 3) or shape.get("double_z"):
        raise ValueError(f"in_channels and out_ch must be 3, without double_z, got {shape}")
    cells = hparams["latent_shape"][0] // rows
    if list(hparams["latent_shape"][:2]) != [cells * rows, cells * columns]:
        raise ValueError(
            f"code_shape must divide latent_shape {hparams['latent_shape']} by one number, "
            f"got {hparams['code_shape']}"
        )
    return RQVAEConfig(
        size=(side, side),
        channels=shape["ch"],
        multipliers=tuple(shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        latent=shape["z_channels"],
        vocab=vocab,
        dim=hparams["embed_dim"],
        depth=depth,
        shared=bool(hparams.get("shared_codebook", False)),
        cells=cells,
        attention_at=tuple(side // at for at in shape["attn_resolutions"]),
        dropout=shape.get("dropout", 0.0),
    )


# -- names


def tokenizer_state(state: Mapping[str, Tensor], config: RQVAEConfig) -> dict[str, Tensor]:
    """Our state dict of an official one, without its padding rows and the averages of its tables.

    Raises ValueError as `tables` does.
    """
    ours = vae_state({n: t for n, t in state.items() if not n.startswith(CODEBOOKS)})
    found = tables(state, config.depth, config.vocab, config.shared)
    ours["quantize.embedding.weight"] = torch.cat(found)
    return ours


def tables(state: Mapping[str, Tensor], depth: int, vocab: int, shared: bool) -> list[Tensor]:
    """Our tables of codes, of tensors "quantizer.codebooks.0.weight" and so on.

    Raises ValueError for tables of other sizes, or without the padding row, which is the last one;
    or if one that all depths share is not the same for all.
    """
    names = [f"{CODEBOOKS}{i}.weight" for i in range(depth)]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"each of {depth} depths must have a table, got no {missing[0]}")
    found = [state[name] for name in names]
    for name, rows in zip(names, found, strict=True):
        if rows.dim() != 2 or len(rows) != vocab + 1:
            raise ValueError(
                f"{name} must have {vocab + 1} rows, a padding row behind those of its "
                f"codes, got shape {tuple(rows.shape)}"
            )
    if not shared:
        return [rows[:-1] for rows in found]
    if other := [n for n, rows in zip(names, found, strict=True) if not rows.equal(found[0])]:
        raise ValueError(f"{other[0]} must be the shared table of all depths, got another")
    return [found[0][:-1]]


# -- the record


TOKENIZER = Part(
    title="an RQ-VAE",
    marks=("encoder.down.", CODEBOOKS),
    module=RQVAE,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, config, _: tokenizer_state(state, config),
    inside="stage1",
    read=read_bundle,
)


PROJECT = Project(
    options=RQFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, checkpoint, options: codes,
)

"""RQ-VAE and RQ-Transformer (kakaobrain/rq-vae-transformer, commit 341395e).

Each tar.gz holds a tokenizer and the generator that learned its codes, in a folder each: a
`model.pt`, whose weights as trained and their moving average are under `state_dict` and
`state_dict_ema`, and a `config.yaml`, without which tensors do not tell the sizes: one table for
all depths is stored once for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from smalti.interop.bundles import CONFIG, read_bundle, told
from smalti.interop.over_depth import BLOCK, fused, with_biases
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Dtype
from smalti.models.rq_transformer import RQTransformer, RQTransformerConfig
from smalti.nn.mlp import Gelu
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.rq_vae import RQVAE, RQVAEConfig

NAME = "RQ-VAE"
CODEBOOKS = "quantizer.codebooks."


@dataclass(frozen=True)
class RQFiles:
    """A tokenizer and a generator of RQ-Transformer as a pipeline; without --model, the tokenizer,
    an RQ-VAE, alone.

    smalti convert rq --tokenizer imagenet_480M.tar.gz --model imagenet_480M.tar.gz --out rq
    """

    tokenizer: Path
    """The tar, a folder of model.pt and config.yaml, or a model.pt with its config.yaml beside
    it."""
    model: Path | None = None
    """The same of the generator; one tar may hold both."""
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
        attention_at=attended(side, shape),
        dropout=shape.get("dropout", 0.0),
    )


def attended(side: int, shape: Mapping[str, Any]) -> tuple[int, ...]:
    """At which divisors of a side its levels attend: those whose cells are named."""
    factors = [2**level for level in range(len(shape["ch_mult"]))]
    return tuple(f for f in factors if side // f in (shape["attn_resolutions"] or ()))


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


# -- the generator


GELUS: dict[str, Gelu] = {"v1": "none", "v2": "sigmoid"}


def transformer_sizes(arch: Mapping[str, Any]) -> RQTransformerConfig:
    """Our settings of official ones, options that are not given at upstream's defaults. Those of
    the tokenizer's tables are left at ours.

    Raises ValueError for what our model does not have, KeyError if one is missing.
    """
    rows, columns, depth = arch["block_size"]
    vocab, text = arch["vocab_size"], arch.get("block_size_cond", 0) > 1
    vocabs = (vocab,) * depth if isinstance(vocab, int) else tuple(vocab)
    body, head = arch["body"], arch["head"]
    width, read = arch["embed_dim"], arch.get("head_emb_vqvae", False)
    block = layer_sizes([stack.get("block", {}) for stack in (body, head)])
    if any(arch.get(name) for name in ("use_padding_emb", "scaled_head_emb_vqvae")):
        raise ValueError("use_padding_emb and scaled_head_emb_vqvae must be off")
    seen = max(arch.get("vocab_size_cond", 0), 1)
    return RQTransformerConfig(
        grid=(rows, columns),
        vocab=max(vocabs),
        depth=depth,
        vocabs=vocabs if len(set(vocabs)) > 1 else (),
        classes=0 if text else seen,
        text_length=arch["block_size_cond"] if text else 0,
        text_vocab=seen if text else 0,
        text_weight=0.1 if text else 0.0,
        layers=body["n_layer"],
        head_layers=head["n_layer"],
        dim=width,
        code_dim=arch.get("input_embed_dim") or 1,
        body_vectors=arch.get("input_emb_vqvae", False),
        head_vectors=read,
        projected=read and arch.get("input_embed_dim") == width,
        sums=arch.get("cumsum_depth_ctx", False),
        shared_embedding=arch.get("shared_tok_emb", False),
        shared_classifier=arch.get("shared_cls_emb", False),
        **block,
        embedding_dropout=arch.get("embd_pdrop", 0.0),
    )


def layer_sizes(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Our settings of the layers of body and head. Raises ValueError as `gelu_of` does."""
    body, head = (block["n_head"] for block in blocks)
    return {
        "heads": body,
        "head_heads": head if head != body else 0,
        "gelu": gelu_of(blocks),
        "dropout": blocks[0].get("resid_pdrop", 0.1),
    }


def gelu_of(blocks: Sequence[Mapping[str, Any]]) -> Gelu:
    """The nonlinearity of layers. Raises ValueError if they have another one than each other or
    than ours."""
    gelus = {block.get("gelu", "v1") for block in blocks}
    if gelus not in ({"v1"}, {"v2"}):
        raise ValueError(f"body and head must have one gelu v1 or v2, got {sorted(gelus)}")
    return GELUS[gelus.pop()]


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.yaml says of a generator, whose number of codes may stand with the data."""
    arch, data = config.get("arch", config), config.get("dataset", {})
    return {**{n: v for n, v in data.items() if n == "vocab_size"}, **arch}


def generator_sizes(
    checkpoint: Checkpoint, options: Any, codes: RQVAEConfig
) -> RQTransformerConfig:
    """The config of a generator's checkpoint that draws the codes of a tokenizer.

    Raises ValueError if its config.yaml is none of such a generator, or is another tokenizer's.
    """
    where = f"{checkpoint.path} and its {CONFIG}"
    try:
        config = transformer_sizes(architecture(told(checkpoint)))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} are not those of an RQ-Transformer ({what})") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if (config.vocab, config.depth) != (codes.vocab, codes.depth):
        raise ValueError(
            f"{checkpoint.path} draws {config.depth} codes out of {config.vocab} at each position; "
            f"the tokenizer has {codes.depth} out of {codes.vocab}"
        )
    width = codes.dim * codes.cells**2
    if config.code_dim not in (1, width):
        raise ValueError(
            f"{checkpoint.path} reads code vectors of {config.code_dim} numbers; the tokenizer's "
            f"have {width}"
        )
    return replace(config, code_dim=width, shared_vectors=codes.shared)


NAMES = (
    ("body_transformer.blocks.", "layers."),
    ("head_transformer.blocks.", "head.layers."),
    ("classifier.layer_norm.", "head.norm."),
    ("cond_head.layer_norm.", "text_norm."),
    ("cond_head.linear.", "text_classifier."),
    ("input_mlp.", "code_mlp."),
    ("head_mlp.", "head.read."),
)
"""Parts of official names and of ours, in this order."""


def transformer_state(
    state: Mapping[str, Tensor], vectors: Tensor, config: RQTransformerConfig
) -> dict[str, Tensor]:
    """Our state dict of an official one and of the tokenizer's code vectors, (T * V, C)."""
    ours = dict[str, Tensor]()
    tied = config.head_vectors == config.body_vectors
    book = "book." if not tied and config.head_vectors else "head.seen."
    for name, tensor in fused(with_biases(state)).items():
        name = name.replace("cond_classifier.", "cond_head.")
        for theirs, own in (*BLOCK, *NAMES):
            name = name.replace(theirs, own)
        if name.startswith("classifier.linear."):
            ours |= classifiers(name.rpartition(".")[2], tensor, config)
        elif name.startswith("pos_emb_"):
            ours[POSITIONS[name]] = tensor[0]
        elif name == "cond_emb.weight":
            ours |= conditions(tensor, config)
        elif name == "tok_emb.weight":
            ours[f"{book}weight"] = tensor
        elif name != "tok_emb.offsets":
            ours[name] = tensor
    if config.head_vectors or config.body_vectors:
        ours[("head.seen." if config.head_vectors else "book.") + "vectors"] = vectors
    return ours


POSITIONS = {
    "pos_emb_cond": "prefix_positions",
    "pos_emb_hw": "positions",
    "pos_emb_d": "head.positions",
}


def classifiers(name: str, tensor: Tensor, config: RQTransformerConfig) -> dict[str, Tensor]:
    """The weight or bias of our classifiers: of all depths, or stacked (G, D, V) or (G, V)."""
    if config.shared_classifier:
        return {f"head.parts.0.proj.{name}": tensor}
    kept = zip(tensor.transpose(1, -1), config.sizes, strict=True)
    return {
        f"head.parts.{i}.proj.{name}": rows[:size].contiguous()
        for i, (rows, size) in enumerate(kept)
    }


def conditions(tensor: Tensor, config: RQTransformerConfig) -> dict[str, Tensor]:
    """Our tables of classes or of text. Published models know no null class, which guidance needs:
    it is the mean of all; of texts it is zero."""
    if config.text_length:
        return {"text.weight": tensor, "null": torch.zeros_like(tensor[0])}
    null = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return {"cls_embedding.weight": torch.cat((tensor, null))}


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


def drawn(config: RQTransformerConfig) -> Sampling:
    """How published models draw, without guidance."""
    return Sampling.of(top_k=1024, top_p=0.95) if config.text_length else Sampling.of(top_p=0.92)


MODEL = Part(
    title="an RQ-Transformer",
    marks=("body_transformer.", "head_transformer.", "pos_emb_hw"),
    module=RQTransformer,
    config=generator_sizes,
    state=lambda state, config, codes: transformer_state(
        state, codes.quantize.embedding.weight, config
    ),
    inside="stage2",
    read=read_bundle,
)


PROJECT = Project(
    options=RQFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, checkpoint, options: codes,
    model=MODEL,
    sampling=drawn,
)

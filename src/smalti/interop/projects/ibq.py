"""IBQ (TencentARC/SEED-Voken, commit b9a17ea).

The hub has Lightning checkpoints: of tokenizers as trained and their moving average, and of
generators, each of which also holds the tokenizer whose codes it learned, those of the average.
Tensors do not tell the grid, 16 x 16 codes of all published ones, and the heads. Nor do they tell
that a code is the one with the largest product: a VQGAN of taming-transformers, whose codes are the
nearest ones, has tensors of the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from smalti.interop.lightning import read_lightning
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.projects.var import vae_state
from smalti.interop.saved import Repository, pair
from smalti.interop.seed_voken import Published, VokenFiles
from smalti.interop.taming import VQGAN_MARKS, convolutions
from smalti.interop.tensor_shapes import count, shape
from smalti.models.ibq import IBQ, SIZES, IBQConfig
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.ibq import IBQTokenizer, IBQTokenizerConfig

NAME = "IBQ"
LLAMAS = Published(NAME, SIZES)

PUBLISHED = {
    "B": Sampling.of(guidance=2.25, temperature=1.1),
    "L": Sampling.of(guidance=2.0),
    "XL": Sampling.of(guidance=2.35, temperature=1.15),
    "XXL": Sampling.of(guidance=2.85, temperature=1.2),
}
"""How each size was drawn for its FID."""


@dataclass(frozen=True)
class IBQFiles(VokenFiles):
    """A tokenizer and a generator of IBQ as a pipeline; without --model, the tokenizer alone.

    smalti convert ibq --tokenizer imagenet256_16384.ckpt --model AR_256_B.ckpt --out ibq-b
    """


# -- configurations


def tokenizer_sizes(checkpoint: Checkpoint) -> IBQTokenizerConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """
    vocab, dim = _shape(checkpoint, "quantize.embedding.weight", 2)
    return IBQTokenizerConfig(vocab=vocab, dim=dim, **convolutions(checkpoint, NAME))


def ar_sizes(checkpoint: Checkpoint, grid: tuple[int, int], heads: int | None = None) -> IBQConfig:
    """The config of a generator's checkpoint that draws `grid` codes.

    `heads` is needed for sizes that were never published. Raises ValueError if it is missing, or if
    the tensors are not those of such a generator.
    """
    if any(name.startswith("embedding_projection.") for name in checkpoint.state):
        raise ValueError(
            f"{checkpoint.path} reads codes as rows of its tokenizer's table, through an "
            "embedding_projection; only generators with a table of their own are converted"
        )
    vocab, dim = _shape(checkpoint, "tok_emb.weight", 2)
    layers = count(checkpoint, "blocks.")
    llama = LLAMAS.llama(checkpoint, "blocks.", layers, dim, heads)
    return IBQConfig(
        grid=grid,
        vocab=vocab,
        classes=_shape(checkpoint, "class_emb.embedding_table.weight", 2)[0] - 1,
        **llama,
        shared_adaln="shared_ada_lin.1.weight" in checkpoint.state,
    )


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    return shape(checkpoint, name, axes, NAME)


# -- names

RENAMES = (
    ("tok_emb.", "tok_embeddings."),
    ("class_emb.embedding_table.", "cls_embedding."),
    ("shared_ada_lin.1.", "shared_adaln."),
    ("head_nm.rmsnorm.", "norm."),
    ("head_nm.ada_lin.1.", "adaln."),
    (".ada_lin.1.", ".adaln."),
    (".ada_gss", ".constants"),
    ("blocks.", "layers."),
    ("head.weight", "head.proj.weight"),
)
"""Parts of official names and of ours, in this order."""


def ar_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".ada_gss"):
            tensor = tensor.flatten(0, -2)  # (6, D)
        for theirs, own in RENAMES:
            name = name.replace(theirs, own)
        ours[name] = tensor
    return ours


# -- the record


def _generator(checkpoint: Checkpoint, options: IBQFiles, codes: IBQTokenizerConfig) -> IBQConfig:
    config = ar_sizes(checkpoint, pair("--size", options.size, codes.factor), options.heads)
    if config.vocab != codes.vocab:
        raise ValueError(
            f"{checkpoint.path} draws one of {config.vocab} codes; the tokenizer has {codes.vocab}"
        )
    return config


TOKENIZER = Part(
    title="an IBQ tokenizer",
    marks=VQGAN_MARKS,
    module=IBQTokenizer,
    config=lambda checkpoint, options: tokenizer_sizes(checkpoint),
    state=lambda state, *_: vae_state(state),
    read=read_lightning,
    weights="",
)

MODEL = Part(
    title="an IBQ generator",
    marks=("tok_emb.", "blocks.0.attention.wqkv.", "head_nm.rmsnorm."),
    module=IBQ,
    config=_generator,
    state=lambda state, *_: ar_state(state),
    read=read_lightning,
)

HOME = "TencentARC/IBQ-Tokenizer-16384"

PROJECT = Project(
    options=IBQFiles,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=lambda config: PUBLISHED[LLAMAS.name(config.layers, config.dim) or "B"],
    repositories={
        f"TencentARC/IBQ-AR-{size}": Repository(
            ("imagenet256_16384.ckpt",), (f"AR_256_{size}.ckpt",), HOME
        )
        for size in SIZES
    }
    | {
        f"TencentARC/IBQ-Tokenizer-{vocab}": Repository((f"imagenet256_{vocab}.ckpt",))
        for vocab in (1024, 8192, 16384, 262144)
    }
    | {
        f"TencentARC/IBQ-Tokenizer-{vocab}-Pretrain": Repository((f"IBQ_pretrain_{vocab}.ckpt",))
        for vocab in (16384, 262144)
    },
)

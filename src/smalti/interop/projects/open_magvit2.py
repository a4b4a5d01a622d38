"""Open-MAGVIT2 (TencentARC/SEED-Voken, commit b9a17ea).

The hub has Lightning checkpoints: of the tokenizer as trained and its moving average, and of
generators, each of which also holds the tokenizer whose codes it learned. Generators learned codes
of the average. Tensors do not tell the grid, 16 x 16 codes of all published ones, and the heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from smalti.interop.lightning import read_lightning
from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project, at_size
from smalti.interop.saved import Repository, pair
from smalti.interop.seed_voken import Published, VokenFiles
from smalti.interop.tensor_shapes import count, shape
from smalti.models.open_magvit2 import SIZES, OpenMAGVIT2, OpenMAGVIT2Config
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQ, OpenMAGVIT2LFQConfig

NAME = "Open-MAGVIT2"
LLAMAS = Published(NAME, SIZES)


class Drawn(NamedTuple):
    """How a published size was drawn for its FID: guidance and temperature of both groups."""

    guidance: tuple[float, float]
    temperature: tuple[float, float] = (1.0, 1.0)

    @property
    def sampling(self) -> Sampling:
        """The settings of the first group."""
        return Sampling.of(guidance=self.guidance[0], temperature=self.temperature[0])

    @property
    def ratios(self) -> dict[str, tuple[float, ...]]:
        """What those of all groups are to them, as fields of a configuration; () where equal."""
        (first, second), (low, high) = self.guidance, self.temperature
        return {
            "guidance_ratios": () if first == second else (1.0, (second - 1) / (first - 1)),
            "temperature_ratios": () if low == high else (1.0, high / low),
        }


PUBLISHED = {
    "B": Drawn((1.9, 2.0)),
    "L": Drawn((1.9, 1.9)),
    "XL": Drawn((1.75, 1.85), (1.1, 1.0)),
}


@dataclass(frozen=True)
class OpenMAGVIT2Files(VokenFiles):
    """A tokenizer and a generator of Open-MAGVIT2; without --model, the tokenizer alone.

    smalti convert open-magvit2 --tokenizer imagenet_256_L.ckpt --model AR_256_B.ckpt \\
        --out open-magvit2-b
    """


# -- configurations


def lfq_sizes(checkpoint: Checkpoint) -> OpenMAGVIT2LFQConfig:
    """The config of a tokenizer's checkpoint, for images of a single code.

    Raises ValueError if the tensors are not those of such a tokenizer.
    """

    def width(name: str) -> int:
        return shape(checkpoint, name, 4, NAME)[0]

    channels, levels = width("encoder.conv_in.weight"), count(checkpoint, "encoder.down.")
    widths = [width(f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    bits, read = (width("encoder.conv_out.weight"), _shape(checkpoint, "decoder.conv_in.weight", 4))
    if read[1] != bits:
        raise ValueError(
            f"{checkpoint.path} writes codes of {bits} bits, and reads codes of {read[1]}"
        )
    factor = 2 ** max(levels - 1, 0)
    return OpenMAGVIT2LFQConfig(
        size=(factor, factor),
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=count(checkpoint, "encoder.mid_block."),
        bits=bits,
    )


def gpt_sizes(
    checkpoint: Checkpoint, grid: tuple[int, int], heads: int | None = None
) -> OpenMAGVIT2Config:
    """The config of a generator's checkpoint that draws `grid` codes.

    `heads` is needed for sizes that were never published. Raises ValueError if it is missing, or if
    the tensors are not those of such a generator.
    """
    groups = tuple(_group_bits(checkpoint, name) for name in ("pre_emb", "post_emb"))
    rows, dim = _shape(checkpoint, "class_emb.embedding_table.weight", 2)
    layers = count(checkpoint, "spatial_blocks.")
    llama = LLAMAS.llama(checkpoint, "spatial_blocks.", layers, dim, heads)
    found = OpenMAGVIT2Config(
        grid=grid,
        channels=sum(groups),
        groups=groups,
        classes=rows - 1,
        intra_layers=count(checkpoint, "factorized_blocks."),
        **llama,
    )
    size = LLAMAS.name(layers, dim)
    return replace(found, **PUBLISHED[size].ratios) if size else found


def _group_bits(checkpoint: Checkpoint, name: str) -> int:
    """The bits of a group, by the rows of its table."""
    rows = _shape(checkpoint, f"{name}.weight", 2)[0]
    bits = rows.bit_length() - 1
    if rows != 2**bits or not bits:
        raise ValueError(
            f"{checkpoint.path}: {name} must have 2, 4, 8, ... rows, as many as its bits have "
            f"values, got {rows}"
        )
    return bits


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    return shape(checkpoint, name, axes, NAME)


# -- names

NAMES = {
    "class_emb.embedding_table.": "cls_embedding.",
    "pre_emb.": "head.tables.0.",
    "post_emb.": "head.tables.1.",
    "spatial_blocks.": "layers.",
    "factorized_blocks.": "head.layers.",
    "norm.": "head.norm.",
    "head.0.": "head.parts.0.proj.",
    "head.1.": "head.parts.1.proj.",
}
"""How official names begin, and ours."""


def gpt_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


# -- the record


def _generator(
    checkpoint: Checkpoint, options: OpenMAGVIT2Files, codes: OpenMAGVIT2LFQConfig
) -> OpenMAGVIT2Config:
    config = gpt_sizes(checkpoint, pair("--size", options.size, codes.factor), options.heads)
    if config.channels != codes.bits:
        raise ValueError(
            f"{checkpoint.path} draws codes of {config.channels} bits, in groups of "
            f"{' and '.join(map(str, config.groups))}; the tokenizer has {codes.bits}"
        )
    return config


def _sampling(config: OpenMAGVIT2Config) -> Sampling:
    return PUBLISHED[LLAMAS.name(config.layers, config.dim) or "L"].sampling


TOKENIZER = Part(
    title="an Open-MAGVIT2 tokenizer",
    marks=("encoder.mid_block.", "decoder.adaptive."),
    module=OpenMAGVIT2LFQ,
    config=lambda checkpoint, options: lfq_sizes(checkpoint),
    state=lambda state, *_: state,
    read=read_lightning,
    weights="",
)

MODEL = Part(
    title="an Open-MAGVIT2 generator",
    marks=("spatial_blocks.", "factorized_blocks."),
    module=OpenMAGVIT2,
    config=_generator,
    state=lambda state, *_: gpt_state(state),
    read=read_lightning,
)

HOME = "TencentARC/Open-MAGVIT2-Tokenizer-256-resolution"

PROJECT = Project(
    options=OpenMAGVIT2Files,
    tokenizer=TOKENIZER,
    alone=at_size,
    model=MODEL,
    sampling=_sampling,
    repositories={
        f"TencentARC/Open-MAGVIT2-AR-{size}-256-resolution": Repository(
            ("imagenet_256_L.ckpt",), (f"AR_256_{size}.ckpt",), HOME
        )
        for size in SIZES
    }
    | {HOME: Repository(("imagenet_256_L.ckpt",))},
)

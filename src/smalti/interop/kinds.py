"""What kind of file of which project a checkpoint is, by the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smalti.interop.pickles import Checkpoint, read_checkpoint


class Kind(NamedTuple):
    title: str
    command: str
    """The family of `smalti convert` that takes it, and the option."""
    marks: tuple[str, ...]
    """How names begin of which every such file has all."""
    lacks: tuple[str, ...] = ()
    """How names begin of which it has none, where the marks alone do not tell the kinds apart."""


LLAMAGEN = Kind(
    "a LlamaGen generator", "llamagen --model", ("tok_embeddings.", "layers.0.feed_forward.w3.")
)
LLAMAGEN_VQ = Kind("a LlamaGen tokenizer", "llamagen --tokenizer", ("encoder.conv_blocks.",))
RAR = Kind("a RAR generator", "rar --model", ("target_aware_pos_embed",))
MASKGIT_VQ = Kind(
    "a MaskGIT-VQGAN", "maskgit-vqgan --tokenizer", ("encoder.down.", "encoder.mid.0.")
)
VAR = Kind("a VAR transformer", "var --model", ("lvl_embed.",))
VAR_VQ = Kind("a VAR tokenizer", "var --tokenizer", ("quantize.quant_resi.",))
MAR = Kind("a MAR generator", "mar --model", ("encoder_pos_embed_learned", "diffloss."))
MAR_VAE = Kind(
    "a KL-VAE",
    "mar --tokenizer",
    ("encoder.down.", "decoder.up.", "quant_conv.", "post_quant_conv."),
    ("quantize.",),
)
KINDS = (LLAMAGEN, LLAMAGEN_VQ, RAR, MASKGIT_VQ, VAR, VAR_VQ, MAR, MAR_VAE)


def kind_of(names: Mapping[str, object]) -> Kind | None:
    """The kind of file that has tensors of these names; None if it is none that we know."""

    def held(mark: str) -> bool:
        return any(name.startswith(mark) for name in names)

    for kind in KINDS:
        if all(map(held, kind.marks)) and not any(map(held, kind.lacks)):
            return kind
    return None


def advice(path: Path) -> str:
    """The command that makes a pipeline of a released file; in general terms if it is none."""
    try:
        kind = kind_of(read_checkpoint(path).state)
    except ValueError:
        kind = None
    if kind is None:
        return "smalti convert --help names the released files that become pipelines"
    return f"it looks like {kind.title}; try: smalti convert {kind.command} {path}"


def expect(checkpoint: Checkpoint, wanted: Kind) -> None:
    """Raise ValueError if a checkpoint is of another kind, naming it and what takes it."""
    found = kind_of(checkpoint.state)
    if found is not None and found is not wanted:
        raise ValueError(
            f"{checkpoint.path} looks like {found.title}; "
            f"try: smalti convert {found.command} {checkpoint.path}"
        )

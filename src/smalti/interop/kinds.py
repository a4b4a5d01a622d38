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
    """How names begin of which every such file has all, and of no other kind any file."""


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
KINDS = (LLAMAGEN, LLAMAGEN_VQ, RAR, MASKGIT_VQ, VAR, VAR_VQ)


def kind_of(names: Mapping[str, object]) -> Kind | None:
    """The kind of file that has tensors of these names; None if it is none that we know."""
    for kind in KINDS:
        if all(any(name.startswith(mark) for name in names) for mark in kind.marks):
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

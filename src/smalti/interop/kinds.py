"""What kind of file of which project a checkpoint is, by the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from smalti.interop.pickles import HOLDERS, Checkpoint, read_checkpoint
from smalti.progress import say


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


def prefixes(names: Iterable[str], kind: Kind) -> list[str]:
    """How the names of tensors begin before those of such a file: [""] if they are its names,
    ["model."] if all or some of them are so after "model.", [] if there are none."""
    names, (first, *_) = list(names), kind.marks
    begins = {n[: -len(rest)] for n in names if (rest := _from(n, first))}
    found: list[str] = []
    for begin in sorted(begins, key=lambda begin: (len(begin), begin)):
        inside = [n.removeprefix(begin) for n in names if n.startswith(begin)]
        has = [any(n.startswith(mark) for n in inside) for mark in (*kind.marks, *kind.lacks)]
        if all(has[: len(kind.marks)]) and not any(has[len(kind.marks) :]):
            found.append(begin)
    return found[:1] if found[:1] == [""] else found


def kind_of(names: Mapping[str, object]) -> Kind | None:
    """The kind of file that has tensors of these names; None if it is none that we know."""
    plain = [kind for kind in KINDS if prefixes(names, kind) == [""]]
    return next(iter(plain or [kind for kind in KINDS if prefixes(names, kind)]), None)


def advice(path: Path) -> str:
    """The command that makes a pipeline of a released file; in general terms if it is none."""
    try:
        kind = kind_of(read_checkpoint(path).state)
    except ValueError:
        kind = None
    if kind is None:
        return "smalti convert --help names the released files that become pipelines"
    return f"it looks like {kind.title}; try: smalti convert {kind.command} {path}"


def expect(checkpoint: Checkpoint, wanted: Kind) -> Checkpoint:
    """A checkpoint with the names of its kind, without what they begin with, which is said.

    Raises ValueError if it is of another kind, naming it and what takes it, or if it holds several
    of this kind.
    """
    begins = prefixes(checkpoint.state, wanted)
    other = None if begins else kind_of(checkpoint.state)
    if other is not None:
        raise ValueError(
            f"{checkpoint.path} looks like {other.title}; "
            f"try: smalti convert {other.command} {checkpoint.path}"
        )
    usual = [begin for begin in begins if begin.partition(".")[0] in HOLDERS]
    if len(begins) > 1 and len(usual) != 1:
        names = ", ".join(begins)
        raise ValueError(f"{checkpoint.path} holds {wanted.title} several times, under {names}")
    begin = (usual if len(begins) > 1 else begins or [""])[0]
    if prefix := checkpoint.prefix + begin:
        others = sum(not name.startswith(begin) for name in checkpoint.state)
        rest = f"; {others} tensors that do not are not used" if others else ""
        say(f"{checkpoint.path}: names begin with {prefix!r}, which is left out{rest}")
    inside = {n.removeprefix(begin): t for n, t in checkpoint.state.items() if n.startswith(begin)}
    return checkpoint._replace(state=inside, prefix="")


def _from(name: str, mark: str) -> str:
    """What of a name begins with the mark, at its beginning or behind a dot; "" if nothing."""
    if name.startswith(mark):
        return name
    at = name.find(f".{mark}")
    return name[at + 1 :] if at >= 0 else ""

"""What kind of file of which project a checkpoint is, by the names of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from smalti.interop.pickles import HOLDERS, Checkpoint, read_checkpoint
from smalti.interop.project import Part
from smalti.interop.projects import PROJECTS
from smalti.progress import say


def _kinds() -> dict[Part, str]:
    found = dict[Part, str]()
    for name, project in PROJECTS.items():
        for option, part in (("tokenizer", project.tokenizer), ("model", project.model)):
            if part is not None:
                found.setdefault(part, f"{name} --{option}")
    shared = Counter(p.tokenizer.module for p in PROJECTS.values() if p.tokenizer)
    return dict(sorted(reversed(found.items()), key=lambda kind: shared[kind[0].module]))


KINDS = _kinds()
"""What takes a file of each kind: the project of `smalti convert`, and the option. Of a tokenizer
that several share, the first that has it; of a file that holds both, what takes the model. Of
tokenizers whose files have the same names, one that is a module of its own comes first."""


def prefixes(names: Iterable[str], kind: Part) -> list[str]:
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


def kind_of(names: Mapping[str, object]) -> Part | None:
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
    return f"it looks like {kind.title}; try: smalti convert {KINDS[kind]} {path}"


def expect(checkpoint: Checkpoint, wanted: Part) -> Checkpoint:
    """A checkpoint with the names of its kind, without what they begin with, which is said.

    Raises ValueError if it is of another kind, naming it and what takes it, or if it holds several
    of this kind.
    """
    begins = prefixes(checkpoint.state, wanted)
    other = None if begins else kind_of(checkpoint.state)
    if other is not None:
        raise ValueError(
            f"{checkpoint.path} looks like {other.title}; "
            f"try: smalti convert {KINDS[other]} {checkpoint.path}"
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

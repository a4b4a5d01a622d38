"""Options read off functions and dataclasses, and what is said about mistakes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, UseAppendAction, arg

from smalti.cli.options import REQUIRED, check, fields_named, named, options, unknown


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """How fast."""
    on: bool = True


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    size: tuple[int, int] = (3, 4)
    """Height
    and width."""
    grids: tuple[tuple[int, int], ...] = ()
    kind: Literal["a", "bee"] = "a"
    maybe: int | None = None


def command(
    subject: Annotated[Positional[Path], arg(metavar="SUBJECT")],
    out: Annotated[Path, arg(help="Where to.", aliases=("--to",))],
    outer: Outer = Outer(inner=Inner(rate=0.25)),  # noqa: B008 - it is frozen
    flat: Annotated[Inner, arg(name="")] = Inner(),  # noqa: B008 - it is frozen
    names: Annotated[tuple[str, ...], arg(name="class")] = (),
    each: UseAppendAction[tuple[int, ...]] = (),
) -> None: ...


KNOWN = options(command)
RIGHT = ["x", "--out", "y"]


def test_the_options_of_a_command():
    listed = {o.name: (o.default, o.help, o.count) for o in KNOWN}
    assert listed == {
        "SUBJECT": (REQUIRED, "", 1),
        "--out": (REQUIRED, "Where to.", 1),
        "--outer.inner.rate": (0.25, "How fast.", 1),
        "--outer.inner.on": (True, "", 0),
        "--outer.size": ((3, 4), "Height and width.", 2),
        "--outer.grids": ((), "", None),
        "--outer.kind": ("a", "", 1),
        "--outer.maybe": (None, "", 1),
        "--rate": (0.5, "How fast.", 1),
        "--on": (True, "", 0),
        "--class": ((), "", None),
        "--each": ((), "", 1),
    }


@pytest.mark.parametrize(
    "more",
    [
        "--outer.inner.no-on --no-on",
        "--outer.size 1 -2 --outer.maybe None --outer.kind=bee",
        "--each 1 --each -2",
        "--outer.grids 1 1 2 2 --outer.inner.rate -1e-3",
        "--class a b - --outer_x=1".replace("--outer_x=1", "--outer.inner.rate=1"),
    ],
)
def test_what_is_right_passes(more):
    check([*RIGHT, *more.split()], KNOWN)
    check(["--to", "y", *more.split(), "--on", "x"], KNOWN)
    check(["--to", "y", "--each", "3", "x"], KNOWN)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("x", "--out PATH is missing"),
        ("--out y", "SUBJECT is missing"),
        ("x --out y z", "there is nothing that 'z' could be"),
        ("x --out y --outer.size 1", "--outer.size needs 2 values, got 1: --outer.size INT INT"),
        ("x --out y --outer.size 1 two", "--outer.size must be an integer, got 'two'"),
        ("x --out y --each two --each 3", "--each must be an integer, got 'two'"),
        ("x --out y --each 3 --each", "--each needs a value: --each INT"),
        ("--out y --each 3", "SUBJECT is missing"),
        ("x --out y --outer.maybe 1.5", "--outer.maybe must be an integer, got '1.5'"),
        ("x --out y --rate fast", "--rate must be a number, got 'fast'"),
        ("x --out y --outer.kind be", "must be one of a, bee, got 'be'; did you mean 'bee'?"),
        ("x --out y --no-on=1", "--no-on takes no value, got '1'"),
        ("x --out", "--out needs a value: --out PATH"),
        ("--kind a --zzz", "unknown option --kind; did you mean --outer.kind?"),
        ("--outer 3", "--outer; did you mean --outer.inner.rate or --outer.inner.on or"),
        ("x --outt y", "unknown option --outt; did you mean --out?"),
        ("x -z", "unknown option -z"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(ValueError) as error:
        check(arguments.split(), KNOWN)
    assert words in str(error.value)


def test_names_as_they_were_typed():
    words = "x --a_b.c-d 3 --no-e -1 --f=--g".split()
    assert named(words) == ["--a-b.c-d", "--no-e", "--f"]
    assert fields_named(words) == {"a_b.c_d", "no_e", "f"}


def test_the_one_place_where_unknown_names_are_answered():
    known = ["--train.steps", "--sampling.steps", "--train.optim.lr", "--guidance"]
    assert unknown("--steps", known).endswith("did you mean --train.steps or --sampling.steps?")
    assert unknown("--lr", known).endswith("did you mean --train.optim.lr?")
    assert unknown("--guidence", known).endswith("did you mean --guidance?")
    assert unknown("--qqqqq", known) == "unknown option --qqqqq"

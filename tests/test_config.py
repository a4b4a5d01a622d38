import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import models, tokenizers
from smalti.config import (
    check,
    did_you_mean,
    from_dict,
    read_json,
    to_dict,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be 0 or more, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    steps: int
    name: str = "x"
    on: bool = False
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    limit: int | None = None
    inner: Inner = Inner()
    maybe: Inner | None = None
    table: dict[str, Any] = field(default_factory=dict)


inners = st.builds(Inner, st.floats(0, 1e9), st.sampled_from(["a", "b"]))
integers = st.integers(-(2**40), 2**40)
outers = st.builds(
    Outer,
    steps=integers,
    name=st.text(max_size=8),
    on=st.booleans(),
    pair=st.tuples(integers, integers),
    many=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    grids=st.lists(st.tuples(integers, integers), max_size=3).map(tuple),
    limit=st.none() | integers,
    inner=inners,
    maybe=st.none() | inners,
    table=st.dictionaries(st.text(max_size=3), integers, max_size=3),
)


@given(outers)
def test_round_trip_through_json(config):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", models() | tokenizers())
def test_round_trip_of_registered_configs(name):
    config = (models() | tokenizers())[name][1]
    assert from_dict(type(config), to_dict(config)) == config


def test_plain_values():
    values = to_dict(Outer(3, grids=((1, 2),), maybe=Inner(1.0, "b")))
    assert values["grids"] == [[1, 2]] and values["maybe"] == {"rate": 1.0, "kind": "b"}


def test_types_are_those_of_the_fields():
    config = from_dict(Outer, {"steps": 3, "many": [1, 2.5], "inner": {"rate": 2}})
    assert config.many == (1.0, 2.5) and type(config.many[0]) is float
    assert type(config.inner.rate) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "Outer has no field 'step'; did you mean 'steps'? (it has steps, name, "),
        ({"steps": 3, "zzz": 1}, "Outer has no field 'zzz' (it has steps"),
        ({"steps": 3, "inner": {"rat": 1}}, "Outer.inner has no field 'rat'; did you mean 'rate'?"),
        ({}, "missing 1 required positional argument: 'steps'"),
        ({"steps": "3"}, "Outer.steps must be int, got '3'"),
        ({"steps": 3.0}, "Outer.steps must be int, got 3.0"),
        ({"steps": True}, "Outer.steps must be int, got True"),
        ({"steps": None}, "Outer.steps must be int, got None"),
        ({"steps": 3, "on": 1}, "Outer.on must be bool, got 1"),
        ({"steps": 3, "name": 5}, "Outer.name must be str, got 5"),
        ({"steps": 3, "pair": [1]}, "Outer.pair must have 2 entries, got [1]"),
        ({"steps": 3, "pair": 1}, "Outer.pair must be a list, got 1"),
        ({"steps": 3, "pair": [1, "2"]}, "Outer.pair must be int, got '2'"),
        ({"steps": 3, "grids": [[1, 2], [3]]}, "Outer.grids must have 2 entries, got [3]"),
        ({"steps": 3, "limit": "no"}, "Outer.limit must be int, got 'no'"),
        ({"steps": 3, "inner": 4}, "Outer.inner must be an object, got 4"),
        ({"steps": 3, "inner": None}, "Outer.inner must be an object, got None"),
        ({"steps": 3, "inner": {"rate": True}}, "Outer.inner.rate must be float, got True"),
        ({"steps": 3, "maybe": {"kind": "c"}}, "Outer.maybe.kind must be one of 'a', 'b', got 'c'"),
        ({"steps": 3, "inner": {"rate": -1}}, "rate must be 0 or more, got -1"),
    ],
)
def test_strict(values, message):
    with pytest.raises(ValueError) as error:
        from_dict(Outer, values)
    assert message in str(error.value)


def test_the_caller_may_name_the_place():
    with pytest.raises(ValueError, match="^run/config.json.steps must be int"):
        from_dict(Outer, {"steps": "x"}, "run/config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON: .*line 1 column 2"),
        ("[1]", "must hold a JSON object, got list"),
        ("3", "must hold a JSON object, got int"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_did_you_mean():
    assert did_you_mean("APPEL", ["Apple", "pear"]) == "; did you mean 'Apple'?"
    assert did_you_mean("xyz", ["Apple", "pear"]) == ""


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]"])
def test_what_is_no_json_object_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match="a.json (is not valid JSON|must hold a JSON object)"):
        read_json(tmp_path / "a.json")


@dataclass(frozen=True)
class Ranges:
    kind: Literal["a", "b"] = "a"
    layers: int = 2
    vocab: int = 2
    warmup: int = 0
    lr: float = 1.0
    decay: float = 0.0
    dropout: float = 0.0
    share: float = 1.0
    grid: tuple[int, ...] = (1, 1)
    dim: int = 4

    def __post_init__(self) -> None:
        check(
            self,
            "here.",
            pairs=("grid",),
            multiple=("dim", "layers"),
            positive=("layers", "dim"),
            several=("vocab",),
            counts=("warmup",),
            above_zero=("lr",),
            amounts=("decay",),
            rates=("dropout",),
            shares=("share",),
        )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"layers": 2.0}, "layers must be a whole number, got 2.0"),
        ({"layers": math.nan}, "layers must be a whole number, got nan"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"warmup": -1}, "warmup must be 0 or more, got -1"),
        ({"warmup": "1"}, "warmup must be a whole number, got '1'"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": None}, "lr must be a number, got None"),
        ({"decay": -1e-9}, "decay must be 0 or more, got -1e-09"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"share": 1.01}, "share must be in [0, 1], got 1.01"),
        ({"grid": (4, 0)}, "grid must be two positive integers, got (4, 0)"),
        ({"grid": (4, 4.0)}, "grid must be two positive integers, got (4, 4.0)"),
        ({"grid": (4,)}, "grid must be two positive integers, got (4,)"),
        ({"dim": 5}, "dim must be a multiple of layers, got 5, 2"),
    ],
)
def test_ranges(bad, message):
    with pytest.raises(ValueError) as error:
        Ranges(**bad)
    assert str(error.value) == f"here.{message}"


@pytest.mark.parametrize("name", ["lr", "decay", "dropout", "share"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_range_has_what_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"here.{name} must be .* got {value}"):
        Ranges(**{name: value})


def test_what_is_in_the_ranges():
    Ranges("b", 1, 2, 5, 1e-300, 1e300, 1 - 1e-16, 0, (3, 4), 7)
    Ranges(layers=np.int64(2), lr=np.float32(0.5), decay=0, share=1)

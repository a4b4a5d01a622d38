import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti import progress
from smalti.data.open import CLASSES, SCHEMES, class_of, open_source
from smalti.data.source import (
    Keyed,
    Source,
    class_labels,
    digest,
    require_captions,
    require_labels,
    split,
)

VARIED = ("emoji:skin_tones", "styles", "styles:a.parquet")
NAMES = (
    *VARIED,
    "shapes:20",
    "scenes",
    "folder:emoji",
    "parquet:x",
    "hub:a/b:train",
    "x",
    "text:a",
)


class Keys(Keyed):
    def __init__(self, keys, name="emoji"):
        self.keys, self.name = keys, name

    def __len__(self):
        return len(self.keys)

    def key(self, i):
        return self.keys[i]


class Grouped(Keys):
    @staticmethod
    def group(key):
        return key.partition("#")[0]


keys = st.lists(st.text("abc#", min_size=1, max_size=4), max_size=30)


@given(keys, st.floats(0, 0.99), st.randoms())
def test_split_is_a_partition_by_group_whatever_the_order(given_keys, holdout, random):
    train, held = split(Grouped(given_keys), holdout)
    assert sorted(train + held) == list(range(len(given_keys)))
    assert train == sorted(train) and held == sorted(held)
    group = [k.partition("#")[0] for k in given_keys]
    assert not {group[i] for i in train} & {group[i] for i in held}
    shuffled = list(given_keys)
    random.shuffle(shuffled)
    _, again = split(Grouped(shuffled), holdout)
    assert sorted(shuffled[i] for i in again) == sorted(given_keys[i] for i in held)


@pytest.mark.parametrize(
    "n, holdout, held", [(100, 0.1, 10), (100, 0, 0), (100, 0.001, 1), (1, 0.5, 0), (2, 0.9, 1)]
)
def test_split_sizes(n, holdout, held):
    train, out = split(Keys([f"k{i}" for i in range(n)]), holdout)
    assert (len(train), len(out)) == (n - held, held)


def test_split_is_fixed_for_ever():
    # sha256 of "d" begins with 18ac and that of "f" with 252f, the two smallest of the eight
    assert split(Keys(list("abcdefgh")), 0.25)[1] == [3, 5]


@pytest.mark.parametrize("holdout", [-0.1, 1, 2])
def test_split_rejects(holdout):
    with pytest.raises(ValueError, match="holdout must be in"):
        split(Keys(["a"]), holdout)


def test_more_data_moves_few_examples():
    few, more = [f"k{i}" for i in range(200)], [f"k{i}" for i in range(220)]
    held_few = {few[i] for i in split(Keys(few), 0.1)[1]}
    held_more = {more[i] for i in split(Keys(more), 0.1)[1]}
    assert len(held_few - held_more) <= 5


def test_class_labels():
    labels, classes = class_labels(["dog", "cat", None, "dog"], "x")
    assert labels.tolist() == [1, 0, -1, 1] and classes == ["cat", "dog"]
    labels, classes = class_labels([2, None, 0], "x")
    assert labels.tolist() == [2, -1, 0] and classes == ["0", "1", "2"]
    assert class_labels([None, None], "x")[1] == []
    assert class_labels([np.int64(1)], "x")[0].dtype == np.int64
    labels, classes = class_labels([2.0, float("nan"), np.float32(0)], "x")
    assert labels.tolist() == [2, -1, 0] and classes == ["0", "1", "2"]
    names = ["cat", "10", "Cat", "2", "-1", "02", "1.5", "1e3", None]
    assert class_labels(names, "x")[1] == ["-1", "1.5", "02", "2", "10", "1e3", "Cat", "cat"]
    for bad in ([1, "a"], [1.5], [True], [-2]):
        with pytest.raises(ValueError, match="x: labels must be"):
            class_labels(bad, "x")


@pytest.mark.parametrize("text", ["", "cats", "zip:a", "Folder:a"])
def test_unknown_scheme_lists_the_allowed(text):
    with pytest.raises(ValueError, match="unknown data source.*emoji.*shapes.*folder:PATH.*hub"):
        open_source(text)


@pytest.mark.parametrize("text", ["folder", "folder:", "parquet:", "hub:"])
def test_a_scheme_without_a_name(text):
    with pytest.raises(ValueError, match="names nothing"):
        open_source(text)


def test_variants_of_emoji_stay_together_and_nothing_else_does():
    some = [f"a#{i}" for i in range(20)]
    assert split(Keys(some, "emoji"), 0.1)[1] != [], "it is the source that says so"
    assert split(Grouped(some, "folder:x"), 0.1)[1] == []
    groups = {name: class_of(name).group("1f44b#1f3fd") for name in NAMES}
    assert groups == dict.fromkeys(NAMES, "1f44b#1f3fd") | dict.fromkeys(VARIED, "1f44b")


def test_what_the_class_of_a_name_says():
    assert CLASSES.keys() == SCHEMES.keys()
    for name in NAMES:
        kind = class_of(name)
        assert Source in kind.__mro__ and kind.recognised == (name == "shapes:20")
        assert kind.local == name.startswith(("folder", "parquet"))
        assert bool(kind.credit) == (name in VARIED)
    assert "Twemoji, (c)" in class_of("emoji").credit and "Noto" in class_of("styles").credit
    assert class_of("captioned:emoji") is class_of("cats/dogs") is Source


@pytest.mark.parametrize(
    "keys, said",
    [
        (["a"], "nothing is held out of one example"),
        (["a"] * 20, "nothing is held out: all 20 examples have the key 'a'"),
        (
            [*map(str, range(9)), *["x"] * 30],
            "34 of 39 examples are held out, not 50%: those of one key stay together, and 30 have "
            "the key 'x'",
        ),
        ([*map(str, range(100))], ""),
        ([*map(str, range(50)), *map(str, range(50))], ""),
    ],
)
def test_an_uneven_split_says_why(keys, said, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    source = Keys(keys, "parquet:x")
    split(source, 0.5)
    assert capsys.readouterr().err == (f"parquet:x: {said}\n" if said else "")
    split(source, 0)
    split(source, 0.5)
    assert capsys.readouterr().err == ""


def test_paths_without_a_scheme(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "tables").mkdir()
    data = (tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [data, data]}), tmp_path / "tables" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, name in (
        (str(tmp_path / "tables"), f"parquet:{tmp_path / 'tables'}"),
        ("tables/a.parquet", "parquet:tables/a.parquet"),
        ("tables/*.parquet", "parquet:tables/*.parquet"),
        ("~/tables?key=", "parquet:~/tables?key="),
    ):
        source = open_source(path)
        assert source.name == name and len(source) == 2
        assert capsys.readouterr().err == f"{path} is taken as {name}\n"
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "tables" / "a.parquet").rename(tmp_path / "data" / "deep" / "a.parquet")
    assert open_source("data").name == "parquet:data"
    (tmp_path / "data" / "a.png").write_bytes(data)
    assert open_source("./data").name == "folder:./data"
    (tmp_path / "a.png").rename(tmp_path / "tables" / "a.png")
    assert open_source("./tables").name == "folder:./tables"
    with pytest.raises(ValueError, match=r"tables/a.png is a file; images are read from a folder"):
        open_source("tables/a.png")
    with pytest.raises(
        ValueError, match=r"source 'tabels/x' \(there is no tabels; did .*'tables'\?"
    ):
        open_source("tabels/x")
    with pytest.raises(
        ValueError, match="tabels is not a folder; there is no tabels; did you mean"
    ):
        open_source("folder:tabels")


def test_a_folder_with_the_name_of_a_built_in_source(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "shapes" / "a.png")
    assert len(open_source("shapes:9")) == 9 and capsys.readouterr().err == ""
    assert len(open_source("shapes")) == 10_000
    said = "shapes is the built-in source; ./shapes is the folder of that name\n"
    assert capsys.readouterr().err == said and len(open_source("./shapes")) == 1


def test_images_without_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    require_labels(open_source(f"folder:{tmp_path}"))
    line = f"folder:{tmp_path}: the images have no labels; all are of one class\n"
    assert capsys.readouterr().err == line
    (tmp_path / "metadata.csv").write_text("file_name,kind\na.png,cat\n")
    message = (
        f"have no labels; it has the columns file_name, kind: 'folder:{tmp_path}.label=COLUMN' "
    )
    with pytest.raises(ValueError, match=message):
        require_labels(open_source(f"folder:{tmp_path}"))
    with pytest.raises(
        ValueError, match=f"have no captions; .*'folder:{tmp_path}.text=COLUMN' takes"
    ):
        require_captions(open_source(f"folder:{tmp_path}"))
    require_labels(open_source(f"folder:{tmp_path}?label=kind"))
    require_labels(open_source(f"folder:{tmp_path}?label="))


def test_digest_tells_rows_apart():
    assert len(digest([])) == 16
    assert digest([["a", 1]]) != digest([["a", 2]])
    assert digest(["a", "b"]) != digest(["ab"])

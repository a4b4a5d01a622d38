import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti import progress
from smalti.data import parquet
from smalti.data.open import open_source
from smalti.data.source import require_labels


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


COLOURS = [(i, 0, 255 - i) for i in range(10)]


def write(path, columns, group=3, metadata=None):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=group)


def test_bytes_labels_captions_and_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)  # every row group displaces the one before
    write(
        tmp_path / "a.parquet",
        {
            "id": [f"x/{i}" for i in range(10)],
            "image": [png(c) for c in COLOURS],
            "label": ["b", "a"] * 5,
            "text": [None] + ["some text"] * 9,
        },
    )
    source = open_source(f"parquet:{tmp_path / 'a.parquet'}")
    assert len(source) == 10 and source.classes == ["a", "b"]
    for i in (9, 0, 5, 3, 2):
        image, label, caption = source[i]
        assert image.getpixel((0, 0)) == COLOURS[i]
        assert (label, caption) == ((i + 1) % 2, "some text" if i else "")
        assert source.key(i) == f"x/{i}"
    with pytest.raises(IndexError):
        source[10]


def test_hugging_face_layout_in_two_files(tmp_path):
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for part in range(2):
        chosen = COLOURS[part * 5 : part * 5 + 5]
        images = [{"bytes": png(c), "path": "x.png"} for c in chosen]
        write(
            tmp_path / f"train-{part}.parquet",
            {"img": images, "label": [0, 1, None, 1, 0]},
            metadata=metadata,
        )
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == ["cat", "dog", "owl"]
    assert [source.label(i) for i in range(10)] == [0, 1, -1, 1, 0] * 2
    assert [source[i].image.getpixel((0, 0)) for i in range(10)] == COLOURS
    assert source.key(7) == "train-1/2"


def test_any_single_binary_column_and_integer_labels(tmp_path):
    write(tmp_path / "a.parquet", {"picture": [png("red")], "label": [4]})
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == list("01234") and source[0].image.size == (4, 4)


def test_fingerprint(tmp_path):
    prints = set()
    for columns in ({"image": [png("red")]}, {"image": [png("red")], "caption": ["red"]}):
        write(tmp_path / "a.parquet", columns)
        prints.add(open_source(f"parquet:{tmp_path}").fingerprint())
        assert open_source(f"parquet:{tmp_path}").fingerprint() in prints
    assert len(prints) == 2


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        open_source(f"parquet:{tmp_path / 'gone.parquet'}")
    with pytest.raises(ValueError, match="no .parquet files"):
        open_source(f"parquet:{tmp_path}")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="a.parquet is not a parquet file"):
        open_source(f"parquet:{tmp_path}")
    write(path, {"label": [1], "name": ["x"]})
    with pytest.raises(ValueError, match=r"no image column; it has label \(int64\), name"):
        open_source(f"parquet:{tmp_path}")
    write(path, {"image": [png("red")], "label": [1.5]})
    with pytest.raises(ValueError, match="label must be integers or strings, got double"):
        open_source(f"parquet:{tmp_path}")
    write(path, {"image": pa.array([], pa.binary())})
    with pytest.raises(ValueError, match="holds no rows"):
        open_source(f"parquet:{tmp_path}")
    write(path, {"image": [None, b"junk"]})
    source = open_source(f"parquet:{tmp_path}")
    with pytest.raises(ValueError, match=r"row 0 \(a/0\) holds no image bytes"):
        source[0]
    with pytest.raises(ValueError, match=r"cannot decode.*row 1 \(a/1\)"):
        source[1]


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(progress, "_SAID", set())


@pytest.mark.parametrize("name", ["labels", "class", "class_id", "category", "fine_label", "Label"])
def test_usual_names_of_labels(tmp_path, name, nothing_said, capsys):
    write(tmp_path / "a.parquet", {"image": [png("red")] * 2, name: [1, 0], "width": [4, 4]})
    source = open_source(f"parquet:{tmp_path}")
    assert [source.label(i) for i in range(2)] == [1, 0]
    assert f"labels are column {name!r}, no captions; not used: width (" in capsys.readouterr().err


def test_the_surest_column_is_taken_and_the_others_are_named(tmp_path, nothing_said, capsys):
    columns = {"picture": [png("red")], "mask": [png("blue")], "labels": ["a"], "fine_label": ["b"]}
    write(tmp_path / "a.parquet", columns | {"captions": [["one", "two"]], "prompt": ["three"]})
    source = open_source(f"parquet:{tmp_path}")
    assert (source.classes, source.caption(0)) == (["a"], "one")
    assert source[0].image.getpixel((0, 0)) == (255, 0, 0)
    said = capsys.readouterr().err
    assert "labels are column 'labels', captions 'captions'; not used: mask, fine_label, pr" in said
    assert "of the captions in column 'captions' the first is read" in said
    name = f"parquet:{tmp_path}?image=mask&label=fine_label&text=prompt"
    chosen = open_source(name)
    assert (chosen.name, chosen.classes, chosen.caption(0)) == (name, ["b"], "three")
    assert chosen[0].image.getpixel((0, 0)) == (0, 0, 255)
    none = open_source(f"parquet:{tmp_path}?label=&text=")
    assert (none.classes, none.caption(0)) == ([], "")


def test_columns_of_which_none_is_meant_for_sure(tmp_path):
    images = {"left": [png("red")], "right": [png("red")]}
    write(tmp_path / "a.parquet", images)
    with pytest.raises(
        ValueError, match=r"several columns of images, of which \?image= chooses; it"
    ):
        open_source(f"parquet:{tmp_path}")
    assert len(open_source(f"parquet:{tmp_path}?image=left")) == 1
    write(tmp_path / "a.parquet", {"image": [png("red")], "a_label": [1], "b_label": [2]})
    source = open_source(f"parquet:{tmp_path}")
    assert source.classes == []
    with pytest.raises(
        ValueError, match="no labels; it has the columns image, a_label, b_label: '"
    ):
        require_labels(source)
    with pytest.raises(
        ValueError, match="'image' is no column that holds a label; did you|; it has"
    ):
        open_source(f"parquet:{tmp_path}?label=image")


def test_labels_of_other_types(tmp_path):
    kinds = pa.array(["10", "2", "10"]).dictionary_encode()
    for values, classes, labels in (
        (["10", "2", "1"], ["1", "2", "10"], [2, 1, 0]),
        ([2.0, None, 0.0], ["0", "1", "2"], [2, -1, 0]),
        (kinds, ["2", "10"], [1, 0, 1]),
        (pa.nulls(3), [], [-1, -1, -1]),
    ):
        write(tmp_path / "a.parquet", {"image": [png("red")] * 3, "label": values})
        source = open_source(f"parquet:{tmp_path}")
        assert source.classes == classes and [source.label(i) for i in range(3)] == labels
    write(tmp_path / "a.parquet", {"image": [png("red")], "target": [0.5]})
    assert open_source(f"parquet:{tmp_path}").classes == []


def test_class_names_of_another_column(tmp_path):
    features = {"fine_label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write(tmp_path / "a.parquet", {"img": [png("red")], "fine_label": [1]}, metadata=metadata)
    assert open_source(f"parquet:{tmp_path}").classes == ["cat", "dog"]


def parts(folder):
    """Two files of one split, one of another."""
    names = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / f"{name}.parquet", {"image": [png(COLOURS[i])]})


def test_patterns_of_files(tmp_path):
    parts(tmp_path)
    source = open_source(f"parquet:{tmp_path}/train-*.parquet")
    assert [source.key(i) for i in range(2)] == [f"train-0000{i}-of-00002/0" for i in range(2)]
    assert len(open_source(f"parquet:{tmp_path}/t???-*.parquet")) == 1
    with pytest.raises(ValueError, match="no file fits this pattern"):
        open_source(f"parquet:{tmp_path}/val-*.parquet")


def test_several_splits_are_named_and_refused(tmp_path):
    parts(tmp_path / "data")
    for path in (tmp_path, tmp_path / "data", f"{tmp_path}/data/*.parquet"):
        message = r"several splits: test \(1\), train \(2\); read .*\?split=test', .*\?split=all'$"
        with pytest.raises(ValueError, match=message):
            open_source(f"parquet:{path}")
    sizes = {"train": 2, "test": 1, "all": 3}
    for name, count in sizes.items():
        assert len(open_source(f"parquet:{tmp_path}?split={name}")) == count
    with pytest.raises(ValueError, match="split must be one of test, train, all, got 'val'"):
        open_source(f"parquet:{tmp_path}?split=val")


def test_splits_in_folders_of_their_own(tmp_path):
    for part in ("train", "validation"):
        (tmp_path / "default" / part).mkdir(parents=True)
        write(tmp_path / "default" / part / "0000.parquet", {"image": [png("red")]})
    with pytest.raises(ValueError, match="train.*validation"):
        open_source(f"parquet:{tmp_path}")
    every = open_source(f"parquet:{tmp_path}?split=all")
    assert [every.key(i) for i in range(2)] == [
        f"default/{part}/0000/0" for part in ("train", "validation")
    ]
    assert open_source(f"parquet:{tmp_path}/default/train").key(0) == "0000/0"


def test_files_beside_and_a_split_column_are_named(tmp_path, nothing_said, capsys):
    write(tmp_path / "a.parquet", {"image": [png("red")] * 2, "split": ["train", "test"]})
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".gitattributes").write_text("lfs")
    assert len(open_source(f"parquet:{tmp_path}")) == 2
    said = capsys.readouterr().err
    assert "all rows are read, whatever column 'split' says (test, train)" in said
    assert "2 files are left out: 1 .md, 1 hidden (README.md, .gitattributes)" in said


def test_an_image_that_is_only_a_path(tmp_path):
    write(tmp_path / "a.parquet", {"image": [{"bytes": None, "path": "x/y.png"}, {"bytes": b"a"}]})
    with pytest.raises(ValueError, match="row 0 .* holds no image bytes, only the path 'x/y.png'"):
        open_source(f"parquet:{tmp_path}")[0]

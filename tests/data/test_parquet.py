import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti.data import parquet
from smalti.data.source import open_source


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

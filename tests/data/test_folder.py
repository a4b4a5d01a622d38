import json

import pytest
from PIL import Image

from smalti.data.source import open_source


def save(path, colour="red", size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def rows(source):
    return [(source.key(i), source.label(i), source.caption(i)) for i in range(len(source))]


def test_class_folders(tmp_path):
    save(tmp_path / "dog" / "b.png", "blue")
    save(tmp_path / "cat" / "deep" / "a.JPG")
    save(tmp_path / "cat" / "z.webp")
    save(tmp_path / ".hidden" / "a.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    source = open_source(f"folder:{tmp_path}")
    assert source.name == f"folder:{tmp_path}"
    assert source.classes == ["cat", "dog"]
    assert rows(source) == [("cat/deep/a.JPG", 0, ""), ("cat/z.webp", 0, ""), ("dog/b.png", 1, "")]
    image, label, caption = source[2]
    assert (image.getpixel((0, 0)), label, caption) == ((0, 0, 255), 1, "")


def test_flat_folder(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.bmp")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == [] and rows(source) == [("a.bmp", -1, ""), ("b.png", -1, "")]
    assert source[0].label == -1


def test_metadata_jsonl(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "sub" / "b.png")
    lines = [
        {"file_name": "sub/b.png", "label": "dog", "text": "a dog\u2028here"},
        {"file_name": "a.png", "label": "cat", "caption": "a cat"},
        {"file_name": "a.png"},
    ]
    text = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in lines)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["cat", "dog"]
    assert rows(source) == [
        ("sub/b.png", 1, "a dog\u2028here"),
        ("a.png", 0, "a cat"),
        ("a.png", -1, ""),
    ]


def test_metadata_csv_with_integer_labels(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,label,text\na.png,2,"x, y"\na.png,,\n')
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["0", "1", "2"]
    assert rows(source) == [("a.png", 2, "x, y"), ("a.png", -1, "")]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"file_name": "gone.png"}', r"metadata.jsonl, line 2: gone.png does not exist"),
        ('{"file_name": "../a.png"}', r"line 2: file_name '../a.png' leaves the folder"),
        ('{"label": 1}', r"line 2: no file_name"),
        ('{"file_name": "a.png", "text": 3}', r"line 2: a caption must be a string, got 3"),
        ("[1]", r"line 2 must be an object"),
        ("{", r"line 2 is not JSON"),
        ('{"file_name": "a.png", "label": 1.5}', r"labels must be"),
    ],
)
def test_bad_metadata(tmp_path, line, message):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{tmp_path}")


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        open_source(f"folder:{tmp_path / 'gone'}")
    with pytest.raises(ValueError, match="holds no images.*png jpg"):
        open_source(f"folder:{tmp_path}")
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="class folder 'dog' holds no images"):
        open_source(f"folder:{tmp_path}")
    save(tmp_path / "dog" / "a.png")
    save(tmp_path / "loose.png")
    with pytest.raises(ValueError, match="loose.png.*beside class folders"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("file_name\n")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match="keep one"):
        open_source(f"folder:{tmp_path}")


def test_corrupt_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    source = open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="bad.png"):
        source[0]


def test_fingerprint(tmp_path):
    save(tmp_path / "a" / "1.png")
    first = open_source(f"folder:{tmp_path}").fingerprint()
    assert first == open_source(f"folder:{tmp_path}").fingerprint() and len(first) == 16
    save(tmp_path / "a" / "1.png", size=(64, 64))
    larger = open_source(f"folder:{tmp_path}").fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, larger, open_source(f"folder:{tmp_path}").fingerprint()}) == 3

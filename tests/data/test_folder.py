import io
import json
import os
import re
import struct
import zlib

import pytest
from PIL import Image

from smalti.data import folder
from smalti.data.skipped import read, summary
from smalti.data.source import open_source, split


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
        ('{"file_name": "gone.png"}', "gone.png does not exist"),
        ('{"file_name": "../a.png"}', "file_name '../a.png' leaves the folder"),
        ('{"file_name": "%s"}' % ("a" * 300), "name too long"),
        ('{"file_name": "a\\u0000.png"}', "does not exist"),
        ('{"label": 1}', "no file_name"),
        ('{"file_name": "a.png", "text": 3}', "a caption must be a string, got 3"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "surrogates not allowed"),
        ("[1]", r"not an object: \[1\]"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=range(10),
)
def test_a_metadata_line_that_cannot_be_used_is_skipped_and_named(tmp_path, line, message):
    save(tmp_path / "a.png")
    good = '{"file_name": "a.png", "text": "x", "colour": "unknown columns do not matter"}'
    (tmp_path / "metadata.jsonl").write_text(f"{good}\n{line}\n")
    source = open_source(f"folder:{tmp_path}")
    assert rows(source) == [("a.png", -1, "x")]
    ((name, reason),) = source.skipped.items()
    assert name == "metadata.jsonl, line 2" and re.search(message, reason, re.IGNORECASE)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match="nothing is left to use; skipped 1 .*line 1"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("label", ["1.5", "-2", "1048576", "1" + "0" * 40, "true", "[0]"])
def test_labels_that_are_no_classes(tmp_path, label):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "label": {label}}}')
    with pytest.raises(ValueError, match="metadata.jsonl: labels must be"):
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


def spoil(path):
    """One of each kind of file that is no picture; their names and what is said of them."""
    Image.new("RGB", (8, 8)).save(path / "whole.png")
    contents = {
        "empty.png": b"",
        "text.png": b"not an image",
        "header.png": (path / "whole.png").read_bytes()[:20],
        "bomb.png": bomb(),
    }
    (path / "whole.png").unlink()
    for name, content in contents.items():
        (path / name).write_bytes(content)
    reasons = dict.fromkeys(contents, "not a picture, or empty")
    return reasons | {"header.png": "Truncated", "bomb.png": "400000000 pixels.*bomb"}


def bomb():
    """A PNG of a few hundred bytes that says it is 20,000 pixels square."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("headers", [100, 0])
def test_files_that_are_no_pictures_are_skipped_and_named(tmp_path, monkeypatch, headers):
    monkeypatch.setattr(folder, "HEADERS", headers)
    save(tmp_path / "good.png", "blue")
    reasons = spoil(tmp_path)
    source = open_source(f"folder:{tmp_path}")
    if headers:
        assert rows(source) == [("good.png", -1, "")]
    else:  # they are noted when they are wanted
        assert len(source) == 5 and not source.skipped
        found = [read(source, i) for i in range(5)]
        assert [e is None for e in found] == [k != "good.png" for k in map(source.key, range(5))]
    assert source.skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(f"cannot decode image .*{name}: .*{reason}", source.skipped[name])
    text = summary(source.skipped)
    assert text.startswith(
        "skipped 4 that cannot be used: bomb.png, empty.png, header.png, text.png (the first: "
    )


def test_a_folder_of_which_nothing_is_left(tmp_path):
    spoil(tmp_path)
    with pytest.raises(ValueError, match="nothing is left to use; skipped 4 .*bomb.png"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["two words.png", "umlaut ü 漢.png", "line\nbreak.png", "UP.PNG"])
def test_strange_names(tmp_path, name):
    save(tmp_path / "a class" / name)
    source = open_source(f"folder:{tmp_path}")
    assert rows(source) == [(f"a class/{name}", 0, "")] and source[0].image.size == (4, 4)
    assert split(source, 0.5) == ([0], [])


def test_a_name_that_is_not_utf8(tmp_path):
    save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.key(0) == "\\xff.png" and source[0].image.size == (4, 4)
    assert len(source.fingerprint()) == 16


def test_loops_pipes_and_dead_links_are_no_pictures(tmp_path):
    save(tmp_path / "cat" / "deep" / "a.png")
    save(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "cat" / "deep" / "loop").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "self").symlink_to(tmp_path / "cat" / "self")
    (tmp_path / "cat" / "dead.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    keys = [row[0] for row in rows(open_source(f"folder:{tmp_path}"))]
    assert keys == ["cat/deep/a.png", "cat/linked/b.png", "elsewhere/b.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_skipped(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "b.png").chmod(0)
    source = open_source(f"folder:{tmp_path}")
    assert len(source) == 1 and "Permission denied" in source.skipped["b.png"]


def test_fingerprint(tmp_path):
    save(tmp_path / "a" / "1.png")
    first = open_source(f"folder:{tmp_path}").fingerprint()
    assert first == open_source(f"folder:{tmp_path}").fingerprint() and len(first) == 16
    save(tmp_path / "a" / "1.png", size=(64, 64))
    larger = open_source(f"folder:{tmp_path}").fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, larger, open_source(f"folder:{tmp_path}").fingerprint()}) == 3

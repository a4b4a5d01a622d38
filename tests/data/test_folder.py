import io
import json
import os
import re
import struct
import zlib

import pytest
from PIL import Image

from smalti import progress
from smalti.data import folder
from smalti.data.open import open_source
from smalti.data.skipped import read, summary
from smalti.data.source import split


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


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_metadata_csv_of_other_delimiters(tmp_path, delimiter):
    save(tmp_path / "a.png")
    table = delimiter.join(["file_name", "text"]), delimiter.join(["a.png", "x, y"])
    (tmp_path / "metadata.csv").write_text("\ufeff" + "\n".join(table), encoding="utf-8")
    assert rows(open_source(f"folder:{tmp_path}")) == [("a.png", -1, "x, y")]


def test_text_files_beside_pictures_are_their_captions(tmp_path, capsys):
    for name in ("dog/a.png", "dog/b.c.jpg", "cat/a.png", "cat/d.png"):
        save(tmp_path / name)
    (tmp_path / "dog" / "a.txt").write_text("\ufeffa dog,\n  asleep\n", encoding="utf-8")
    (tmp_path / "dog" / "b.c.txt").write_text("two dogs")
    (tmp_path / "cat" / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "cat" / "notes.txt").write_text("of no picture")
    source = open_source(f"folder:{tmp_path}")
    assert rows(source) == [
        ("cat/a.png", 0, ""),
        ("cat/d.png", 0, ""),
        ("dog/a.png", 1, "a dog, asleep"),
        ("dog/b.c.jpg", 1, "two dogs"),
    ]
    assert list(source.skipped) == ["cat/a.txt"] and "not UTF-8" in source.skipped["cat/a.txt"]
    said = capsys.readouterr().err
    assert "the captions of 2 of 4 pictures are text files beside them" in said
    assert "left out: 2 .txt (cat/a.txt, cat/notes.txt)" in said


def test_a_table_of_another_name_is_named(tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file_name,text\na.png,x\n")
    assert rows(open_source(f"folder:{tmp_path}")) == [("a.png", -1, "")]
    said = capsys.readouterr().err
    assert "captions.csv is not read: a table of file names, labels and captions is called" in said


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
    with pytest.raises(ValueError, match="holds no images.*png jpg.*; it is empty"):
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


# -- what is left out, and what is said of it


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(progress, "_SAID", set())


def test_whatever_pillow_reads_is_a_picture(tmp_path, nothing_said, capsys):
    image = Image.new("RGB", (8, 8), "blue")
    for name in ("a.png", "b.jfif", "c.ppm", "d.avif", "e.TGA"):
        image.save(tmp_path / name)
    image.save(tmp_path / "f", "WEBP")
    source = open_source(f"folder:{tmp_path}")
    assert [r[0] for r in rows(source)] == ["a.png", "b.jfif", "c.ppm", "d.avif", "e.TGA", "f"]
    assert all(abs(source[i].image.getpixel((4, 4))[2] - 255) < 4 for i in range(6))
    assert capsys.readouterr().err == ""


def test_what_is_left_out_is_counted_and_named_in_a_line(tmp_path, nothing_said, capsys):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "cat" / "._a.png")
    save(tmp_path / ".cache" / "b.png")
    for name in ("1.txt", "2.TXT", "clip.mp4", "b.heic", "README"):
        (tmp_path / "cat" / name).write_text("no image")
    source = open_source(f"folder:{tmp_path}")
    assert capsys.readouterr().err == (
        f"folder:{tmp_path}: 7 files are left out: 2 .txt, 2 hidden, 1 .heic, 1 .mp4, "
        "1 without suffix (cat/1.txt, cat/2.TXT, cat/README, cat/b.heic, cat/clip.mp4, ...)\n"
    )
    assert not source.skipped  # no fault of the pictures
    open_source(f"folder:{tmp_path}")
    assert capsys.readouterr().err == ""  # once


def test_a_class_without_pictures_says_what_it_holds(tmp_path):
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "b.heic").write_text("not read")
    with pytest.raises(ValueError, match=r"'dog' holds no images; 1 file is left out: 1 .heic \(d"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "dog" / "b.heic").rename(tmp_path / "c.parquet")
    (tmp_path / "dog").rmdir()
    (tmp_path / "cat" / "a.png").unlink()
    with pytest.raises(ValueError, match=f"holds no images.*; .*which parquet:{tmp_path} reads"):
        open_source(f"folder:{tmp_path}")


# -- class names that are numbers


def test_numbers_sort_as_numbers(tmp_path):
    for name in ("10", "2", "cat", "-1", "0.5", "1", "11", "B"):
        save(tmp_path / name / "a.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["-1", "0.5", "1", "2", "10", "11", "B", "cat"]
    assert [source.key(i) for i in (3, 4)] == ["2/a.png", "10/a.png"]
    assert [source.label(i) for i in range(8)] == list(range(8))


def test_a_label_of_minus_one_is_none_in_every_table(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,1\na.png,-1\na.png,0\n")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["0", "1"] and [r[1] for r in rows(source)] == [1, -1, 0]
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,1\na.png,-2\n")
    assert open_source(f"folder:{tmp_path}").classes == ["-2", "1"], "names, not numbers"


def test_text_labels_that_are_numbers(tmp_path):
    save(tmp_path / "a.png")
    lines = [f'{{"file_name": "a.png", "label": "{n}"}}' for n in (10, 2, 1)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["1", "2", "10"] and [r[1] for r in rows(source)] == [2, 1, 0]


@pytest.mark.parametrize("text", ["file_name,label\na.png,2.0\na.png,\na.png,0.0\n", None])
def test_whole_floats_are_integers(tmp_path, text):
    save(tmp_path / "a.png")
    if text:
        (tmp_path / "metadata.csv").write_text(text)
    else:
        lines = [f'{{"file_name": "a.png", "label": {n}}}' for n in ("2.0", "NaN", "0.0")]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(f"folder:{tmp_path}")
    assert [r[1] for r in rows(source)] == [2, -1, 0] and source.classes == ["0", "1", "2"]


# -- parts of a dataset


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val", "extra"), ("train",)])
@pytest.mark.parametrize("inside", ["metadata", "classes", "flat"])
def test_parts_are_no_classes(tmp_path, names, inside):
    for name in names:
        save(tmp_path / name / ("cat/a.png" if inside == "classes" else "a.png"))
        if inside == "metadata":
            line = f'{{"file_name": "a.png", "text": "{name}"}}'
            (tmp_path / name / "metadata.jsonl").write_text(line)
    first = sorted(set(names) - {"extra"})[0]
    message = f"holds .*{first}.*dataset and no classes; read .*folder:{tmp_path}/{first}"
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{tmp_path}/")
    source = open_source(f"folder:{tmp_path}/{first}")
    assert (
        rows(source)
        == {
            "metadata": [("a.png", -1, first)],
            "classes": [("cat/a.png", 0, "")],
            "flat": [("a.png", -1, "")],
        }[inside]
    )


def test_parts_below_one_folder_and_below_classes(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / "images" / part / "a.png")
    with pytest.raises(ValueError, match=f"read one of them: folder:{tmp_path}/images/train, fold"):
        open_source(f"folder:{tmp_path}")
    save(tmp_path / "dog" / "a.png")
    with pytest.raises(
        ValueError, match="images holds train and val.*put them on top, as train/im"
    ):
        open_source(f"folder:{tmp_path}")


def test_a_part_of_many_folders_may_be_a_class(tmp_path):
    for name in ("train", "bus", "tram"):
        save(tmp_path / name / "a.png")
    assert open_source(f"folder:{tmp_path}").classes == ["bus", "train", "tram"]


def test_metadata_below_the_folder_is_not_passed_over(tmp_path, nothing_said, capsys):
    for name in ("one", "two"):
        save(tmp_path / name / "a.png")
        (tmp_path / name / "metadata.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(ValueError, match=f"one/metadata.csv.*one of folder:{tmp_path}/one, folder"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "metadata.csv").write_text("file_name,text\none/a.png,top\n")
    source = open_source(f"folder:{tmp_path}")
    assert rows(source) == [("one/a.png", -1, "top")]
    assert "3 files are left out: 2 .csv, 1 without a usable line in metadata.csv (" in (
        capsys.readouterr().err
    )


def test_parts_that_one_metadata_file_joins_are_named(tmp_path, nothing_said, capsys):
    lines = ["file_name,split"]
    for part in ("train", "test"):
        save(tmp_path / part / "a.png")
        lines.append(f"{part}/a.png,{part}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    assert len(open_source(f"folder:{tmp_path}")) == 2
    said = capsys.readouterr().err
    assert "all rows are read, whatever column 'split' says (test, train)" in said
    assert "the files of test and train are read as one set" in said


def test_folders_within_class_folders_are_named(tmp_path, nothing_said, capsys):
    for name in ("2", "10", "1"):
        save(tmp_path / "animals" / name / "a.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["animals"]
    said = capsys.readouterr().err
    assert f"in animals (3: 1, 2, 10) are not told apart, as they are by folder:{tmp_path}" in said
    assert open_source(f"folder:{tmp_path}/animals").classes == ["1", "2", "10"]


# -- columns of a metadata file


def test_usual_names_of_columns(tmp_path, nothing_said, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("path,class,prompt,width\na.png,cat,a cat,4\n")
    source = open_source(f"folder:{tmp_path}")
    assert rows(source) == [("a.png", 0, "a cat")] and source.classes == ["cat"]
    assert (
        "metadata.csv" not in (said := capsys.readouterr().err)
        and "labels are column 'class', captions 'prompt'; not used: width (?label=" in said
    )


def test_columns_that_are_asked_for(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    line = {"file_name": "a.png", "label": "x", "fine": "y", "text": "t", "long": "u", "n": [1]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line | {"other": "b.png"}))
    name = f"folder:{tmp_path}?label=fine&text=long&image=other"
    source = open_source(name)
    assert source.name == name
    assert rows(source) == [("b.png", 0, "u")] and source.classes == ["y"]
    assert rows(open_source(f"folder:{tmp_path}?label=&text=")) == [("a.png", -1, "")]
    with pytest.raises(
        ValueError, match="'gone' is no column that holds a label; it has file_name"
    ):
        open_source(f"folder:{tmp_path}?label=gone")
    with pytest.raises(ValueError, match=f"write folder:{tmp_path}/test for that part"):
        open_source(f"folder:{tmp_path}/?split=test")
    with pytest.raises(ValueError, match="'n' is no column that holds a label"):
        open_source(f"folder:{tmp_path}?label=n")
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r"\?label= has no meaning here; there are no columns"):
        open_source(f"folder:{tmp_path}?label=fine")


def test_folders_that_are_no_classes(tmp_path, nothing_said):
    for name in ("00000/b.png", "01000/a.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "00000" / "b.txt").write_text("a face")
    source = open_source(f"folder:{tmp_path}?label=")
    assert source.classes == []
    assert rows(source) == [
        ("00000/b.png", -1, "a face"),
        ("01000/a.png", -1, ""),
        ("c.png", -1, ""),
    ]
    (tmp_path / "c.png").unlink()
    assert open_source(f"folder:{tmp_path}").classes == ["00000", "01000"]
    for part in ("train", "test"):
        save(tmp_path / "parts" / part / "a.png")
    parts = f"{tmp_path}/parts"
    with pytest.raises(ValueError, match=f"read one of them: folder:{parts}/test, folder:{parts}/"):
        open_source(f"folder:{parts}?label=")


def test_several_captions_and_lines_that_are_too_long(tmp_path, nothing_said, capsys):
    save(tmp_path / "a.png")
    line = {"file_name": "a.png", "captions": ["first", "second"], "label": 1}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    assert rows(open_source(f"folder:{tmp_path}")) == [("a.png", 1, "first")]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\na.png,a cat, black\n")
    assert rows(open_source(f"folder:{tmp_path}"))[1] == ("a.png", -1, "a cat")
    assert "1 lines have more fields than there are columns, the first line 3: a text" in (
        capsys.readouterr().err
    )


def test_images_without_a_label_among_others_are_counted(tmp_path, nothing_said, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,cat\na.png,\na.png,\n")
    open_source(f"folder:{tmp_path}")
    assert capsys.readouterr().err == f"folder:{tmp_path}: 2 of 3 images have no label\n"


@pytest.mark.parametrize("names", [[f"photo #{i}.png" for i in range(20)], ["#1.png", "#2.png"]])
def test_names_with_a_hash_are_held_out_like_others(tmp_path, names):
    for name in names:
        save(tmp_path / "C#" / name)
    train, held = split(open_source(f"folder:{tmp_path}"), 0.1)
    assert (len(train), len(held)) == ((18, 2) if len(names) == 20 else (1, 1))

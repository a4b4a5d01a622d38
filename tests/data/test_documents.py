"""Documents of captioned pictures and of what somebody wrote down, alone and joined."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti.data.documents import CAPTION, KEYWORDS, Piece, asked, is_documents, open_documents
from smalti.data.open import open_source
from smalti.data.skipped import read
from smalti.data.source import split


def texts(document):
    return [piece.text for piece in document]


def learned(document):
    return [piece.learned for piece in document]


@pytest.fixture
def folder(tmp_path):
    """Pictures whose colour says their number, three of them with captions."""
    for i in range(4):
        Image.new("RGB", (12, 12), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"number {i}" * (i != 2)} for i in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def written(folder, *rows):
    path = folder / "d.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return f"qa:{path}"


def test_a_piece_is_one_thing():
    picture = Image.new("RGB", (8, 8))
    assert Piece("a").text == "a" and Piece(image=picture).image is picture
    for given in ({}, {"text": "a", "image": picture}):
        with pytest.raises(ValueError, match=f"one of them, got {len(given)}"):
            Piece(**given)


def test_each_picture_is_drawn_and_described():
    source, documents = open_source("shapes:30"), open_documents("captioned:shapes:30")
    assert documents.name == "captioned:shapes:30" and len(documents) == 60
    for i in (0, 7, 29):
        image, _, caption = source[i]
        drawn, described = documents[2 * i], documents[2 * i + 1]
        assert texts(drawn) == [asked(caption), ""] and learned(drawn) == [False, True]
        assert texts(described) == ["", CAPTION, caption]
        assert learned(described) == [False, False, True]
        assert all(np.array_equal(p.image, image) for p in (drawn[1], described[0]))
        assert [documents.task(2 * i + k) for k in (0, 1)] == ["draw", "caption"]
        assert documents.key(2 * i) == documents.key(2 * i + 1) == source.key(i)


def test_both_documents_of_a_picture_are_held_out():
    documents = open_documents("captioned:shapes:50")
    train, held = split(documents, 0.2)
    assert len(held) == 20 and len(train) == 80
    assert {i // 2 for i in held} == set(split(open_source("shapes:50"), 0.2)[1])


def test_pictures_without_a_caption_are_left_out_and_said_so(folder, capsys):
    documents = open_documents(f"captioned:folder:{folder}")
    assert [documents[2 * i][0].text for i in range(3)] == [
        "number 0\n",
        "number 1\n",
        "number 3\n",
    ]
    assert np.asarray(documents[5][0].image)[0, 0].tolist() == [180, 0, 0]
    assert "1 of 4 images have no caption: left out" in capsys.readouterr().err
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="have no captions"):
        open_documents(f"captioned:{folder}")


def emoji(tmp_path, words):
    """Three styles of each of some emoji, whose code points are a column, with their keywords."""
    styles = ("noto", "twemoji", "fluent3d")
    rows = [(style, i, some) for i, some in enumerate(words) for style in styles]
    table = {
        "id": [f"{style}/{i}" for style, i, _ in rows],
        "image": [png(60 * i, k % 3) for k, (_, i, _) in enumerate(rows)],
        "caption": [f"emoji {i}" for _, i, _ in rows],
        "keywords": [some for *_, some in rows],
        "codepoints": [f"{i:04x}" for _, i, _ in rows],
    }
    pq.write_table(pa.table(table), tmp_path / "emoji.parquet")
    return f"captioned:parquet:{tmp_path / 'emoji.parquet'}"


def png(*colour):
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (*colour, 0)).save(file, "PNG")
    return file.getvalue()


def test_keywords_are_drawn_and_told(tmp_path):
    name = emoji(tmp_path, [["cat ", "pet", ""], None, ["sun"]])
    plain = open_documents(name)
    assert len(plain) == 18 and {plain.task(i) for i in range(18)} == {"draw", "caption"}
    documents = open_documents(f"{name}?keywords=keywords")
    assert len(documents) == 4 * 6 + 2 * 3  # those of the second have none
    assert [documents.task(i) for i in range(4)] == ["draw", "caption", "draw-keywords", "keywords"]
    *_, drawn, told = (documents[i] for i in range(4))
    assert texts(drawn) == ["cat, pet\n", ""] and learned(drawn) == [False, True]
    assert texts(told) == ["", KEYWORDS, "cat, pet"] and learned(told) == [False, False, True]
    assert all(np.asarray(p.image)[0, 0].tolist() == [0, 0, 0] for p in (drawn[1], told[0]))
    assert [documents.texts(i) for i in (2, 3)] == [["cat, pet\n"], [KEYWORDS, "cat, pet"]]
    assert [documents.task(i) for i in range(12, 16)] == ["draw", "caption"] * 2
    assert np.asarray(documents[29][0].image)[0, 0].tolist() == [120, 2, 0]
    assert texts(documents[29]) == ["", KEYWORDS, "sun"]
    emoji(tmp_path, [["cat", "lion"], None, ["sun"]])
    other = open_documents(f"{name}?keywords=keywords")
    assert other.fingerprint() != documents.fingerprint() != plain.fingerprint()


def test_all_styles_of_an_emoji_are_held_out_together(tmp_path):
    name = emoji(tmp_path, [[f"word {i}"] for i in range(4)])
    documents = open_documents(f"{name}?key=codepoints&keywords=keywords")
    parts = [{documents.texts(i)[-1].strip() for i in part} for part in split(documents, 0.5)]
    assert [len(part) for part in parts] == [4, 4] and not parts[0] & parts[1]


def test_keywords_that_are_not_there(tmp_path):
    name = emoji(tmp_path, [["cat"]])
    with pytest.raises(ValueError, match="'keyword' is no column that holds keywords; did you"):
        open_documents(f"{name}?keywords=keyword")
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="keywords= has no meaning here"):
        open_documents(f"captioned:folder:{tmp_path}?keywords=tags")


def test_questions_and_answers(folder):
    name = written(
        folder,
        {"image": "1.png", "question": "Which is it? ", "answer": "one"},
        "",
        {"question": "2 + 2?", "answer": "4"},
        {"image": None, "question": "2 + 2?", "answer": "four"},
        {"image": "1.png", "question": "Is it red?", "answer": "yes"},
    )
    documents = open_documents(name)
    assert len(documents) == 4 and {documents.task(i) for i in range(4)} == {"ask"}
    assert texts(documents[0]) == ["", "Which is it?\n", "one"] and asked("x") == "x\n"
    assert learned(documents[0]) == [False, False, True]
    assert np.asarray(documents[0][0].image)[0, 0].tolist() == [60, 0, 0]
    assert texts(documents[1]) == ["2 + 2?\n", "4"]
    assert documents.key(0) == documents.key(3) == "1.png"
    assert documents.key(1) != documents.key(2)


def test_text_and_pictures_in_any_order(folder):
    name = written(
        folder,
        {"parts": [{"text": "first "}, {"image": "0.png", "learned": False}, {"image": "3.png"}]},
        {"parts": [{"text": "alone", "learned": True}]},
    )
    documents = open_documents(name)
    assert texts(documents[0]) == ["first ", "", ""] and learned(documents[0]) == [
        True,
        False,
        True,
    ]
    assert [np.asarray(p.image)[0, 0, 0] for p in documents[0][1:]] == [0, 180]
    assert texts(documents[1]) == ["alone"] and documents.task(1) == "document"
    assert documents.key(0) == "0.png"


def test_a_text_that_asks_for_a_picture_ends_as_all_that_is_asked(folder):
    read, seen = {"text": "a cat ", "learned": False}, {"image": "0.png", "learned": False}
    rows = [[read, {"image": "0.png"}], [read, seen, {"text": "it"}], [{"text": "a"}, seen]]
    documents = open_documents(written(folder, *({"parts": parts} for parts in rows)))
    assert [documents[i][0].text for i in range(3)] == ["a cat\n", "a cat ", "a"]


@pytest.mark.parametrize(
    "row, said",
    [
        ("{", "Expecting property name"),
        ("[1]", "need an object with the keys image, question, answer, got"),
        ({"question": "a"}, "answer must be a text that is not empty, got None"),
        ({"question": " ", "answer": "b"}, "question must be a text that is not empty"),
        ({"qestion": "a", "answer": "b"}, "'qestion' is not known; did you mean 'question'?"),
        ({"question": "a", "answer": "b", "image": 3}, "image must name a file, got 3"),
        ({"question": "a", "answer": "b", "image": "9.png"}, "the image '9.png' is not there"),
        ({"question": "<image> a", "answer": "b"}, "question has <image> without an image"),
        ({"parts": []}, "parts must be a list of texts and images"),
        ({"parts": [{}]}, "a part has a text or an image, one of them"),
        ({"parts": [{"image": None}]}, "image must name a file, got None"),
        ({"parts": [{"image": ""}]}, "image must name a file, got ''"),
        ({"parts": [{"text": "<image>"}]}, "text has <image> without an image"),
        ({"parts": [{"text": "a", "image": "0.png"}]}, "one of them"),
        ({"parts": [{"text": "a", "learned": 1}]}, "learned must be true or false, got 1"),
        ({"parts": [{"text": "a", "kind": 1}]}, "'kind' is not known; allowed: text, image"),
        ({"parts": [{"text": "a"}], "id": 1}, "'id' is not known; allowed: parts"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(folder, row, said):
    name = written(folder, {"question": "a", "answer": "b"}, "", row)
    with pytest.raises(ValueError) as error:
        open_documents(name)
    text = " ".join(str(error.value).replace("(", "").split())
    assert text.startswith(f"{folder / 'd.jsonl'}, line 3: ") and said in text


def test_files_that_are_none(folder):
    with pytest.raises(ValueError, match="holds no documents"):
        open_documents(written(folder, "", ""))
    with pytest.raises(ValueError, match=r"dd.jsonl cannot be read .*did you mean 'd.jsonl'"):
        open_documents(f"qa:{folder / 'dd.jsonl'}")
    (folder / "d.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        open_documents(f"qa:{folder / 'd.jsonl'}")


def test_a_broken_picture_leaves_its_document_out(folder):
    (folder / "2.png").write_bytes(b"no picture")
    name = written(
        folder,
        *({"image": f"{i}.png", "question": "a", "answer": "b"} for i in (1, 2)),
    )
    documents = open_documents(name)
    assert read(documents, 0) is not None and read(documents, 1) is None
    assert list(documents.skipped) == ["2.png"]
    joined = open_documents(f"{name}+captioned:shapes:3")
    assert read(joined, 1) is None and list(joined.skipped) == ["2.png"]


def test_documents_are_joined(folder):
    name = written(folder, {"question": "a", "answer": "b"})
    documents = open_documents(f"captioned:shapes:3+{name}+shapes-all:20")
    assert len(documents) == 6 + 1 + 20
    assert [documents.task(i) for i in (0, 1, 5, 6, 7, 26)] == [
        *("draw", "caption", "caption", "ask", "draw", "edit")
    ]
    assert texts(documents[6]) == ["a\n", "b"]
    alone = open_documents("shapes-all:20")
    assert texts(documents[10]) == texts(alone[3]) and documents.key(10) == alone.key(3)
    for i in (-1, 27):
        with pytest.raises(IndexError, match="has 27 documents"):
            documents[i]
    other = open_documents(f"{name}+captioned:shapes:3+shapes-all:20")
    assert documents.fingerprint() != other.fingerprint()


def test_a_plus_of_a_path_stays(folder):
    place = folder / "a+b"
    place.mkdir()
    (place / "c+d.jsonl").write_text('{"question": "a", "answer": "b"}')
    assert len(open_documents(f"qa:{place / 'c+d.jsonl'}+shapes-all:5")) == 6


def test_fingerprints_change_with_what_is_written(folder):
    row = {"image": "1.png", "question": "a", "answer": "b"}
    prints = [open_documents(written(folder, row)).fingerprint()]
    for change in ({"answer": "c"}, {"image": "2.png"}, {"question": "A"}):
        prints.append(open_documents(written(folder, row | change)).fingerprint())
    assert len(set(prints)) == 4
    name = written(folder, row)
    assert open_documents(name).fingerprint() == prints[0]
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "1.png")
    assert open_documents(name).fingerprint() != prints[0]


def test_which_names_are_of_documents():
    for text in ("captioned:cats", "shapes-all", "shapes-all:5+qa:x", "docs:x.arrow", "qa:x.jsonl"):
        assert is_documents(text)
    for text in ("shapes", "shapes:5", "folder:x", "cats", "x.arrow", "caption:x"):
        assert not is_documents(text)
    with pytest.raises(ValueError, match="unknown documents 'caption:x'; did you mean 'captioned'"):
        open_documents("caption:x")
    for text in ("captioned:", "qa:", "docs:", "docs"):
        with pytest.raises(ValueError, match="name nothing; write"):
            open_documents(text)
    with pytest.raises(ValueError, match="no file is named like"):
        open_documents("docs:nowhere-*.arrow")

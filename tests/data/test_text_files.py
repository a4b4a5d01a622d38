"""Plain text as documents, and the texts of documents without their pictures."""

import json

import pytest
from PIL import Image

from smalti.data.document_file import Coding, DocumentCache, Row, write_documents
from smalti.data.documents import is_documents, open_documents
from smalti.data.source import split
from smalti.data.text_files import TextFiles


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "texts"
    (place / "deep").mkdir(parents=True)
    (place / ".hidden").mkdir()
    (place / "b.txt").write_bytes("\ufeffsea\r\n\r\n  blue sky  \n".encode())
    (place / "deep" / "a.TXT").write_text("sea\nd\u00e9j\u00e0 vu", encoding="utf-8")
    (place / "c.md").write_text("not this")
    (place / ".hidden" / "d.txt").write_text("nor this")
    return place


def test_every_line_with_something_in_it_is_a_document(folder):
    documents = open_documents(f"text:{folder}")
    assert isinstance(documents, TextFiles) and is_documents(f"text:{folder}")
    assert [documents.texts(i) for i in range(4)] == [
        ["sea"],
        ["blue sky"],
        ["sea"],
        ["d\u00e9j\u00e0 vu"],
    ]
    assert [(p.text, p.learned) for p in documents[1]] == [("blue sky", True)]
    assert documents.task(0) == "text" and documents.key(0) == documents.key(2) != documents.key(1)
    assert len(open_documents(f"text:{folder}/b.txt+shapes-all:3")) == 5


def test_the_fingerprint_is_that_of_the_lines(folder, tmp_path):
    (tmp_path / "all.txt").write_text("sea\nblue sky\nsea\nd\u00e9j\u00e0 vu\n", encoding="utf-8")
    assert TextFiles(folder).fingerprint() == TextFiles(tmp_path / "all.txt").fingerprint()
    (tmp_path / "all.txt").write_text("sea\nblue sky\nsea\n", encoding="utf-8")
    assert TextFiles(folder).fingerprint() != TextFiles(tmp_path / "all.txt").fingerprint()


def test_equal_lines_are_held_out_together(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(str(i % 20) for i in range(100)))
    documents = TextFiles(tmp_path / "a.txt")
    learned, held = ({documents.texts(i)[0] for i in part} for part in split(documents, 0.2))
    assert len(learned) == 16 and len(held) == 4 and not learned & held


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.txt", None, "none.txt cannot be read (there is no "),
        ("a.md", b"text", "a.md must be a .txt file or a folder of them"),
        ("a.txt", b" \n\n", "a.txt holds no text"),
        ("a.txt", b"\xff\xfe", "a.txt is not text in UTF-8"),
        ("", None, "holds no .txt files"),
    ],
)
def test_what_holds_no_text(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        open_documents(f"text:{tmp_path / name}")
    assert told in str(error.value)
    with pytest.raises(ValueError, match="write text:PATH"):
        open_documents("text:")


def test_texts_are_those_of_the_pieces_and_no_picture_is_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    parts = [{"text": "a cat", "learned": False}, {"image": "a.png"}, {"text": "asleep"}]
    lines = [{"image": "a.png", "question": "What?", "answer": "a cat"}, {"parts": parts}]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    names = ["captioned:shapes:4", f"qa:{tmp_path}/qa.jsonl", "shapes-all:20"]
    documents = open_documents("+".join(names))
    pieces = [[p.text for p in documents[i] if p.text] for i in range(len(documents))]
    monkeypatch.setattr(Image, "open", None)
    monkeypatch.setattr("smalti.data.shape_scenes.Scene.draw", None)
    monkeypatch.setattr("smalti.data.drawn_shapes.Attributes.draw", None, raising=False)
    assert [documents.texts(i) for i in range(len(documents))] == pieces
    assert pieces[8:10] == [["What?\n", "a cat"], ["a cat\n", "asleep"]]


def test_texts_of_a_file_of_documents(tmp_path):
    from smalti.codes import TokenSpec

    coding = Coding(TokenSpec(((1, 1),), 4), {"fingerprint": "f"}, "text:a", "s")
    documents = TextFiles(_written(tmp_path / "a.txt", "sea\nsky"))
    rows = [Row(documents.key(i), "text", False, documents[i]) for i in range(2)]
    write_documents(tmp_path / "d.arrow", rows, coding)
    cache = DocumentCache(tmp_path / "d.arrow")
    assert [cache.texts(i) for i in range(2)] == [["sea"], ["sky"]]


def _written(path, text):
    path.write_text(text)
    return path

"""The Arrow file of encoded documents."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smalti.codes import TokenSpec
from smalti.data import document_file
from smalti.data.document_file import Coding, DocumentCache, Row, is_document_file, write_documents
from smalti.data.documents import Piece, open_documents
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, is_own, write_cache

SPECS = {
    "uint8": TokenSpec(grids=((2, 2),), vocab=256),
    "uint16": TokenSpec(grids=((2, 3),), vocab=300),
    "int32": TokenSpec(grids=((1, 4),), vocab=1 << 31),
    "residual": TokenSpec(grids=((2, 2),), vocab=16, depth=3),
    "bits": TokenSpec(grids=((1, 1), (2, 2)), vocab=2, channels=5),
    "numbers": TokenSpec(grids=((2, 2),), channels=4),
}
SMALL = SPECS["uint8"]


def codes_of(spec, rng):
    shape = spec.shape(1)[1:]
    if spec.discrete:
        return torch.from_numpy(rng.integers(0, spec.vocab, shape))
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def rows_of(spec, count=10, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        document = [Piece(f"text {i} é", learned=i % 2 == 0), Piece(codes=codes_of(spec, rng))]
        document += [Piece("end")] * (i % 3) + [Piece(codes=codes_of(spec, rng), learned=False)]
        yield Row(f"key{i // 2}", ("draw", "story")[i % 2], i % 5 == 0, document)


def coding(spec, **changes):
    tokenizer = {"type": "vqgan", "config": {"size": [16, 16]}, "fingerprint": "aaaa"}
    return Coding(spec, tokenizer, "shapes-all:10", "bbbb", **changes)


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert (x.text, x.learned, x.codes is None) == (y.text, y.learned, y.codes is None)
        if x.codes is not None:
            assert x.codes.dtype == y.codes.dtype and torch.equal(x.codes, y.codes)


@pytest.mark.parametrize("name", SPECS)
def test_documents_come_back_as_they_were(name, tmp_path, monkeypatch):
    monkeypatch.setattr(document_file, "ROWS", 4)
    spec, path = SPECS[name], tmp_path / "d.arrow"
    assert write_documents(path, rows_of(spec), coding(spec)) == 10
    cache = DocumentCache(path)
    assert len(cache) == 10 and cache.spec == spec and cache.encoding == coding(spec)
    assert cache.tokenizer == "aaaa" and cache.source == "shapes-all:10"
    assert cache.indices("held_out").tolist() == [0, 5]
    assert cache.indices("train").tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert cache.tasks == ["draw", "story"] * 5 and cache.counts() == {"draw": 5, "story": 5}
    assert cache.keys(np.array([3, 8])) == ["key1", "key4"] == [cache.key(3), cache.key(8)]
    for i, (row, again) in enumerate(zip(rows_of(spec), cache.rows(), strict=True)):
        same(cache.document(i), row.document)
        assert row[:3] == again[:3]
        same(again.document, row.document)


EYE = {"type": "tower_eye", "config": {}, "fingerprint": "eeee"}
SEEN = TokenSpec(grids=((1, 3),), channels=4)


def seen_rows(value=1.5):
    """Documents of which the pictures that are only read were seen."""
    for row in rows_of(SMALL):
        pieces = [
            p
            if p.codes is None or p.learned
            else Piece(codes=p.codes, learned=False, features=torch.full((3, 4), value).half())
            for p in row.document
        ]
        yield row._replace(document=pieces)


def test_what_an_eye_saw_comes_back_in_half_precision(tmp_path):
    path, about = tmp_path / "d.arrow", coding(SMALL, eye=EYE, seen=SEEN)
    write_documents(path, seen_rows(), about)
    cache = DocumentCache(path)
    assert cache.encoding == about and cache.eyes == ("eeee",) == (cache.eye,)
    for row, again in zip(seen_rows(), cache.rows(), strict=True):
        same(again.document, row.document)
        for a, b in zip(again.document, row.document, strict=True):
            assert (a.features is None) == (b.features is None) == (a.codes is None or a.learned)
            assert a.features is None or torch.equal(a.features, b.features)
            assert a.features is None or a.features.dtype == torch.float16
    cache.require("aaaa"), cache.require("aaaa", "eeee")
    with pytest.raises(ValueError, match="was seen by eye eeee, but the eye given is ffff"):
        cache.require("aaaa", "ffff")
    mark = cache.fingerprint()
    write_documents(path, seen_rows(2.5), about)
    assert DocumentCache(path).fingerprint() != mark


def test_files_without_an_eye_say_nothing_of_one(tmp_path):
    path = tmp_path / "d.arrow"
    write_documents(path, rows_of(SMALL), coding(SMALL))
    schema = pa.ipc.open_file(path.read_bytes()).schema
    assert schema.types == document_file.SCHEMA.types
    assert b"eye" not in schema.metadata[document_file.DOCUMENTS]
    assert b"seen" not in schema.metadata[document_file.DOCUMENTS]
    with pytest.raises(ValueError, match="was seen by no eye, but the eye given is ffff"):
        DocumentCache(path).require("aaaa", "ffff")


def test_the_share_is_the_one_that_was_given_or_in_older_files_that_of_keys(tmp_path):
    path = tmp_path / "d.arrow"
    for about, share in ((coding(SMALL), 2 / 5), (coding(SMALL, holdout=0.25), 0.25)):
        write_documents(path, rows_of(SMALL), about)
        cache = DocumentCache(path)
        assert cache.holdout == share and cache.encoding == about
    assert coding(SMALL).differences(coding(SMALL, holdout=0.25)) == []


def test_what_an_eye_saw_is_checked(tmp_path):
    about = coding(SMALL, eye=EYE, seen=SEEN)
    with pytest.raises(ValueError, match="only read, but the eye has not seen it"):
        write_documents(tmp_path / "d.arrow", rows_of(SMALL), about)
    with pytest.raises(ValueError, match=r"must be \(3, 4\), of 4 numbers, and finite"):
        write_documents(tmp_path / "d.arrow", seen_rows(torch.inf), about)
    with pytest.raises(ValueError, match="stands beside its codes, got no codes"):
        Piece("text", features=torch.zeros(3, 4))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6))
def test_any_text_comes_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("d") / "d.arrow"
    document = [Piece(text) for text in [*texts, "x"]]
    write_documents(path, [Row("a", "document", False, document)], coding(SMALL))
    same(DocumentCache(path).document(0), document)


def test_it_is_documents_itself(tmp_path, monkeypatch):
    for name, seed in (("a", 0), ("b", 1)):
        path = tmp_path / f"{name}.arrow"
        write_documents(path, rows_of(SMALL, seed=seed), coding(SMALL))
    one = open_documents(f"docs:{tmp_path / 'a.arrow'}")
    assert one.name == f"docs:{tmp_path / 'a.arrow'}" and one.tokenizers == ("aaaa",)
    assert (one.task(1), one.key(1)) == ("story", "key0")
    monkeypatch.setenv("HOME", str(tmp_path))
    several = open_documents("docs:~/?.arrow")
    assert len(several) == 20 and several.tokenizers == ("aaaa",)
    same(several[13], [*rows_of(SMALL, seed=1)][3].document)
    assert one.fingerprint() != DocumentCache(tmp_path / "b.arrow").fingerprint()
    with pytest.raises(IndexError, match="has 10 documents, got 10"):
        one[10]
    with pytest.raises(ValueError, match="split must be one of train, held_out, all, got 'test'"):
        one.indices("test")


def test_fingerprints_change_with_codes_texts_and_marks(tmp_path):
    def fingerprint(change=lambda row: row, about=None):
        rows = [change(row) for row in rows_of(SMALL)]
        write_documents(tmp_path / "d.arrow", rows, about or coding(SMALL))
        return DocumentCache(tmp_path / "d.arrow").fingerprint()

    def first(row, **changes):
        return row._replace(document=[Piece(**changes), *row.document[1:]])

    assert fingerprint() == fingerprint()
    found = {
        fingerprint(),
        fingerprint(lambda row: row._replace(held_out=False)),
        fingerprint(lambda row: row._replace(task="x")),
        fingerprint(lambda row: first(row, text="other")),
        fingerprint(lambda row: first(row, text=row.document[0].text, learned=False)),
        fingerprint(lambda row: first(row, codes=torch.zeros(4, dtype=torch.int64))),
        fingerprint(about=Coding(SMALL, coding(SMALL).tokenizer, "x", "cccc")),
    }
    assert len(found) == 7


@pytest.mark.parametrize(
    "name, codes, said",
    [
        ("uint8", torch.tensor([0, 1, 2, 256]), r"out of 256.* in \[0, 256\]"),
        ("uint8", torch.tensor([0, 1, 2, -1]), r"in \[-1, 2\]"),
        ("uint8", torch.zeros(4), "got float32"),
        ("uint8", torch.zeros(5, dtype=torch.int64), r"out of 256.* got int64 \(5,\)"),
        ("bits", torch.full((5, 5), 2), r"of 5 bits.* in \[2, 2\]"),
        ("numbers", torch.full((4, 4), float("nan")), "finite, got float32"),
        ("numbers", torch.zeros(4, 4, dtype=torch.int64), "got int64"),
    ],
)
def test_codes_that_are_none_of_the_spec_are_not_written(tmp_path, name, codes, said):
    rows = [Row("k7", "draw", False, [Piece(codes=codes)])]
    with pytest.raises(ValueError, match=f"codes of 'k7' must be .*{said}"):
        write_documents(tmp_path / "d.arrow", rows, coding(SPECS[name]))
    assert not list(tmp_path.iterdir())


def test_images_and_nothing_are_not_written(tmp_path):
    row = Row("k7", "draw", False, [Piece(image=Image.new("RGB", (8, 8)))])
    with pytest.raises(ValueError, match="a picture of 'k7' is not encoded"):
        write_documents(tmp_path / "d.arrow", [row], coding(SMALL))
    with pytest.raises(ValueError, match="no documents to write"):
        write_documents(tmp_path / "d.arrow", [], coding(SMALL))
    (tmp_path / "d.arrow").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not of smalti"):
        write_documents(tmp_path / "d.arrow", rows_of(SMALL), coding(SMALL))
    assert (tmp_path / "d.arrow").read_text() == "mine"


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "d.arrow"
    about = Encoding(SMALL, 1, "aaaa", {"size": 16}, "emoji", "bbbb", [])
    write_cache(path, [(np.zeros((1, 4), int), -1, "", False, "k")], about)
    with pytest.raises(ValueError, match="is a token cache of images, not a file of documents"):
        DocumentCache(path)
    assert not is_document_file(path) and is_own(path)
    write_documents(path, rows_of(SMALL), coding(SMALL))
    assert is_document_file(path) and is_own(path)
    with pytest.raises(ValueError, match="is an Arrow file, but not a token cache"):
        TokenCache(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="is not a complete file of documents"):
        DocumentCache(path)
    with pytest.raises(ValueError, match="is not a complete file of documents"):
        DocumentCache(tmp_path / "none.arrow")
    table = pa.table({"a": [1]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="is an Arrow file, but not one of documents"):
        DocumentCache(path)


def damaged(path, change):
    """The file with other columns or other metadata."""
    table = change(pa.ipc.open_file(path.read_bytes()).read_all())
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def parts(values):
    return lambda t: t.set_column(
        3, t.schema.field(3), pa.array(values, pa.list_(document_file.PART))
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.drop_columns(["task"]), "task"),
        (lambda t: t.replace_schema_metadata({b"smalti.documents": b"{}"}), "version"),
        (
            lambda t: t.replace_schema_metadata({b"smalti.documents": b'{"version": 2}'}),
            "version 2, this smalti reads version 1",
        ),
        (lambda t: t.replace_schema_metadata({b"smalti.documents": b"{"}), "Expecting"),
        (lambda t: t.set_column(1, "task", pa.array([1] * 10)), "columns must be"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, said):
    path = tmp_path / "d.arrow"
    write_documents(path, rows_of(SMALL), coding(SMALL))
    damaged(path, change)
    with pytest.raises(ValueError, match=f"d.arrow is damaged: .*{said}"):
        DocumentCache(path)


@pytest.mark.parametrize(
    "part, said",
    [
        ({"text": None, "codes": b"abc", "learned": True}, "cannot reshape"),
        ({"text": None, "codes": b"\x00\x01\x02\xf0", "learned": True}, "out of 200"),
        ({"text": None, "codes": None, "learned": True}, "one of them, got 0"),
        ({"text": "a", "codes": b"\x00\x01\x02\x03", "learned": True}, "one of them, got 2"),
        (None, "not subscriptable"),
    ],
)
def test_damaged_documents_are_named(tmp_path, part, said):
    path, spec = tmp_path / "d.arrow", TokenSpec(grids=((2, 2),), vocab=200)
    write_documents(path, [*rows_of(spec, 2)], coding(spec))
    damaged(path, parts([[{"text": "a", "codes": None, "learned": True}], [part]]))
    cache = DocumentCache(path)
    assert cache.document(0)[0].text == "a"
    with pytest.raises(ValueError, match=f"d.arrow is damaged: key0: .*{said}"):
        cache.document(1)


def test_codes_of_another_tokenizer_are_refused(tmp_path):
    write_documents(tmp_path / "d.arrow", rows_of(SMALL), coding(SMALL))
    cache = DocumentCache(tmp_path / "d.arrow")
    cache.require("aaaa")
    with pytest.raises(ValueError, match="was encoded by tokenizer aaaa, .* given is cccc"):
        cache.require("cccc")

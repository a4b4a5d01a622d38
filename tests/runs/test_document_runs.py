"""Documents to a file of codes, by a command and without."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from builders import build
from smalti.cli import main as cli
from smalti.data.document_file import DocumentCache
from smalti.data.documents import open_documents
from smalti.data.source import split
from smalti.data.transforms import Transform, to_float
from smalti.models import eye as eyes
from smalti.modules import fingerprint, save_module
from smalti.runs.documents import DocumentCoder, encode_documents
from smalti.tokenizers import kl_vae, vqgan

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def tokenizer():
    return build(vqgan.VQGAN, vqgan.tiny())


@pytest.fixture
def folder(tmp_path):
    """Questions about five pictures, the third of which is broken, and one without a picture."""
    place = tmp_path / "questions"
    place.mkdir()
    for i in range(5):
        Image.new("RGB", (30, 20), (50 * i, 9, 9)).save(place / f"{i}.png")
    (place / "2.png").write_bytes(b"no picture")
    rows = [{"image": f"{i}.png", "question": "Which?", "answer": str(i)} for i in range(5)]
    rows.append({"question": "1 + 1?", "answer": "2"})
    (place / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def smalti(*words):
    """The exit code of a command."""
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code
    return 0


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x.text, x.learned) == (y.text, y.learned)
        assert x.codes is None or torch.equal(x.codes, y.codes)


@pytest.mark.parametrize("kind", ["vqgan", "kl_vae"])
def test_pictures_become_codes_and_all_else_stays(kind, tmp_path):
    tokenizer = build(*{"vqgan": (vqgan.VQGAN, vqgan.tiny()), "kl_vae": KL}[kind])
    documents, out = open_documents("shapes-all:30+captioned:shapes:5"), tmp_path / "d.arrow"
    assert encode_documents(documents, tokenizer, out, 0.2) == 40
    cache = DocumentCache(out)
    assert cache.tokenizer == fingerprint(tokenizer) and cache.spec == tokenizer.spec
    assert cache.source == documents.name
    assert cache.source_fingerprint == documents.fingerprint()
    assert cache.indices("held_out").tolist() == split(documents, 0.2)[1]
    transform = Transform(tokenizer.size[0])
    for i in range(40):
        assert (cache.task(i), cache.key(i)) == (documents.task(i), documents.key(i))
        for piece, coded in zip(documents[i], cache.document(i), strict=True):
            assert (piece.text, piece.learned) == (coded.text, coded.learned)
            if piece.image is not None:
                view = to_float(torch.from_numpy(transform(piece.image, None)))
                with torch.no_grad():
                    expected = tokenizer.encode(view[None])[0]
                torch.testing.assert_close(coded.codes, expected, atol=1e-5, rtol=1e-5)


KL = (kl_vae.KLVAE, kl_vae.tiny())


def test_equal_pictures_are_encoded_once(tokenizer, monkeypatch):
    seen, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda x: (seen.append(len(x)), encode(x))[1])
    rows = DocumentCoder(open_documents("captioned:shapes:9"), tokenizer, batch=4)(range(18))
    assert seen == [4, 4, 1] and len(rows) == 18
    for draw, caption in zip(rows[::2], rows[1::2], strict=True):
        assert torch.equal(draw.document[1].codes, caption.document[0].codes)


def test_an_eye_sees_the_pictures_that_are_only_read(tokenizer, tmp_path):
    """At its own size; both forms of a picture are there."""
    torch.manual_seed(0)
    eye, out = build(eyes.TowerEye, eyes.tiny()), tmp_path / "d.arrow"
    eye.init_weights()
    documents = open_documents("captioned:shapes:4")
    encode_documents(documents, tokenizer, out, eye=eye)
    cache = DocumentCache(out)
    assert cache.encoding.seen == eye.sight.spec and cache.eye == fingerprint(eye)
    for i in range(8):
        for piece, coded in zip(documents[i], cache.document(i), strict=True):
            assert (coded.codes is None) == (piece.image is None)
            assert (coded.features is None) == (piece.image is None or piece.learned)
            if coded.features is not None:
                view = to_float(torch.from_numpy(Transform(8)(piece.image, None)))
                with torch.no_grad():
                    expected = eye.encode(view[None])[0].half()
                torch.testing.assert_close(coded.features, expected, atol=2e-3, rtol=2e-3)
    again = tmp_path / "again.arrow"
    encode_documents(open_documents(f"docs:{out}"), tokenizer, again, eye=eye)
    assert torch.equal(DocumentCache(again).document(1)[0].features, cache.document(1)[0].features)
    other = build(eyes.TowerEye, replace(eyes.tiny(), unit=True))
    with pytest.raises(ValueError, match="was seen by eye .*, but the eye given is"):
        encode_documents(open_documents(f"docs:{out}"), tokenizer, tmp_path / "o.arrow", eye=other)
    with pytest.raises(ValueError, match="holds codes of another eye"):
        encode_documents(documents, tokenizer, out, eye=other)
    plain = tmp_path / "plain.arrow"
    encode_documents(open_documents(f"docs:{out}"), tokenizer, plain)
    assert DocumentCache(plain).eye == ""
    with pytest.raises(ValueError, match="has codes alone, but the eye given is"):
        encode_documents(open_documents(f"docs:{plain}"), tokenizer, tmp_path / "o.arrow", eye=eye)


def test_documents_with_a_broken_picture_are_left_out_and_named(
    folder, tokenizer, tmp_path, capsys
):
    documents = open_documents(f"qa:{folder / 'qa.jsonl'}")
    encode_documents(documents, tokenizer, tmp_path / "d.arrow")
    cache = DocumentCache(tmp_path / "d.arrow")
    assert [cache.document(i)[-1].text for i in range(len(cache))] == ["0", "1", "3", "4", "2"]
    assert [len(cache.document(i)) for i in range(5)] == [3, 3, 3, 3, 2]
    assert "skipped 1 that cannot be used: 2.png" in capsys.readouterr().err


def test_cut_off_anywhere_it_ends_with_the_same_bytes(folder, tokenizer, tmp_path, monkeypatch):
    def run(out):
        documents = open_documents(f"qa:{folder / 'qa.jsonl'}+shapes-all:30")
        monkeypatch.setattr(DocumentCoder, "step", 8)
        return encode_documents(documents, tokenizer, tmp_path / out)

    run("whole.arrow")
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)
    made = DocumentCoder.__call__
    for calls in (2, 1):

        def killed(self, chosen, left=[calls]):  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("killed")
            return made(self, chosen)

        with monkeypatch.context() as patch:
            patch.setattr(DocumentCoder, "__call__", killed)
            with pytest.raises(RuntimeError, match="killed"):
                run("d.arrow")
    assert run("d.arrow") == 36 - 24
    assert (tmp_path / "d.arrow").read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert run("d.arrow") == 0 and not (tmp_path / "d.arrow.parts").exists()


def test_files_of_documents_are_joined_and_those_of_another_tokenizer_refused(tokenizer, tmp_path):
    first, both = tmp_path / "a.arrow", tmp_path / "b.arrow"
    encode_documents(open_documents("shapes-all:10"), tokenizer, first)
    name = f"docs:{first}+captioned:shapes:3"
    assert encode_documents(open_documents(name), tokenizer, both) == 16
    old, new = DocumentCache(first), DocumentCache(both)
    for i in range(10):
        same(old.document(i), new.document(i))
        assert (old.task(i), old.key(i)) == (new.task(i), new.key(i))
    other = build(vqgan.VQGAN, vqgan.tiny(), seed=1)
    with pytest.raises(ValueError, match=f"a.arrow.* has codes of tokenizer {old.tokenizer}, but"):
        encode_documents(open_documents(name), other, tmp_path / "c.arrow")
    with pytest.raises(ValueError, match="holds codes of another tokenizer: give another --out"):
        encode_documents(open_documents("shapes-all:10"), other, first)
    with pytest.raises(ValueError, match="holds codes of another source: give another --out"):
        encode_documents(open_documents("shapes-all:11"), tokenizer, first)
    with pytest.raises(ValueError, match="holds codes of another holdout"):
        encode_documents(open_documents("shapes-all:10"), tokenizer, first, 0.5)


def test_codes_that_are_no_numbers_are_named(tmp_path):
    tokenizer = build(*KL)
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="codes of '0': "):
        encode_documents(open_documents("captioned:shapes:3"), tokenizer, tmp_path / "d.arrow")
    assert not list(tmp_path.iterdir())


def test_the_commands(folder, tokenizer, tmp_path, capsys):
    save_module(tokenizer, tmp_path / "t")
    out, name = tmp_path / "d.arrow", f"qa:{folder / 'qa.jsonl'}+shapes-all:20"
    command = ["encode", name, "--tokenizer", tmp_path / "t", "--out", out]
    assert smalti(*command) == 0
    told = capsys.readouterr().err
    tasks = "7 ask, 4 questions, 3 edit, 2 draw, 2 caption, 2 describe, 2 talk"
    assert f"{out}: 25 documents ({tasks}, 1 riddle, 1 story, 1 fact)" in told
    assert "pictures of 16 codes each" in told and "2.png" in told
    assert DocumentCache(out).holdout == 0.1, "whatever was skipped"
    assert smalti(*command, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["documents"] == 25 and report["tasks"]["story"] == 1 and report["vocab"] == 32
    for what, kind in ((out, 25), (name, 26)):
        assert smalti("info", what, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["kind"], report["documents"]) == ("documents", kind)
        assert report["first"] == ["(a picture)", "Which?\n", "0"]
    assert smalti("info", out) == 0
    assert f"tokenizer: {fingerprint(tokenizer)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["qa:nowhere.jsonl"], "nowhere.jsonl cannot be read (there is no nowhere.jsonl)"),
        (["shapes-all:x"], "shapes-all:x is not known; allowed: shapes-all, shapes-all:COUNT"),
        (["shapes-all:5", "--no-flip"], "--no-flip is for token caches of images"),
        (["shapes-all:5", "--crop", "ten"], "--crop is for token caches of images"),
        (["shapes-all:5", "--holdout", "1"], "holdout must be in [0, 1), got 1.0"),
        (["docs:t/config.json"], "t/config.json is not a complete file of documents"),
    ],
)
def test_mistakes_are_one_line(words, said, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_module(tokenizer, tmp_path / "t")
    assert smalti("encode", *words, "--tokenizer", "t", "--out", "d.arrow") == 2
    told = capsys.readouterr().err
    assert told.startswith("smalti encode: ") and said in told and told.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


def test_a_token_cache_is_not_written_over(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_module(tokenizer, tmp_path / "t")
    assert smalti("encode", "shapes:5", "--tokenizer", "t", "--out", "d.arrow") == 0
    whole = (tmp_path / "d.arrow").read_bytes()
    assert smalti("encode", "shapes-all:5", "--tokenizer", "t", "--out", "d.arrow") == 2
    assert "d.arrow is a token cache of images" in capsys.readouterr().err
    assert (tmp_path / "d.arrow").read_bytes() == whole
    assert smalti("encode", "shapes-all:5", "--tokenizer", "t", "--out", "e.arrow") == 0
    assert smalti("encode", "shapes:5", "--tokenizer", "t", "--out", "e.arrow") == 2
    assert "e.arrow is an Arrow file, but not a token cache" in capsys.readouterr().err

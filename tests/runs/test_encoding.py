"""Features of captions, as a token cache keeps them; codes that were cut off."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import build, tokenizers
from small_systems import write_pictures
from smalti.data.drawn_shapes import open_shapes
from smalti.data.folder import Folder
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding
from smalti.data.transforms import Transform
from smalti.recipes.base import DataConfig, GeneratorRecipe
from smalti.runs.codes import coder_of
from smalti.runs.encode import Parts, encode, tidy
from smalti.runs.image_coder import Coder, features
from smalti.text import byte_words as byte_level
from smalti.tokenizers import vqgan


class Counting:
    """As many tokens as a caption has letters, and an end mark; features are the token's place."""

    def tokenize(self, texts):
        lengths = torch.tensor([len(t) + 1 for t in texts])
        return torch.where(torch.arange(4) >= 4 - lengths[:, None], torch.arange(4), -1)

    def __call__(self, tokens):
        mask = tokens >= 0
        return torch.stack([tokens, tokens / 3], -1) * mask[..., None], mask


def test_features_without_padding_and_none_of_an_empty_caption():
    found = features(Counting(), ["ab", "", "a"], "cpu")
    assert [f.shape for f in found] == [(3, 2), (0, 2), (2, 2)]
    assert all(f.dtype == np.float16 for f in found)
    assert found[0][:, 0].tolist() == [1, 2, 3] and found[2][:, 0].tolist() == [2, 3]
    assert found[0][:, 1].tolist() == np.array([1 / 3, 2 / 3, 1], np.float16).tolist()


@pytest.fixture
def tokenizer():
    return build(vqgan.VQGAN, vqgan.tiny())


@pytest.mark.parametrize(
    ("crop", "flip", "views"), [("center", False, 1), ("center", True, 2), ("ten", True, 10)]
)
def test_a_run_encodes_the_views_that_its_recipe_names(tokenizer, tmp_path, crop, flip, views):
    data, device = DataConfig("shapes:3", crop, flip, holdout=0.4), torch.device("cpu")
    recipe = GeneratorRecipe(data=data)
    coder = coder_of(recipe, open_shapes("3"), tokenizer, None, None, device)
    encode(coder, tmp_path / "a.arrow")
    cache = TokenCache(tmp_path / "a.arrow")
    assert cache.views == views and cache.holdout == 0.4
    assert coder.transform == Transform(16, crop, flip)


# -- cut off and gone on with


def encoded(out, tokenizer, folder, **changes):
    transform = Transform(tokenizer.config.size[0], flip=True)
    given = {"batch": 8, **changes}
    return encode(Coder(Folder(str(folder)), tokenizer, transform, **given), out)


@pytest.fixture
def photos(tmp_path):
    """23 pictures and a broken one, of two classes, with captions."""
    folder = write_pictures(tmp_path / "photos", 24)
    broken = folder / "001.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    lines = [
        {"file_name": f"{i:03d}.png", "label": i % 2, "text": "a" * (i % 3)} for i in range(24)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def stop_at(monkeypatch, call: int, error: BaseException) -> list[list[int]]:
    """The images of each call that encodes; the one of that number fails."""
    seen, undisturbed = list[list[int]](), Coder.__call__

    def counted(self, chosen):
        if len(seen) == call:
            raise error
        seen.append(list(chosen))
        return undisturbed(self, chosen)

    monkeypatch.setattr(Coder, "__call__", counted)
    return seen


@pytest.mark.parametrize("kind", ["vqgan", "kl_vae"])
def test_cut_off_anywhere_it_ends_with_the_same_bytes(photos, tmp_path, monkeypatch, capsys, kind):
    tokenizer = build(*tokenizers()[kind])
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)
    assert encoded(tmp_path / "whole.arrow", tokenizer, photos) == 24
    whole = capsys.readouterr().err
    assert "skipped 1 that cannot be used: 001.png" in whole
    out, parts = tmp_path / "a.arrow", tmp_path / "a.arrow.parts"
    for calls, left in ((2, 24), (3, 16)):
        with monkeypatch.context() as patch:
            seen = stop_at(patch, calls, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                encoded(out, tokenizer, photos)
        assert seen[0][0] == 24 - left and not out.exists()
    names = [f"0000000{n}.arrow" for n in ("00-000000004", "04-000000008")]
    assert set(names) < {p.name for p in parts.iterdir()}
    (parts / ".000000020-000000024.arrow.0123abcd.smalti-tmp").write_text("half")
    capsys.readouterr()
    assert encoded(out, tokenizer, photos) == 4
    told = capsys.readouterr().err
    assert "20 of 24 images are encoded already; going on with the rest" in told and whole in told
    assert out.read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "a.arrow", "whole.arrow"}
    assert encoded(out, tokenizer, photos) == 0  # all is there


def test_parts_do_not_decide_the_bytes(photos, tokenizer, tmp_path, monkeypatch):
    encoded(tmp_path / "one.arrow", tokenizer, photos)
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)
    encoded(tmp_path / "many.arrow", tokenizer, photos)
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "many.arrow").read_bytes()


def test_features_of_captions_come_through_parts(photos, tokenizer, tmp_path, monkeypatch):
    text = build(byte_level.ByteEncoder, byte_level.tiny())
    encoded(tmp_path / "one.arrow", tokenizer, photos, text=text)
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, RuntimeError("killed"))
        with pytest.raises(RuntimeError):
            encoded(tmp_path / "two.arrow", tokenizer, photos, text=text)
    encoded(tmp_path / "two.arrow", tokenizer, photos, text=text)
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", ["tokenizer", "source", "holdout", "transform"])
def test_other_settings_are_refused_by_name(
    photos, tokenizer, tmp_path, monkeypatch, what, finished
):
    out = tmp_path / "a.arrow"
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)
    with monkeypatch.context() as patch:
        if not finished:
            stop_at(patch, 3, RuntimeError("killed"))
        with contextlib.suppress(RuntimeError):
            encoded(out, tokenizer, photos)
    source = Folder(str(photos))
    given = {"holdout": 0.1, "batch": 8}
    transform = Transform(tokenizer.config.size[0], flip=what != "transform")
    if what == "tokenizer":
        tokenizer = build(vqgan.VQGAN, vqgan.tiny(), seed=1)
    elif what == "source":
        (photos / "003.png").write_bytes((photos / "003.png").read_bytes() + b"0")
    elif what == "holdout":
        given["holdout"] = 0.5
    place = out if finished else tmp_path / "a.arrow.parts"
    words = f"{place} (holds codes|is) of another {what if what != 'transform' else ''}"
    with pytest.raises(ValueError, match=words):
        encode(Coder(source, tokenizer, transform, **given), out)
    assert encode(Coder(source, tokenizer, transform, **given), out, replace=True) == 24
    assert encode(Coder(source, tokenizer, transform, **given), out) == 0


def test_skipped_pictures_leave_the_share_as_it_was_given(photos, tokenizer, tmp_path):
    source = Folder(str(photos))
    for i in split(source, 0.25)[0][:6]:
        broken = photos / source.key(i)
        broken.write_bytes(broken.read_bytes()[:-30])
    encoded(tmp_path / "a.arrow", tokenizer, photos, holdout=0.25)
    cache = TokenCache(tmp_path / "a.arrow")
    assert len(cache) < 20 and cache.holdout == 0.25
    held = split(source, cache.holdout)[1]
    assert cache.keys(cache.held_out) == [source.key(i) for i in held]


def test_codes_of_before_that_do_not_tell_the_share_are_complete(
    photos, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(Encoding, "metadata", without_holdout(Encoding.metadata))
    encoded(tmp_path / "a.arrow", tokenizer, photos)
    assert TokenCache(tmp_path / "a.arrow").holdout == 2 / 23
    assert encoded(tmp_path / "a.arrow", tokenizer, photos) == 0


def test_codes_are_of_the_views_that_files_of_before_name(photos, tokenizer):
    transform = Transform(tokenizer.config.size[0], flip=True)
    coder = Coder(Folder(str(photos)), tokenizer, transform, holdout=0.1)
    assert coder.encoding.transform == {"size": transform.size, "crop": "center", "flip": True}


def without_holdout(metadata):
    """What an earlier smalti wrote."""
    return lambda encoding: metadata(replace(encoding, holdout=None))


def test_parts_of_somebody_else_stay(photos, tokenizer, tmp_path):
    parts = tmp_path / "a.arrow.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="parts exists and is not parts of codes: it holds notes"):
        encoded(tmp_path / "a.arrow", tokenizer, photos)
    assert (parts / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "a.arrow.parts"}


def test_a_folder_of_somebody_else_beside_complete_codes_stays(tmp_path):
    out, folder = tmp_path / "codes.arrow", tmp_path / "codes.arrow.parts"
    folder.mkdir()
    for name in ("000000000-000000004.arrow", "settings.json", "notes.txt"):
        (folder / name).write_text("{}")
    before = sorted(path.name for path in folder.iterdir())
    tidy(out)
    assert sorted(path.name for path in folder.iterdir()) == before
    (folder / "settings.json").unlink()
    assert not Parts(folder, None).left({})
    (folder / "notes.txt").unlink()
    assert Parts(folder, None).left({})

"""Training on several texts of a picture: what a run keeps of them, and what it refuses."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from builders import build
from smalti.data.open import open_source
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform
from smalti.models.maskbit import MaskBitConfig
from smalti.pictures import save_png, to_pil
from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.recipes.starter import emoji64, emoji64_tokenizer
from smalti.runs.codes import require_wordings
from smalti.runs.encode import encode
from smalti.runs.generator import origin, wording
from smalti.runs.image_coder import Coder
from smalti.text import byte_words as byte_level
from smalti.tokenizers import vqgan


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six pictures of three emoji in two styles."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = list[bytes]()
    for i in range(6):
        pixels = torch.from_numpy(rng.integers(0, 255, (1, 3, 16, 16), np.uint8))
        save_png(to_pil(pixels)[0], folder / f"{i}.png")
        files.append((folder / f"{i}.png").read_bytes())
    table = {
        "image": files,
        "caption": ["grin", "grin", "apple", "apple", "pear", "pear"],
        "keywords": [["smile"], ["smile"], [], [], None, None],
        "label": [0, 0, 1, 1, 1, 1],
        "group": ["Smileys"] * 2 + ["Food"] * 4,
        "codepoints": ["a", "a", "b", "b", "c", "c"],
        "style": ["noto", "twemoji"] * 3,
    }
    keywords = pa.array(table["keywords"], pa.list_(pa.string()))
    pq.write_table(pa.table(table | {"keywords": keywords}), folder / "a.parquet")
    return open_source(f"styles:{folder / 'a.parquet'}")


@pytest.fixture(scope="module")
def cache(source, tmp_path_factory):
    tokenizer = build(vqgan.VQGAN, vqgan.tiny())
    coder = Coder(source, tokenizer, Transform(tokenizer.size[0]), holdout=0.3, wordings=True)
    path = tmp_path_factory.mktemp("codes") / "codes.arrow"
    encode(coder, path)
    return TokenCache(path)


def test_a_cache_keeps_all_texts_of_a_picture(cache, source):
    found = {source.key(i): row.wordings for i, row in enumerate(cache.rows())}
    assert found["a#noto"] == ("grin", "Smileys, noto", "smile, noto")
    assert found["c#twemoji"] == ("pear", "Food, twemoji")
    assert cache.captions_of([1]) == ["grin, twemoji"] and cache.wordings
    assert len(cache.held_out) == 2 and cache.holdout == 0.3, "an emoji in both styles"


def test_keywords_without_a_caption_are_kept_and_read(tmp_path):
    save_png(to_pil(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))[0], tmp_path / "a.png")
    table = {
        "image": [(tmp_path / "a.png").read_bytes()] * 3,
        "tags": [["cat", "pet"], ["dog"], []],
    }
    pq.write_table(pa.table(table | {"caption": [None, "a dog", None]}), tmp_path / "a.parquet")
    source = open_source(f"parquet:{tmp_path / 'a.parquet'}?keywords=tags")
    tokenizer = build(vqgan.VQGAN, vqgan.tiny())
    coder = Coder(source, tokenizer, Transform(tokenizer.size[0]), wordings=True)
    encode(coder, tmp_path / "codes.arrow")
    cache = TokenCache(tmp_path / "codes.arrow")
    assert [row.wordings for row in cache.rows()] == [("cat, pet",), ("dog",), ()]
    for chance, second in ((0.2, "a dog"), (0.7, "dog")):
        texts = cache.texts_of(np.arange(3), np.full(3, chance))
        assert texts == ["cat, pet", second, ""]


def test_a_pipeline_is_told_of_classes_and_styles(cache, monkeypatch):
    assert wording(cache) == {"text_classes": ["Smileys", "Food"], "styles": ["noto", "twemoji"]}
    assert "Twemoji, (c)" in str(origin(cache, None)["credit"])
    monkeypatch.setattr(cache, "wordings", False)  # its captions alone are learned
    assert wording(cache) == {"styles": ["noto", "twemoji"]}


def test_whose_art_a_pipeline_began_from_stays_said(cache, monkeypatch):
    credit = "(c) me, MIT; Noto Emoji, Google, Apache-2.0"
    begun = SimpleNamespace(fingerprint="x", info={"credit": credit})
    own = origin(cache, None)["credit"]
    assert origin(cache, begun)["credit"] == f"{own}; (c) me, MIT"  # each once
    monkeypatch.setattr(cache, "source", "folder:mine")
    assert origin(cache, begun)["credit"] == credit and "credit" not in origin(cache, None)


def test_a_frozen_encoder_and_a_cache_of_captions_are_refused(cache, tmp_path):
    recipe = emoji64()
    require_wordings(recipe, cache, None)
    frozen = build(byte_level.ByteEncoder, byte_level.tiny())
    with pytest.raises(ValueError, match="wordings must be False with a frozen text encoder"):
        require_wordings(recipe, cache, frozen)
    other = SimpleNamespace(wordings=False, path=tmp_path / "codes.arrow")
    with pytest.raises(ValueError, match="codes.arrow holds one text of each picture; wordings"):
        require_wordings(recipe, other, None)
    require_wordings(replace(recipe, wordings=False), other, frozen)


def test_the_recipes_of_the_starter_fit_each_other():
    first, second = emoji64_tokenizer(), emoji64()
    assert isinstance(first, TokenizerRecipe) and isinstance(second.model, MaskBitConfig)
    assert first.model.spec.channels == second.model.channels == 18
    assert first.model.spec.grids == second.model.spec.grids == ((8, 8),)
    assert (second.text.length, second.text.dim) == (12, 192) and second.wordings
    assert isinstance(first.data, DataConfig) and first.data.source == second.data.source
    assert second.data.source.startswith("styles:")

"""Texts as ids: what they are made of, and where they come from."""

from dataclasses import replace

import pytest
import torch

from smalti import modules
from smalti.modules import fingerprint, load_module, save_module
from smalti.text.encoders import condition
from smalti.text.word_ids import WordIds, WordIdsConfig, tiny
from smalti.text.words import Words

TEXTS = ["a small red heart", "a large red star", "\u00e9t\u00e9"]
ENCODER = WordIds(tiny())


def test_ids_are_those_of_the_text_tokenizer_in_lower_case():
    words = Words(ENCODER.config.words)
    tokens = ENCODER.tokenize(["A red Star", ""])
    ids = words.read("a red star")
    assert tokens.tolist() == [ids + [-1] * (12 - len(ids)), [-1] * 12]
    assert ENCODER.count("A red Star") == len(ids)
    features, mask = ENCODER(tokens)
    assert features.shape == (2, 12, 1) and features.dtype == torch.float32
    assert features[0, : len(ids), 0].tolist() == ids and not features[~mask].any()
    assert mask.sum(1).tolist() == [len(ids), 0]
    cond = condition({"text_tokens": tokens}, ENCODER)
    assert cond.drop is not None and cond.drop.tolist() == [False, True]


def test_long_texts_are_cut():
    text = "xyz " * 20
    assert ENCODER.tokenize([text])[0].tolist() == ENCODER.read(text)[:12]
    assert ENCODER.count(text) > 12
    assert ENCODER.read("\ud83d") == ENCODER.read("?"), "half a character"


def test_they_are_learned_once_from_the_captions_of_training(tmp_path):
    new = WordIds(WordIdsConfig(length=5, vocab=262))
    with pytest.raises(ValueError, match="has no text tokenizer yet: train it, or give one"):
        new.tokenize(["a"])
    new.learn_from([text.upper() for text in TEXTS])
    assert new.config.vocab == 262 and new.read("RED") == new.read("red")
    same = WordIds(WordIdsConfig(length=5, vocab=262))
    same.learn_from(TEXTS)
    assert same.config == new.config, "the same captions give the same ids"
    new.learn_from(["other"])
    assert same.config == new.config
    few = WordIds(WordIdsConfig(length=5, vocab=5000))
    few.learn_from(["ab"])
    assert few.config.ids == 260, "no more than the captions give"
    save_module(new, tmp_path / "text")
    loaded, _ = load_module(tmp_path / "text", modules.TEXT)
    assert loaded.config == new.config and loaded.read("red") == new.read("red")
    assert fingerprint(loaded) == fingerprint(new) != fingerprint(few)


def test_they_are_those_of_a_folder(tmp_path):
    words = Words.train(TEXTS, 265)
    words.save(tmp_path / "words")
    given = WordIds(WordIdsConfig(length=5, words=str(tmp_path / "words")))
    assert given.config.vocab == words.vocab and given.read("red") == words.read("red")
    given.learn_from(["other"])
    assert given.read("red") == words.read("red")
    with pytest.raises(ValueError, match="nowhere holds no text tokenizer"):
        WordIds(WordIdsConfig(words=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        replace(given.config, length=0)

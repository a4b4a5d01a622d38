"""Parti beyond the contract of causal models: an encoder that sees all of a text, which is read
once for all steps, and the published sizes."""

from dataclasses import replace

import pytest
import torch

from builders import build, generate, random_codes, random_cond
from smalti.codes import Cond, Span
from smalti.models.parti import SIZES, Parti, PartiConfig, tiny
from smalti.sampling.noise import Noise

IDS = 20


@pytest.fixture(params=["vectors", "ids"])
def model(request):
    """One that reads vectors of words, or ids of pieces of words."""
    return build(
        Parti, tiny() if request.param == "vectors" else replace(tiny(), text_dim=1, text_vocab=IDS)
    )


def texts(model, count):
    """Six words each, of which no two are alike."""
    if model.reads.text_vocab:
        return torch.stack([torch.randperm(IDS)[:6, None].float() for _ in range(count)])
    return torch.randn(count, 6, 12)


def another(model, word):
    """Another word in the place of one, (C,)."""
    return (word + 1) % IDS if model.reads.text_vocab else word + torch.randn(12)


def logits(model, text, mask, drop=None):
    codes = random_codes(model.spec, len(text))
    cond = Cond(text=text, text_mask=mask, drop=drop)
    span = Span.whole(model.spec.positions, codes.device)
    return model.head.logits(model.hidden(codes, model.prepare(cond), span))


@torch.no_grad()
def test_every_word_counts_and_padding_does_not(model):
    text, mask = texts(model, 1), torch.tensor([[False, False, True, True, True, True]])
    before = logits(model, text, mask)
    for word in range(6):
        other = text.clone()
        other[0, word] = another(model, text[0, word])
        moved = (logits(model, other, mask) - before).abs().amax((0, 2))
        assert moved.min() > 1e-4 if mask[0, word] else moved.max() == 0


@torch.no_grad()
def test_the_encoder_sees_words_behind_a_word_and_their_order(model):
    text, mask = texts(model, 1), torch.ones(1, 6, dtype=torch.bool)
    first, _ = model.encoder(text, mask, None)
    other = text.clone()
    other[0, -1] = another(model, text[0, -1])
    second, _ = model.encoder(other, mask, None)
    assert ((first - second).abs().amax(-1) > 1e-4).all()
    turned, _ = model.encoder(text.flip(1), mask, None)
    assert (turned.flip(1) - first).abs().max() > 1e-2


@torch.no_grad()
def test_a_null_text_is_the_same_whatever_was_asked_for(model):
    mask = torch.tensor([[True] * 6, [False] * 4 + [True] * 2])
    drop, codes = torch.tensor([True, True]), torch.zeros(2, 16, dtype=torch.long)
    span = Span.whole(16, codes.device)
    rows = [
        model.hidden(codes, model.prepare(Cond(text=text, text_mask=mask, drop=drop)), span)
        for text in (texts(model, 2), texts(model, 2))
    ]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=0)
    torch.testing.assert_close(rows[0][0], rows[0][1])


@torch.no_grad()
def test_texts_are_read_once_for_all_steps(model, monkeypatch):
    calls = []
    for layer in model.layers:
        keys = layer.cross.keys
        monkeypatch.setattr(layer.cross, "keys", lambda words, f=keys: calls.append(1) or f(words))
    generate(model, random_cond(model, 2), Noise.request(0, 2))
    assert len(calls) == len(model.layers)


def test_no_product_has_a_bias(model):
    names = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert all("norm" in name for name in names) and names


BILLIONS = {"350M": 0.35, "750M": 0.75, "3B": 3, "20B": 20}


@pytest.mark.parametrize(("size", "billions"), BILLIONS.items())
def test_published_sizes(size, billions):
    """Blocks alone: what the paper counts of the tables of words and codes is not known."""
    with torch.device("meta"):
        model = Parti(PartiConfig(**SIZES[size]))
    blocks = (p for part in (model.layers, model.encoder.layers) for p in part.parameters())
    assert sum(p.numel() for p in blocks) / 1e9 == pytest.approx(billions, rel=0.025)
    assert model.spec.positions == 1024 and model.reads.text_length == 128


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dim": 33}, "dim must be a multiple of heads, got 33, 2"),
        ({"encoder_layers": 0}, "encoder_layers must be at least 1, got 0"),
        ({"text_length": 0}, "text_length must be at least 1, got 0"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
        ({"text_vocab": 9}, "text_dim must be 1 with text_vocab, got 12"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)


def test_a_class_is_no_text(model):
    with pytest.raises(ValueError, match="this model is text-conditional: give text and text_mask"):
        model.prepare(Cond.of_labels(torch.tensor([1])))

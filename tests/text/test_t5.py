"""A T5 of random weights with a tokenizer trained here, against `transformers` used as upstream."""

import sys

import pytest
import torch

from smalti.text.t5 import T5, T5Config, config_of
from tiny_t5 import write_t5

CAPTIONS = ["a small red heart", "two cats and a very large dog on the mat", "star"]
LENGTH = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_t5(tmp_path_factory.mktemp("t5"), CAPTIONS)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr("smalti.text.t5.fast_bf16", lambda device: False)


def upstream(folder: str, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded on the right, encoded, rotated to the left, multiplied by the mask."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.T5EncoderModel.from_pretrained(folder).eval()
    given = tokenizer(
        captions,
        max_length=LENGTH,
        padding="max_length",
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    found = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    features, mask = found.last_hidden_state, given["attention_mask"]
    for i, count in enumerate(mask.sum(1).tolist()):
        features[i] = torch.cat((features[i, count:], features[i, :count]))
        mask[i] = torch.cat((mask[i, count:], mask[i, :count]))
    return features * mask[..., None], mask.bool()


@torch.no_grad()
def test_features_are_upstreams(folder):
    encoder = T5(T5Config(folder, length=LENGTH, dim=16))
    features, mask = encoder(encoder.tokenize(CAPTIONS))
    wanted, wanted_mask = upstream(folder, CAPTIONS)
    assert torch.equal(mask, wanted_mask) and mask[1].all() and not mask[2].all()
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)
    assert features.std() > 0.1


@torch.no_grad()
def test_features_do_not_depend_on_the_batch(folder):
    encoder = T5(T5Config(folder, length=LENGTH, dim=16))
    features, _ = encoder(encoder.tokenize(CAPTIONS))
    for i, caption in enumerate(CAPTIONS):
        alone, _ = encoder(encoder.tokenize([caption]))
        torch.testing.assert_close(alone[0], features[i], rtol=0, atol=1e-5)


def test_the_weights_are_no_part_of_the_module(folder):
    encoder = T5(T5Config(folder, length=LENGTH, dim=16))
    encoder.tokenize(CAPTIONS)
    assert encoder.state_dict() == {} and list(encoder.parameters()) == []
    assert not any(p.requires_grad for p in encoder.parts.model.parameters())


def test_cleaning_is_an_option(folder):
    encoder = T5(T5Config(folder, length=LENGTH, dim=16, clean=True))
    dirty = "A small <b>red</b> heart https://www.shop.com/7"
    assert torch.equal(encoder.tokenize([dirty]), encoder.tokenize(["a small red heart"]))
    plain = T5(T5Config(folder, length=LENGTH, dim=16))
    assert not torch.equal(plain.tokenize([dirty]), plain.tokenize(["a small red heart"]))


def test_long_texts_are_cut_and_counted(folder):
    encoder = T5(T5Config(folder, length=LENGTH, dim=16))
    long = " ".join(CAPTIONS * 5)
    (row,) = encoder.tokenize([long]).tolist()
    assert len(row) == LENGTH and row[-1] == 1 and -1 not in row  # the end mark stays
    assert encoder.count(long) > LENGTH > encoder.count("star")


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=f"{folder} has features of width 16, got dim 2048"):
        T5(T5Config(folder)).tokenize(["a"])
    with pytest.raises(ValueError, match="empty is no T5 that can be loaded"):
        (tmp_path / "empty").mkdir()
        T5(T5Config(str(tmp_path / "empty"))).tokenize(["a"])
    assert config_of(folder) == T5Config(folder, dim=16)
    with pytest.raises(ValueError, match="empty is no T5 that can be loaded"):
        config_of(str(tmp_path / "empty"))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'T5 needs `pip install "smalti\[text\]"`'):
        T5(T5Config()).tokenize(["a"])


@pytest.mark.parametrize("bad", [{"length": 0}, {"dim": -1}])
def test_bad_configs(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        T5Config(**bad)

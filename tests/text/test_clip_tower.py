"""A CLIP of random weights with a tokenizer trained here, against `transformers` used as
upstream."""

import sys

import pytest
import torch

from smalti.text.clip import CLIP, CLIPConfig, config_of
from smalti.text.frozen import frozen
from smalti.text.t5 import T5Config
from tiny_clip import write_clip
from tiny_t5 import write_t5

CAPTIONS = ["a small red heart", "two cats and a very large dog on the mat", "star"]
LENGTH = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), CAPTIONS)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr("smalti.text.clip.fast_bf16", lambda device: False)


def clip(folder: str) -> CLIP:
    return CLIP(CLIPConfig(folder, LENGTH + 1, dim=16))


def upstream(folder: str, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states before the last layer and the embedding, of filled-up texts, no mask."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.CLIPTextModelWithProjection.from_pretrained(folder).eval()
    filled = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
    given = tokenizer(captions, return_tensors="pt", **filled).input_ids
    found = model(given, return_dict=True, output_hidden_states=True)
    return found.hidden_states[-2], found.text_embeds


@torch.no_grad()
def test_features_are_upstreams(folder):
    encoder = clip(folder)
    features, mask = encoder(encoder.tokenize(CAPTIONS))
    words, whole = upstream(folder, CAPTIONS)
    assert features.shape == (3, encoder.config.length, encoder.config.dim) == (3, 10, 16)
    assert mask.shape == (3, 10) and mask.all()
    torch.testing.assert_close(features[:, :-1], words, rtol=0, atol=1e-5)
    torch.testing.assert_close(features[:, -1, :12], whole, rtol=0, atol=1e-5)
    assert not features[:, -1, 12:].any() and features.std() > 0.1


@torch.no_grad()
def test_features_do_not_depend_on_the_batch(folder):
    encoder = clip(folder)
    features, _ = encoder(encoder.tokenize(CAPTIONS))
    for i, caption in enumerate(CAPTIONS):
        alone, _ = encoder(encoder.tokenize([caption]))
        torch.testing.assert_close(alone[0], features[i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_empty_text_has_features(folder):
    encoder = clip(folder)
    assert encoder.tokenize([""]).tolist() == [[2, 3] + [0] * (LENGTH - 2)]
    features, mask = encoder(encoder.tokenize([""]))
    assert mask.all() and features.abs().sum(-1).gt(0).all()


def test_folders_of_diffusers_are_read(folder, tmp_path):
    apart = write_clip(tmp_path, CAPTIONS, apart=True)
    tokens = clip(folder).tokenize(CAPTIONS)
    assert torch.equal(clip(apart).tokenize(CAPTIONS), tokens)
    assert torch.equal(clip(apart)(tokens)[0], clip(folder)(tokens)[0])
    assert config_of(apart) == CLIPConfig(apart, LENGTH + 1, dim=16)


def test_the_weights_are_no_part_of_the_module(folder):
    encoder = clip(folder)
    encoder.tokenize(CAPTIONS)
    assert encoder.state_dict() == {} and list(encoder.parameters()) == []
    assert not any(p.requires_grad for p in encoder.parts.model.parameters())


def test_long_texts_are_cut_and_counted(folder):
    encoder = clip(folder)
    long = " ".join(CAPTIONS * 5)
    (row,) = encoder.tokenize([long]).tolist()
    assert len(row) == LENGTH and row[-1] == 3  # the end mark stays
    assert encoder.count(long) > encoder.capacity == LENGTH > encoder.count("star") == 3


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=f"{folder} has features of width 16, got dim 1024"):
        CLIP(CLIPConfig(folder)).tokenize(["a"])
    with pytest.raises(ValueError, match=f"{folder} reads 9 tokens, got length 11"):
        CLIP(CLIPConfig(folder, 11, 16)).tokenize(["a"])
    assert config_of(folder) == CLIPConfig(folder, LENGTH + 1, dim=16)
    write_t5(tmp_path / "t5", CAPTIONS)
    assert config_of("clip") == config_of(CLIPConfig.model) == CLIPConfig()
    (tmp_path / "empty").mkdir()
    for ask in (config_of, lambda model: CLIP(CLIPConfig(model)).tokenize(["a"])):
        with pytest.raises(ValueError, match="empty is no CLIP that can be loaded"):
            ask(str(tmp_path / "empty"))
        with pytest.raises(ValueError, match="no CLIP that can be loaded: it is a t5"):
            ask(str(tmp_path / "t5"))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'CLIP needs `pip install "smalti\[text\]"`'):
        CLIP(CLIPConfig()).tokenize(["a"])


@pytest.mark.parametrize(
    ("bad", "message"), [({"length": 1}, "length must be at least 2"), ({"dim": 0}, "dim must be")]
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        CLIPConfig(**bad)


def test_frozen_encoders_have_names(folder, tmp_path):
    t5 = write_t5(tmp_path, CAPTIONS)
    wanted = {
        "t5": T5Config(),
        t5: T5Config(t5, dim=16),
        "clip": CLIPConfig(),
        f"clip:{folder}": CLIPConfig(folder, LENGTH + 1, dim=16),
    }
    assert {name: frozen(name).config for name in wanted} == wanted
    assert frozen("t5", clean=True).config == T5Config(clean=True)
    with pytest.raises(ValueError, match="--clean is for T5, .* got --text clip"):
        frozen("clip", clean=True)


@torch.no_grad()
def test_last_states_of_texts_that_are_filled_up_with_zeros(folder):
    """As OpenCLIP fills texts up: by id 0, whatever the tokenizer of transformers takes."""
    encoder = CLIP(CLIPConfig(folder, 9, 16, last=True))
    tokens = encoder.tokenize(["two cats", "a " * 20])
    assert encoder.capacity == 9 and tokens.shape == (2, 9)
    assert tokens[0, 4:].tolist() == [0] * 5 and (tokens[1] > 0).all()
    features, mask = encoder(tokens)
    expected = encoder.parts.model(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, 9, 16) and mask.all()
    with pytest.raises(ValueError, match="has features of width 16, got dim 12"):
        CLIP(CLIPConfig(folder, 9, 12, last=True)).tokenize(["two cats"])
    with pytest.raises(ValueError, match="reads 9 tokens, got length 10"):
        CLIP(CLIPConfig(folder, 10, 16, last=True)).tokenize(["two cats"])

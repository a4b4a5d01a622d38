"""Hidden states of a language model: padding on the right with features, an instruction that is
cut off, what cannot be loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import build
from smalti.text.language_model import LanguageModel, LanguageModelConfig

CAPTIONS = ["a red cake on a table", "two dogs run over a hill", "a blue car"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Qwen2 of random weights, 16 wide, with a tokenizer of pieces of words."""
    transformers = pytest.importorskip("transformers", reason="the extra smalti[text] is missing")
    tokenizers = pytest.importorskip("tokenizers", reason="the extra smalti[text] is missing")
    where = tmp_path_factory.mktemp("language_model")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([*CAPTIONS, "describe it"], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<pad>", unk_token="<pad>"
    )
    fast.save_pretrained(where)
    config = transformers.Qwen2Config(
        vocab_size=words.get_vocab_size(), hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    build(transformers.Qwen2Model, config).save_pretrained(where)
    return where


@pytest.fixture
def encoder(folder) -> LanguageModel:
    return LanguageModel(LanguageModelConfig(str(folder), length=8, dim=16))


def test_texts_are_padded_on_the_right_and_padding_has_features(encoder):
    tokens = encoder.tokenize(CAPTIONS)
    count = encoder.count(CAPTIONS[2])
    assert tokens.shape == (3, 8) and 2 < count < 6
    features, mask = encoder(tokens)
    assert mask[2].tolist() == [True] * count + [False] * (8 - count)
    assert features.shape == (3, 8, 16) and features.dtype == torch.float32
    assert (features[2, count:].abs().amax(-1) > 1e-3).all()
    longer, _ = replaced(encoder, length=12)(replaced(encoder, length=12).tokenize(CAPTIONS[2:]))
    torch.testing.assert_close(longer[0, :count], features[2, :count], rtol=0, atol=1e-5)
    assert encoder.tokenize(["a " * 20]).min() >= 0, "cut at T"


def replaced(encoder: LanguageModel, **changes) -> LanguageModel:
    return LanguageModel(replace(encoder.config, **changes))


def test_an_instruction_is_read_and_cut_off(encoder):
    told = replaced(encoder, instruction="describe it")
    tokens = encoder.tokenize(CAPTIONS)
    plain, _ = encoder(tokens)
    features, mask = told(tokens)
    assert features.shape == plain.shape and torch.equal(mask, tokens >= 0)
    assert ((features - plain).abs().amax((1, 2)) > 1e-3).all()
    before = encoder.tokenize(["describe it"])
    before = before[before >= 0]
    text = tokens[2][tokens[2] >= 0]
    whole, _ = encoder(torch.cat((before, text))[None])
    there = slice(len(before), None)
    torch.testing.assert_close(whole[0, there], features[2, : len(text)], rtol=0, atol=1e-5)


def test_what_cannot_be_loaded_is_said_in_one_line(encoder, tmp_path):
    with pytest.raises(ValueError, match="has features of width 16, got dim 24"):
        replaced(encoder, dim=24).tokenize(CAPTIONS)
    with pytest.raises(ValueError, match="is no language model that can be loaded") as error:
        replaced(encoder, model=str(tmp_path)).tokenize(CAPTIONS)
    assert "\n" not in str(error.value)

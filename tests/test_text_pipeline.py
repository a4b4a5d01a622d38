"""Drawing from prompts: requests, negative prompts, files."""

import json
from dataclasses import replace

import pytest
import torch

import smalti
from builders import build
from smalti.models import llamagen
from smalti.pipeline import Pipeline, Sampling
from smalti.storage import fingerprint, save_module
from smalti.text import bytes as byte_level
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers import vqgan


def generator(**changes) -> llamagen.LlamaGen:
    text = {"classes": 0, "text_length": 12, "text_dim": 16} | changes
    return build(llamagen.LlamaGen, replace(llamagen.tiny(), **text))


def pipeline(**sampling) -> Pipeline:
    return Pipeline(
        build(vqgan.VQGAN, vqgan.tiny()),
        generator(),
        sampling=Sampling(**sampling),
        text=build(byte_level.ByteEncoder, byte_level.tiny()),
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline(guidance=2.0)


def test_the_folder_holds_the_text_encoder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    info = json.loads((tmp_path / "p" / "model" / "config.json").read_text())
    assert info["text"] == fingerprint(pipe.text) == pipe.fingerprint.split("-")[2]
    loaded = smalti.load(tmp_path / "p", device="cpu", dtype=torch.float32)
    assert loaded.fingerprint == pipe.fingerprint
    state = loaded.text.state_dict()
    assert all(torch.equal(state[k], v) for k, v in pipe.text.state_dict().items())
    half = smalti.load(tmp_path / "p", device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in half.text.parameters()} == {torch.bfloat16}


def test_another_text_encoder_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    mark = save_module(
        build(byte_level.ByteEncoder, byte_level.tiny(), seed=1), tmp_path / "p" / "text"
    )
    with pytest.raises(ValueError, match=f"{fingerprint(pipe.text)}, the folder holds .* {mark}"):
        smalti.load(tmp_path / "p")


def test_a_frozen_encoder_is_stored_by_its_name_alone(tmp_path):
    text = T5(T5Config("nobody/t5", length=12, dim=16, clean=True))
    first = Pipeline(build(vqgan.VQGAN, vqgan.tiny()), generator(), text=text)
    first.save_pretrained(tmp_path / "p")
    loaded = smalti.load(tmp_path / "p", device="cpu")
    assert loaded.text.config == text.config and loaded.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({}, None, r"reads .* \(12, 16\), the encoder gives None"),
        ({"text_dim": 8}, byte_level.tiny(), r"reads .* \(12, 8\), the encoder gives \(12, 16\)"),
        ({"text_length": 9}, byte_level.tiny(), r"reads .* \(9, 16\), .* gives \(12, 16\)"),
        (
            {"classes": 5, "text_length": 0},
            byte_level.tiny(),
            r"reads .* None, the encoder gives \(12, 16\)",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(changes, text, message):
    encoder = text and byte_level.ByteEncoder(text)
    with pytest.raises(ValueError, match=message):
        Pipeline(build(vqgan.VQGAN, vqgan.tiny()), generator(**changes), text=encoder)

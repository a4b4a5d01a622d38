"""Pipelines and commands of a tokenizer whose decoder reads a text of each picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from builders import build, models
from servers import Running, opened, same
from small_systems import mistake, said
from smalti.cli.repacking import opened as opened_at
from smalti.eval.reconstructed import Reconstructed
from smalti.modules import TOKENIZERS, load_module, save_module
from smalti.pipeline.npz import draw_npz
from smalti.pipeline.pipeline import Pipeline
from smalti.serve.app import make_app
from smalti.serve.shared import Shared
from smalti.serve.state import Server
from smalti.text import byte_words
from smalti.text.byte_words import ByteEncoder
from smalti.tokenizers.titok import TiTok, TiTokConfig, tiny
from tiny_clip import write_clip

TEXTS = ["a red heart", "two black cats"]
LENGTH, WIDTH = 9, 16


@pytest.fixture(scope="module")
def config() -> TiTokConfig:
    return replace(tiny(), tokens=12, text_length=LENGTH, text_dim=WIDTH)


@pytest.fixture(scope="module")
def pipe(config) -> Pipeline:
    """A model of texts, whose tokenizer's decoder reads them by an encoder of bytes."""
    module, shape = models()["maskbit-text"]
    model = build(module, replace(shape, grid=(1, 12), vocab=32, channels=0, groups=1))
    tokenizer, words = build(TiTok, config), byte_words.tiny()
    tokenizer.reader = build(ByteEncoder, replace(words, length=LENGTH, dim=WIDTH), seed=1)
    reads = model.reads
    text = build(ByteEncoder, replace(words, length=reads.text_length, dim=reads.text_dim))
    return Pipeline(tokenizer, model, text=text)


def test_the_decoder_reads_what_is_drawn(pipe, tmp_path):
    codes = pipe.codes(TEXTS, seed=3)
    told, other = (pipe.decode(codes, texts=texts).numpy() for texts in (TEXTS, TEXTS[::-1]))
    assert not same(told, other), "another text makes another picture of the same codes"
    drawn = pipe(TEXTS, seed=3)
    *_, last = pipe.stream(TEXTS, seed=3)
    for images in (drawn, last.images):
        assert same(np.stack([np.asarray(i) for i in images]), told.transpose(0, 2, 3, 1))
    draw_npz(pipe, tmp_path / "a.npz", 2, text=TEXTS, seed=3)
    assert same(np.load(tmp_path / "a.npz")["arr_0"], told.transpose(0, 2, 3, 1))


def test_a_server_tells_the_decoder_what_is_drawn(pipe):
    state = Server([Shared("told", pipe)])
    server = Running(state, make_app(state))
    try:
        for text, image in zip(TEXTS, pipe(TEXTS, first=0, seed=3), strict=True):
            first = TEXTS.index(text)
            (datum,) = server.generate(prompt=text, seed=3, first=first)
            assert same(np.asarray(opened(datum["b64_json"])), np.asarray(image))
    finally:
        server.stop()


def test_a_text_that_is_missing_is_told(pipe, config):
    codes = pipe.codes(TEXTS, seed=3)
    with pytest.raises(ValueError, match="decoder of this TiTok reads a text of each picture, got"):
        pipe.decode(codes)
    with pytest.raises(ValueError, match="a text for each of 2 pictures, got 1"):
        pipe.decode(codes, texts=TEXTS[:1])
    silent = build(TiTok, replace(config, text_length=0))
    with pytest.raises(ValueError, match="TiTok decodes without a text, got 2"):
        silent.read(TEXTS)
    module, shape = models()["titok_generator"]
    with pytest.raises(ValueError, match="for models that draw from texts, got titok_generator"):
        Pipeline(build(TiTok, config), build(module, replace(shape, grid=(1, 12), vocab=32)))


def test_pictures_without_a_text_are_not_reconstructed(config, tmp_path, capsys):
    save_module(build(TiTok, config), tmp_path / "told")
    save_module(build(TiTok, replace(config, text_length=0)), tmp_path / "silent")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    words = (tmp_path / "a.png", "--out", tmp_path / "no.png")
    told = mistake(capsys, "reconstruct", tmp_path / "told", *words)
    assert "reads a text of each image; 1 of 1 of" in told and "give --text" in told
    told = mistake(capsys, "reconstruct", tmp_path / "silent", *words, "--text", "a cat")
    assert "--text is for tokenizers whose decoder reads texts, got 'a cat'" in told
    assert not (tmp_path / "no.png").exists()


@torch.inference_mode()
def test_pictures_of_a_set_are_given_back_by_their_captions(pipe, tmp_path):
    for i, text in enumerate(TEXTS):
        Image.new("RGB", (20, 20), ("red", "black")[i]).save(tmp_path / f"{i}.png")
        with open(tmp_path / "metadata.jsonl", "a") as lines:
            lines.write(f'{{"file_name": "{i}.png", "text": "{text}"}}\n')
    pictures = opened_at(pipe.tokenizer, f"folder:{tmp_path}", 0.1)
    (back,) = Reconstructed(pipe.tokenizer, pictures).batches(2)
    (images,) = pictures.batches(2)
    assert same(back.numpy(), pipe.decode(pipe.encode(images), texts=TEXTS).numpy())
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="pictures without a caption, and the decoder reads a"):
        opened_at(pipe.tokenizer, f"folder:{tmp_path}", 0.1)


@pytest.mark.slow
def test_pictures_are_reconstructed_by_their_captions(config, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip", TEXTS)
    save_module(build(TiTok, replace(config, text_model=clip)), tmp_path / "told")
    (tmp_path / "pictures").mkdir()
    for i, text in enumerate(TEXTS):
        Image.new("RGB", (20, 20), ("red", "black")[i]).save(tmp_path / f"pictures/{i}.png")
        with open(tmp_path / "pictures/metadata.jsonl", "a") as lines:
            lines.write(f'{{"file_name": "{i}.png", "text": "{text}"}}\n')
    rows = list[np.ndarray]()
    for more in ((), ("--text", TEXTS[0])):
        out = tmp_path / f"{len(rows)}.png"
        said(capsys, "reconstruct", tmp_path / "told", f"folder:{tmp_path}/pictures", *more,
             "--out", out)  # fmt: skip
        rows.append(np.asarray(Image.open(out)))
    half = rows[0].shape[1] // 2
    assert np.array_equal(rows[0][:, :half], rows[1][:, :half]), "the first has this caption"
    assert not np.array_equal(rows[0], rows[1])
    tokenizer, _ = load_module(tmp_path / "told", TOKENIZERS)
    assert tokenizer.read(TEXTS).shape == (2, LENGTH, WIDTH)

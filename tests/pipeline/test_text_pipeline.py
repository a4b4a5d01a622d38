"""Drawing from prompts: requests, negative prompts, files."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import close
import smalti
from builders import build
from smalti.cli.main import main
from smalti.models import llamagen
from smalti.modules import fingerprint, save_module
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.sampling import Sampling
from smalti.text import byte_words as byte_level
from smalti.text.t5 import T5, T5Config
from smalti.tokenizers import vqgan


def generator(**changes) -> llamagen.LlamaGen:
    text = {"classes": 0, "text_length": 12, "text_dim": 16} | changes
    return build(llamagen.LlamaGen, replace(llamagen.tiny(), **text))


def pipeline(**sampling) -> Pipeline:
    return Pipeline(
        build(vqgan.VQGAN, vqgan.tiny()),
        generator(),
        sampling=Sampling.of(**sampling),
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


# -- requests


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images])


def same(images, wanted) -> None:
    """Drawn in batches of another size: the same codes, and pixels but for rounding."""
    close.pixels(pixels(images), wanted, build(vqgan.VQGAN, vqgan.tiny()))


PROMPTS = ["a red heart", "ein Stern", "青い円"]


def test_an_image_depends_on_seed_number_and_prompt_alone(pipe):
    wanted = pixels(pipe(text=PROMPTS, n=7, seed=5))
    assert len(np.unique(wanted.reshape(7, -1), axis=0)) == 7
    for batch in (1, 3):
        same(pipe(text=PROMPTS, n=7, seed=5, batch=batch), wanted)
    same(pipe(text=PROMPTS, n=5, seed=5, first=2), wanted[2:])
    same(pipe(text=PROMPTS[1], seed=5, first=4), wanted[4:5])
    assert not np.array_equal(pixels(pipe(text="a blue heart", seed=5)), wanted[:1])
    (*_, last) = pipe.stream(text=PROMPTS, n=7, seed=5)
    same(last.images, wanted)


def test_prompts_in_turn_and_in_the_metadata(pipe):
    tags = [i.info["smalti"] for i in pipe(text=PROMPTS[:2], n=3, negative="rain")]
    assert [(t["text"], t["negative"]) for t in tags] == [
        (PROMPTS[0], "rain"),
        (PROMPTS[1], "rain"),
        (PROMPTS[0], "rain"),
    ]
    assert "negative" not in pipe(text=PROMPTS[0])[0].info["smalti"]
    assert "class" not in tags[0]


def test_a_negative_prompt_takes_the_place_of_the_null_text(pipe):
    strong = {"text": PROMPTS, "seed": 1, "guidance": 20.0}
    plain, led = pipe(**strong), pipe(**strong, negative="rain")
    assert not np.array_equal(pixels(plain), pixels(led))
    each = pipe(**strong, negative=["rain", "snow", "rain"])
    assert np.array_equal(pixels(each)[::2], pixels(led)[::2])
    assert not np.array_equal(pixels(each)[1], pixels(led)[1])
    same = pipe(text=PROMPTS, seed=1, negative=PROMPTS, guidance=3.0)  # u + s * (c - u) with u = c
    assert np.array_equal(pixels(same), pixels(pipe(text=PROMPTS, seed=1, guidance=1.0)))
    only = pipe(text=PROMPTS, seed=1, negative="rain", guidance=0.0)
    assert np.array_equal(pixels(only), pixels(pipe(text="rain", n=3, seed=1, guidance=1.0)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a heart", ["a heart"]),
        (["a", "b"], ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.str_("a"), ["a"]),
    ],
)
def test_what_stands_first_are_prompts(pipe, given, wanted):
    assert [a["text"] for a in pipe.asked(given)] == wanted
    assert [i.info["smalti"]["text"] for i in pipe(given, 1)] == wanted[:1]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "draws from texts: give it a prompt"),
        ({"classes": [0]}, r"draws from texts, not classes, got \[0\]"),
        ({"text": ""}, "prompt must not be empty, got ''; guidance 0 draws without"),
        ({"text": ["a", " \n"]}, "prompt must not be empty, got ' "),
        ({"text": []}, "prompts must be at least 1"),
        ({"text": b"a heart"}, "prompt must be a text, got b'a heart'"),
        ({"text": 5}, "prompt must be a text, got 5"),
        ({"text": ["a", None]}, "prompt must be a text, got None"),
        ({"text": "a\ud800"}, "must be a Unicode text"),
        ({"text": "a", "negative": ""}, "negative prompt must not be empty"),
        ({"text": ["a", "b", "c"], "negative": ["d", "e"]}, "each of the 3 prompts, got 2"),
    ],
)
def test_bad_prompts_are_named(pipe, request_, message):
    with pytest.raises(ValueError, match=message):
        pipe(**request_)


@pytest.mark.parametrize("request_", [{"text": "a heart"}, {"negative": "a heart"}])
def test_a_class_pipeline_refuses_texts(pipe, request_):
    classes = Pipeline(pipe.tokenizer, build(llamagen.LlamaGen, llamagen.tiny()))
    with pytest.raises(ValueError, match="draws classes, not texts, got 'a heart'"):
        classes(**request_)


def test_a_long_prompt_is_cut_with_a_warning(pipe):
    long = "a red heart " * 834
    with pytest.warns(UserWarning, match="has 3336 tokens; the first 12 are used") as told:
        images = pipe(text=[long, long, "star"], n=3)
    assert len(told) == 1 and images[0].info["smalti"]["text"] == long
    short = pipe(text=["a red heart " * 3, "a red heart " * 3, "star"])
    assert np.array_equal(pixels(images), pixels(short))


# -- the command line


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "p"
    pipe.save_pretrained(path)
    return str(path)


@pytest.mark.usefixtures("float32")
def test_sample_draws_prompts_in_turn_and_again(folder, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("青い円\n\n a green star \n", encoding="utf-8")
    command = ["sample", folder, "--text", "a red heart", "--prompts", str(tmp_path / "more.txt")]
    main([*command, "--negative", "rain", "--n", "4", "--json", "--out", str(tmp_path / "many")])
    tags = json.loads(capsys.readouterr().out)["images"]
    wanted = ["a red heart", "青い円", "a green star", "a red heart"]
    assert [t["text"] for t in tags] == wanted
    assert {t["negative"] for t in tags} == {"rain"}
    picture = tmp_path / "many" / "000002.png"
    main(["sample", folder, "--like", str(picture), "--out", str(tmp_path / "one.png")])
    alone = ["--negative", "rain", "--n", "4", "--batch", "1", "--out", str(tmp_path / "alone")]
    main([*command, *alone])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "alone/000002.png").read_bytes()
    one, same = (Image.open(path) for path in (tmp_path / "one.png", picture))
    apart = np.abs(np.asarray(one, int) - np.asarray(same, int))
    assert one.info == same.info and apart.max() <= 1  # a level, by rounding
    main([*command, "--json", "--out", str(tmp_path / "each.png")])
    assert len(json.loads(capsys.readouterr().out)["images"]) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "draws from texts: give it a prompt"),
        (["--text", ""], "must not be empty"),
        (["--classes", "1"], "draws from texts, not classes"),
        (["--prompts", "nothing.txt"], "nothing.txt"),
        (["--prompts", "bad.txt"], "bad.txt is not a UTF-8 text"),
        (["--prompts", "blank.txt"], "blank.txt holds no prompts"),
        (["--prompts", "."], "directory"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9 \xff\n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(SystemExit) as stop:
        main(["sample", folder, *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and words in line


@pytest.mark.slow
def test_a_long_prompt_is_one_line_at_the_command_line(folder, tmp_path):
    command = [sys.executable, "-m", "smalti", "sample", folder, "--n", "2", "--batch", "1"]
    command += ["--text", "x" * 10_000, "--out", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, drawn = done.stderr.splitlines()
    assert told.startswith("smalti sample: the prompt 'xxx") and "2500 tokens; the first 12" in told
    assert "2 images" in drawn

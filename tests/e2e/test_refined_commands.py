"""Renderers of codes by commands: trained around a tokenizer, put behind pipelines that learned its
codes, and one line for every mistake."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import smalti
import smalti.cli.main
from builders import build
from small_systems import GENERATOR, TOKENIZER, TRAIN, mistake, said, write_pictures
from smalti.loading import load_tokenizer, load_unified
from smalti.modules import TOKENIZERS as KNOWN
from smalti.modules import fingerprint, load_module, save_module
from smalti.tokenizers import dual

pytestmark = pytest.mark.usefixtures("float32")
RENDERER = (
    *"--data.source shapes:40 --model.size 32 32 --model.evaluations 2 --train.steps 4".split(),
    *"--model.renderer.layers 1 --model.renderer.heads 2 --model.renderer.dim 16".split(),
    *"--model.renderer.patch 4 --model.renderer.adapter.width 16".split(),
    *"--model.renderer.adapter.hidden 16".split(),
    *TRAIN,
)
TALK = (
    *"--data.source shapes-all:40 --data.holdout 0.25 --row 128 --vocab 280".split(),
    *"--model.language.layers 1 --model.language.heads 2 --model.language.dim 16".split(),
    *"--model.language.ffn-dim 16 --train.steps 3".split(),
    *TRAIN,
)


def run(*arguments) -> None:
    smalti.cli.main.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A tokenizer `t` and a generator `g` of its codes, one of two levels `d` and a model `i` of
    text and pictures, and renderers `rt` and `rd` of both."""
    folder = tmp_path_factory.mktemp("refined")
    run("train", "emoji_vqgan", "--out", folder / "t", *TOKENIZER)
    run("train", "emoji_llamagen", "--tokenizer", folder / "t", "--out", folder / "g", *GENERATOR)
    save_module(build(dual.DualTokenizer, dual.tiny()), folder / "d")
    run("train", "shapes_illume", "--tokenizer", folder / "d", "--out", folder / "i", *TALK)
    for name in ("t", "d"):
        run("train", "shapes_refined", "--tokenizer", folder / name, "--out",
            folder / f"r{name}", *RENDERER)  # fmt: skip
        run("repack", folder / ("g" if name == "t" else "i") / "pipeline", "--tokenizer",
            folder / f"r{name}" / "tokenizer", "--out", folder / f"p{name}")  # fmt: skip
    write_pictures(folder / "pictures", 3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    mask.save(folder / "mask.png")
    return folder


def test_a_renderer_is_a_tokenizer_of_the_same_codes(work, tmp_path, capsys):
    report = json.loads((work / "rd" / "report.json").read_text())
    assert report["held_out_psnr"] > 0 and report["steps"] == 4
    made, inside = load_tokenizer(work / "rd" / "tokenizer", "cpu"), load_tokenizer(work / "d")
    assert made.size == (32, 32) and fingerprint(made.coder) == fingerprint(inside)
    source = f"folder:{work / 'pictures'}"
    run("reconstruct", work / "rd" / "tokenizer", source, "--out", tmp_path / "r.png")
    assert Image.open(tmp_path / "r.png").size[0] > 32
    about = json.loads(said(capsys, "info", work / "rd" / "tokenizer", "--json"))
    assert about["coder"] == fingerprint(inside) and about["config"]["tokenizer"]["type"] == "dual"
    run("train", "shapes_refined", "--init", work / "rd" / "tokenizer", "--out", tmp_path / "on",
        *RENDERER)  # fmt: skip
    begun = json.loads((work / "rd" / "init.json").read_text())
    assert begun["tokenizer"] == fingerprint(inside)
    there = work / "rt" / ".." / "d"  # the same tokenizer, however it is spelled
    run("train", "shapes_refined", "--tokenizer", there, "--out", work / "rd", *RENDERER)
    again = load_tokenizer(tmp_path / "on" / "tokenizer", "cpu")
    assert fingerprint(again.coder) == fingerprint(inside) != fingerprint(again)


def test_a_generator_draws_the_same_codes_as_larger_pictures(work, tmp_path):
    small, large = (smalti.load(work / name) for name in (Path("g/pipeline"), Path("pt")))
    assert small.fingerprint.split("-")[1:] == large.fingerprint.split("-")[1:]
    assert small.fingerprint != large.fingerprint
    (one,), (two,) = (pipe(classes=[3], seed=5) for pipe in (small, large))
    assert one.size == (16, 16) and two.size == (32, 32)
    assert two.info["smalti"]["pipeline"] == large.fingerprint
    assert large.tokenizer.coder.config == small.tokenizer.config
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    run("edit", work / "pt", "--image", tmp_path / "red.png", "--mask", work / "mask.png",
        "--out", tmp_path / "e.png")  # fmt: skip
    large.save_pretrained(tmp_path / "again")
    assert smalti.load(tmp_path / "again").fingerprint == large.fingerprint


def test_a_model_of_text_and_pictures_draws_and_reads_with_it(work, tmp_path):
    pipe = load_unified(work / "pd", "cpu")
    before = load_unified(work / "i" / "pipeline", "cpu")
    assert pipe("a red heart")[0].size == (32, 32) and before("a red heart")[0].size == (16, 16)
    picture = work / "pictures" / "000.png"
    assert pipe.instruct(picture, "make it blue")[0].size == (32, 32)
    run("ask", work / "pd", "what?", "--image", picture, "--words", 3)
    pipe.save_pretrained(tmp_path / "again")
    assert load_unified(tmp_path / "again", "cpu").fingerprint == pipe.fingerprint


def test_codes_that_the_tokenizer_inside_made_are_learned_with_it(work, tmp_path):
    run("encode", "shapes:64", "--tokenizer", work / "t", "--out", tmp_path / "codes.arrow")
    run("train", "emoji_llamagen", "--tokenizer", work / "rt" / "tokenizer", "--codes",
        tmp_path / "codes.arrow", "--out", tmp_path / "g", *GENERATOR)  # fmt: skip
    pipe = smalti.load(tmp_path / "g" / "pipeline")
    assert pipe(classes=[0])[0].size == (32, 32)
    run("repack", tmp_path / "g" / "pipeline", "--tokenizer", work / "t", "--out", tmp_path / "p")
    assert smalti.load(tmp_path / "p")(classes=[0])[0].size == (16, 16)


def test_mistakes_are_one_line(work, tmp_path, capsys):
    pipeline, out = work / "g" / "pipeline", ("--out", tmp_path / "x")
    other, _ = load_module(work / "d", KNOWN)
    with torch.no_grad():
        other.post_quant_conv.bias.add_(1)
    save_module(other, tmp_path / "other")
    for words, *arguments in (
        ("needs --tokenizer DIR, made by training that", "train", "shapes_refined", *out),
        ("has a tokenizer inside: leave --tokenizer out", "train", "shapes_refined", "--init",
         work / "rd" / "tokenizer", "--tokenizer", work / "d", *out),
        ("size must be that of the pictures which are coded, 16x16, or a whole multiple", "train",
         "shapes_refined", "--tokenizer", work / "d", "--model.size", 24, 24, *out),
        ("renderer.patch must be at most 4 pixels", "train", "shapes_refined", "--tokenizer",
         work / "d", "--model.size", 32, 32, "--model.renderer.patch", 8, *out),
        ("draws codes of tokenizer", "repack", pipeline, "--tokenizer", work / "rd" / "tokenizer",
         *out),
        ("draws codes of tokenizer", "repack", work / "i" / "pipeline", "--tokenizer",
         tmp_path / "other", *out),
        ("is the pipeline itself: give another folder", "repack", pipeline, "--tokenizer",
         work / "rt" / "tokenizer", "--out", pipeline),
        ("exists and is not a pipeline", "repack", pipeline, "--tokenizer",
         work / "rt" / "tokenizer", "--out", work / "pictures"),
        ("is not a folder with a config.json", "repack", pipeline, "--tokenizer",
         work / "pictures", *out),
    ):  # fmt: skip
        assert words in mistake(capsys, *arguments)
    assert not (tmp_path / "x").exists()
    assert smalti.load(pipeline)(classes=[0])[0].size == (16, 16)

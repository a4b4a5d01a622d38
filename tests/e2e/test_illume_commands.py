"""ILLUME+ by commands: towers, a tokenizer of what they see, text and pictures on its codes, and
one line for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from small_systems import TRAIN
from smalti.cli.main import main
from smalti.data.document_file import DocumentCache, Row, write_documents
from smalti.data.documents import Piece
from smalti.loading import load_tokenizer, load_towers, load_unified
from smalti.pipeline.unified import Shown, Wish

pytestmark = pytest.mark.usefixtures("float32")

TOWERS = [
    *"--data.source shapes:60 --model.size 16 --model.features 16 --train.steps 2".split(),
    *(f"--model.{tower}.{name}={value}" for tower in ("vision", "text")
      for name, value in (("dim", 16), ("heads", 2), ("layers", 1), ("ffn-dim", 32))),
]  # fmt: skip
ONE = (
    "--data.source shapes:40 --model.size 16 16 --model.width 16 --model.heads 2 "
    "--model.semantic-vocab 12 --model.decoder.channels 16 --train.steps 3"
).split()
DUAL = [*ONE, *"--model.pixel-vocab 20 --model.encoder.channels 8".split()]
TALK = (
    "--data.source shapes-all:40 --data.holdout 0.25 --row 128 --vocab 280 --train.steps 3 "
    "--model.language.layers 1 --model.language.heads 2 --model.language.dim 16 "
    "--model.language.ffn-dim 16"
).split()


def run(*arguments) -> None:
    main([str(a) for a in arguments])


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Towers `s`, a tokenizer `d` of two levels, a model `i` on its codes."""
    folder = tmp_path_factory.mktemp("work")
    run("train", "shapes_siglip", "--out", folder / "s", *TOWERS, *TRAIN)
    run("train", "shapes_dual", "--towers", folder / "s" / "towers", "--out", folder / "d", *DUAL,
        *TRAIN)  # fmt: skip
    run("train", "shapes_illume", "--tokenizer", folder / "d" / "tokenizer", "--out", folder / "i",
        *TALK, *TRAIN)  # fmt: skip
    return folder


def test_a_tokenizer_keeps_the_vit_of_its_towers(work):
    tokenizer = load_tokenizer(work / "d" / "tokenizer", "cpu")
    vision = load_towers(work / "s" / "towers").towers.vision.state_dict()
    for name, weight in tokenizer.vit.sees.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(weight, vision[name])
    assert tokenizer.spec.grids == ((2, 2), (4, 4)) and tokenizer.spec.tables == (12, 20)
    report = json.loads((work / "d" / "report.json").read_text())
    assert {"held_out_psnr", "held_out_usage_2x2", "held_out_usage_4x4"} <= report.keys()


def test_a_run_leaves_a_pipeline_that_draws_and_answers(work, capsys):
    pipe = load_unified(work / "i" / "pipeline", "cpu")
    assert pipe.model.spec == pipe.tokenizer.spec
    run("sample", work / "i" / "pipeline", "--text", "a red heart", "--n", 2, "--top-k", "3,5",
        "--out", work / "drawn.png")  # fmt: skip
    assert Image.open(work / "drawn.png").size[0] > 16
    capsys.readouterr()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(work / "grey.png")
    run("ask", work / "i" / "pipeline", "what?", "--image", work / "grey.png", "--words", 3)
    shown = [e for e in pipe.go_on([["a red heart"]], Wish("picture", False, 1, every=2))
             if isinstance(e, Shown)]  # fmt: skip
    grey, *_, whole = (np.asarray(event.image) for event in shown)
    assert (grey == 128).all() and not (whole == 128).all() and len(shown) == 10
    (changed,) = pipe.instruct(work / "grey.png", "make it blue")
    assert changed.size == (16, 16)


def test_a_run_goes_on(work):
    run("train", "shapes_dual", "--init", work / "d" / "tokenizer", "--out", work / "on",
        "--data.source", "shapes:40", "--train.steps", 1, *TRAIN)  # fmt: skip
    before, after = (load_tokenizer(work / name / "tokenizer", "cpu") for name in ("d", "on"))
    assert torch.equal(before.vit.sees.patches.weight, after.vit.sees.patches.weight)  # type: ignore[union-attr]
    assert not torch.equal(before.last_layer, after.last_layer)


def test_semantic_codes_alone_are_an_illume(work):
    run("train", "shapes_semantic", "--towers", work / "s" / "towers", "--out", work / "one",
        *ONE, *TRAIN)  # fmt: skip
    run("train", "shapes_illume", "--tokenizer", work / "one" / "tokenizer", "--out",
        work / "first", *TALK, *TRAIN, "--sampling.top-k", 5)  # fmt: skip
    pipe = load_unified(work / "first" / "pipeline", "cpu")
    assert pipe.model.spec.grids == ((4, 4),) and pipe("a red heart")[0].size == (16, 16)


def test_mistakes_are_one_line(work, tmp_path, capsys):
    dual, out = work / "d" / "tokenizer", ("--out", tmp_path / "r")
    for words, *arguments in (
        ("needs --towers DIR, made by training towers", "train", "shapes_dual", *out),
        ("has a ViT: leave --towers out", "train", "shapes_dual", "--init", dual, "--towers",
         work / "s" / "towers", *out),
        ("size must be a multiple of 12 pixels, got 32", "train", "shapes_dual", "--towers",
         work / "s" / "towers", "--model.vit.merge", 3, *out),
        ("writes pictures of one grid of codes out of 8192, the tokenizer gives 2", "train",
         "shapes_chameleon", "--tokenizer", dual, *out),
        ("LlamaGen predicts one grid of codes, but the tokenizer", "train", "shapes_t2i",
         "--tokenizer", dual, "--data.source", "shapes:40", *out),
        ("top_k must be one value, or one for each of the 2 codes", "sample",
         work / "i" / "pipeline", "--text", "a", "--top-k", "1,2,3", "--out", tmp_path / "a.png"),
    ):  # fmt: skip
        assert words in mistake(capsys, *arguments)


def test_levels_out_of_step_are_refused(work, tmp_path):
    pipe = load_unified(work / "i" / "pipeline", "cpu")
    codes = pipe.tokenizer.spec.empty(1)
    for wrong in (codes.roll(4, 1), codes - 12 * (codes > 0)):
        with pytest.raises(ValueError, match="the levels are out of step"):
            pipe.decode(wrong)
    with pytest.raises(ValueError, match=r"codes must be \(B, 20\), got \(1, 16\)"):
        pipe.decode(codes[:, 4:])
    cache = DocumentCache(work / "i" / "documents.arrow")
    assert cache.spec == pipe.model.spec
    document = [Piece("a"), Piece(codes=codes.roll(4, 1)[0])]
    write_documents(tmp_path / "d.arrow", [Row("x", "t", False, document)], cache.encoding)
    with pytest.raises(ValueError, match="d.arrow is damaged: x: codes of the 2x2 grid"):
        DocumentCache(tmp_path / "d.arrow").document(0)

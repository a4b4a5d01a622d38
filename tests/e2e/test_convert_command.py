"""`smalti convert`: options, what it writes, and one line for every mistake."""

import json
import re
from dataclasses import replace

import pytest
import torch

import smalti
from builders import build
from official import Runs, official, write
from smalti.cli import main
from smalti.models.llamagen import LlamaGen, tiny
from smalti.registry import MODELS, TOKENIZERS
from smalti.storage import load_module
from smalti.tokenizers import vqgan
from smalti.tokenizers.vqgan import VQGAN

MODEL = replace(tiny(), grid=(4, 6), dropout=0.1)
GIVEN = ["--grid", "4x6", "--heads", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`vq.pt`, whose codes are 4 pixels wide, and `gpt.pt`."""
    folder = tmp_path_factory.mktemp("files")
    write({"model": official(build(VQGAN, vqgan.tiny()))}, folder / "vq.pt")
    write({"model": official(build(LlamaGen, MODEL))}, folder / "gpt.pt")
    return folder


def command(files, out, *options, vq="vq.pt", gpt="gpt.pt"):
    model = ["--model", str(files / gpt)] if gpt else []
    given = ["--tokenizer", str(files / vq), *model, "--out", str(out)]
    return ["convert", "llamagen", *given, *options]


def mistake(capsys, arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out and line.startswith("smalti ")
    return line


def test_what_is_written(files, tmp_path, capsys):
    main([*command(files, tmp_path / "p", *GIVEN), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "pipeline" and report["classes"] == list("01234")
    assert report["sampling"]["guidance"] == 2.0 and report["sampling"]["top_k"] == 0
    assert [len(digest) for digest in report["files"].values()] == [64, 64]
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert pipe.tokenizer.config == replace(vqgan.tiny(), size=(16, 24))
    assert replace(pipe.model.config, multiple_of=32) == replace(MODEL, multiple_of=32)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    main(command(files, tmp_path / "q", "--size", "16x24", "--heads", "2"))
    assert smalti.load(tmp_path / "q").fingerprint == pipe.fingerprint


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtype_is_of_the_generator_alone(files, tmp_path, name):
    main(command(files, tmp_path / "p", *GIVEN, "--dtype", name))
    tokenizer, _ = load_module(tmp_path / "p" / "tokenizer", TOKENIZERS)
    model, _ = load_module(tmp_path / "p" / "model", MODELS)
    assert {t.dtype for t in tokenizer.state_dict().values()} == {torch.float32}
    assert {t.dtype for t in model.state_dict().values()} == {getattr(torch, name)}


def test_the_tokenizer_alone(files, tmp_path, capsys):
    main(command(files, tmp_path / "t", "--size", "32", "--no-l2-norm", gpt=""))
    tokenizer, info = load_module(tmp_path / "t", TOKENIZERS)
    assert tokenizer.config == replace(vqgan.tiny(), size=(32, 32), l2_norm=False)
    assert list(info["files"]) == ["vq.pt"]
    assert "t exists" in mistake(capsys, command(files, tmp_path / "t", "--size", "32", gpt=""))
    assert "--size or --grid" in mistake(capsys, command(files, tmp_path / "u", gpt=""))


def test_a_pipeline_is_replaced_and_anything_else_is_not(files, tmp_path, capsys):
    main(command(files, tmp_path / "p", *GIVEN))
    main(command(files, tmp_path / "p", "--grid", "5", "--heads", "2"))
    assert smalti.load(tmp_path / "p").model.config.grid == (5, 5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("kept")
    line = mistake(capsys, command(files, tmp_path / "mine", *GIVEN))
    assert "mine exists and is not a pipeline" in line
    line = mistake(capsys, command(files, tmp_path / "mine" / "x", *GIVEN))
    assert "x is a file, not a folder" in line
    assert (tmp_path / "mine" / "x").read_text() == "kept"
    mistake(capsys, command(files, tmp_path / "p", "--grid", "5"))
    assert smalti.load(tmp_path / "p").model.config.grid == (5, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "gpt.pt does not say the size of its images: give --size or --grid"),
        (["--grid", "4"], "no published model has 2 layers of width 32; give --heads"),
        (["--grid", "4", "--size", "16"], "--size or --grid, not both, got 16 and 4"),
        (["--grid", "4x"], "--grid must be a number or HEIGHTxWIDTH, multiples of 1, got '4x'"),
        (["--grid", "0"], "multiples of 1, got '0'"),
        (["--size", "18"], "--size must be .* multiples of 4, got '18'"),
        ([*GIVEN, "--weights", "ema"], "gpt.pt holds no moving average 'ema'; it has model"),
        ([*GIVEN, "--weights", "best"], "best"),
        ([*GIVEN, "--dtype", "int8"], "int8"),
        (["--grid", "4", "--heads", "3"], "3 heads do not divide width 32"),
    ],
)
def test_options_that_do_not_fit(files, tmp_path, capsys, options, words):
    assert re.search(words, mistake(capsys, command(files, tmp_path / "p", *options)))
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit(files, tmp_path, capsys):
    vq, gpt = official(build(VQGAN, vqgan.tiny())), official(build(LlamaGen, MODEL))
    bad = {
        "swapped.pt": (vq, "looks like a LlamaGen tokenizer; try: smalti convert llamagen --tok"),
        "nothing.pt": ({"x": torch.ones(1)}, "it has no tok_embeddings.weight"),
        "batch.pt": (gpt | {"extra": torch.ones(1)}, r"0 tensors missing [], 1 unknown ['extra']"),
        "vocab.pt": (
            official(build(LlamaGen, replace(MODEL, vocab=33))),
            "tokenizer and model speak of other codes",
        ),
        "wide.pt": (
            gpt | {"norm.weight": torch.ones(7)},
            "norm.weight has shape (7,), its configuration asks for (32,)",
        ),
        "int.pt": (
            gpt | {"norm.weight": torch.ones(32, dtype=torch.int8)},
            "int.pt: norm.weight holds torch.int8, not weights",
        ),
    }
    for name, (state, words) in bad.items():
        write(state, files / name)
        assert words in mistake(capsys, command(files, tmp_path / "p", *GIVEN, gpt=name))
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, vq="gpt.pt"))
    assert "gpt.pt looks like a LlamaGen generator; try: smalti convert llamagen --model" in line
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, vq="nothing.pt"))
    assert "nothing.pt is no such file of LlamaGen: it has no encoder.conv_in.weight" in line
    assert "none.pt is not a file" in mistake(capsys, command(files, tmp_path / "p", gpt="none.pt"))
    assert not list(tmp_path.iterdir())


def test_caches_of_a_run_are_dropped(files, tmp_path):
    gpt = official(build(LlamaGen, MODEL)) | {
        "causal_mask": torch.ones(2, 2, dtype=torch.bool),
        "layers.0.attention.kv_cache.k_cache": torch.ones(2, 2),
        "layers.0.attention.kv_cache.v_cache": torch.ones(2, 2),
    }
    write(gpt, files / "used.pt")
    main(command(files, tmp_path / "p", *GIVEN, gpt="used.pt"))
    main(command(files, tmp_path / "q", *GIVEN))
    marks = {smalti.load(tmp_path / name).fingerprint for name in "pq"}
    assert len(marks) == 1


@pytest.mark.parametrize("place", ["tokenizer", "model"])
def test_a_pickle_that_runs_something_is_refused(files, tmp_path, capsys, place):
    trap = Runs(tmp_path / "trap")
    write({"model": official(build(VQGAN, vqgan.tiny())), "args": trap}, files / "trap.pt")
    given = {"vq" if place == "tokenizer" else "gpt": "trap.pt"}
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, **given))
    assert "trap.pt is refused: its pickle asks for" in line and "nothing was run" in line
    assert not list(tmp_path.iterdir())


def test_a_local_file_names_the_command(files, capsys, tmp_path):
    line = mistake(capsys, ["sample", str(files / "gpt.pt"), "--out", str(tmp_path / "x.png")])
    assert "gpt.pt is a file, not a pipeline; it looks like a LlamaGen generator; try: " in line
    assert f"smalti convert llamagen --model {files / 'gpt.pt'}" in line
    (tmp_path / "note.txt").write_text("no weights")
    line = mistake(capsys, ["sample", str(tmp_path / "note.txt"), "--out", str(tmp_path / "x.png")])
    assert "note.txt is a file, not a pipeline; smalti convert --help names" in line
    (tmp_path / "note.txt").unlink()
    assert not list(tmp_path.iterdir())


def test_an_unknown_family(capsys):
    line = mistake(capsys, ["convert", "llamagin", "--out", "x"])
    families = "llamagen, mar, maskgit-vqgan, rar, var"
    assert line == f"smalti convert: family must be one of {families}, got 'llamagin'"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_families_are_listed(capsys, arguments):
    main(["convert", *arguments])
    assert "llamagen  " in capsys.readouterr().out


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", "llamagen", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for option in ("tokenizer", "model", "out", "size", "grid", "heads", "weights", "l2-norm"):
        assert f"--{option}" in text

"""`smalti convert`: options, what it writes, and one line for every mistake."""

import json
import re
from dataclasses import replace

import pytest
import torch

import smalti
from builders import build
from official import Runs, official, other, wrapped, write
from smalti.cli.main import main
from smalti.interop.projects import PROJECTS
from smalti.models.llamagen import LlamaGen, tiny
from smalti.modules import MODELS, TOKENIZERS, load_module
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
    main(command(files, tmp_path / "u", gpt=""))
    assert "taken for 256 pixels (--size)" in capsys.readouterr().err
    assert load_module(tmp_path / "u", TOKENIZERS)[0].config.size == (256, 256)


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


def test_an_unknown_project(capsys):
    line = mistake(capsys, ["convert", "llamagin", "--out", "x"])
    wanted = (
        f"project must be one of {', '.join(PROJECTS)}, got 'llamagin'; did you mean 'llamagen'?"
    )
    assert line == f"smalti convert: {wanted}"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_projects_are_listed(capsys, arguments):
    main(["convert", *arguments])
    text = capsys.readouterr().out
    assert "\n  llamagen       A tokenizer and a generator of LlamaGen as a pipeline\n" in text
    assert "on the hub: FoundationVision/LlamaGen/c2i_B_256.pt, ..." in text
    assert "Nothing that is in it is run." in text


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", "llamagen", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for option in ("tokenizer", "model", "out", "size", "grid", "heads", "weights", "l2-norm"):
        assert f"--{option}" in text
    assert "Folder to write; an older pipeline there is replaced. (required)" in " ".join(
        text.replace("│", " ").split()
    )


NOISE = {"loss.discriminator.0.weight": torch.ones(3), "optimizer_step": torch.ones(1)}


def lightning(state, *prefixes):
    return {"state_dict": wrapped(state, *prefixes) | NOISE, "epoch": 1, "loops": {"a": [1]}}


@pytest.mark.parametrize(
    ("name", "content", "prefix", "others"),
    [
        ("lightning", lambda s: lightning(s, "model"), "model.", 2),
        ("deeper", lambda s: lightning(s, "model", "gpt"), "model.gpt.", 2),
        (
            "compiled",
            lambda s: {"model": wrapped(s, "module", "_orig_mod")},
            "module._orig_mod.",
            0,
        ),
        ("flat", lambda s: wrapped(s, "state_dict", "module"), "state_dict.", 0),
        ("named", lambda s: {"generator": s, "step": 3}, "generator.", 0),
        ("nested", lambda s: {"checkpoint": {"model": {"state_dict": s}}, "step": 3}, "", 0),
        ("average", lambda s: wrapped(s, "ema"), "ema.", 0),
        ("both", lambda s: wrapped(s, "model") | wrapped(other(s), "ema"), "model.", 0),
        (
            "twice",
            lambda s: {"state_dict": wrapped(s, "model") | wrapped(other(s), "teacher")},
            "model.",
            None,
        ),
    ],
)
def test_what_names_begin_with_is_left_out_and_said(
    files, tmp_path, capsys, name, content, prefix, others
):
    state = official(build(LlamaGen, MODEL))
    write(content(state), files / "wrapped.pt")
    main(command(files, tmp_path / "p", *GIVEN, gpt="wrapped.pt"))
    model = smalti.load(tmp_path / "p", "cpu", torch.float32).model
    plain = build(LlamaGen, MODEL).state_dict()
    assert all(torch.equal(plain[k], t) for k, t in model.state_dict().items())
    lines = [line for line in capsys.readouterr().err.splitlines() if "wrapped.pt" in line]
    said = f"{files / 'wrapped.pt'}: names begin with {prefix!r}, which is left out"
    rest = f"; {len(state) if others is None else others} tensors that do not are not used"
    assert lines == ([said + ("" if others == 0 else rest)] if prefix else [])


def test_the_average_of_a_flat_file(files, tmp_path):
    state = official(build(LlamaGen, MODEL))
    write(wrapped(other(state), "model") | wrapped(state, "ema"), files / "both.pt")
    main(command(files, tmp_path / "p", *GIVEN, "--weights", "ema", gpt="both.pt"))
    main(command(files, tmp_path / "q", *GIVEN))
    assert len({smalti.load(tmp_path / name).fingerprint for name in "pq"}) == 1


def test_a_file_of_several_models_and_one_of_another_kind(files, tmp_path, capsys):
    vq, gpt = official(build(VQGAN, vqgan.tiny())), official(build(LlamaGen, MODEL))
    write(wrapped(gpt, "a") | wrapped(gpt, "b"), files / "twice.pt")
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, gpt="twice.pt"))
    assert line.endswith("twice.pt holds a LlamaGen generator several times, under a., b.")
    write({"state_dict": wrapped(vq, "first_stage_model")}, files / "vq2.pt")
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, gpt="vq2.pt"))
    assert "vq2.pt looks like a LlamaGen tokenizer; try: smalti convert llamagen --token" in line
    both = {"state_dict": wrapped(vq, "first_stage_model") | wrapped(gpt, "model")}
    write(both, files / "all.ckpt")
    main(command(files, tmp_path / "p", *GIVEN, vq="all.ckpt", gpt="all.ckpt"))
    main(command(files, tmp_path / "q", *GIVEN))
    assert len({smalti.load(tmp_path / name).fingerprint for name in "pq"}) == 1


def test_shards_become_a_pipeline(files, tmp_path):
    state = official(build(LlamaGen, MODEL))
    folder = tmp_path / "hub"
    folder.mkdir()
    names, places = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)], {}
    for i, name in enumerate(state):
        places[name] = names[i % 3]
    for shard in names:
        write({k: state[k] for k, v in places.items() if v == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for out, given in (("p", index), ("q", folder)):
        main(command(files, tmp_path / out, *GIVEN, gpt=str(given)))
    main(command(files, tmp_path / "r", *GIVEN))
    pipes = [smalti.load(tmp_path / name) for name in "pqr"]
    assert len({pipe.fingerprint for pipe in pipes}) == 1
    assert set(pipes[1].info["files"]) == {"vq.pt", index.name, *names}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["tokenizer", "model"])
def test_weights_that_are_no_numbers(files, tmp_path, capsys, place, value):
    module, config = (VQGAN, vqgan.tiny()) if place == "tokenizer" else (LlamaGen, MODEL)
    state, name = official(build(module, config)), "post_quant_conv.weight"
    name = name if place == "tokenizer" else "output.weight"
    state[name][0, :2] = value
    write({"model": state}, files / "bad.pt")
    given = {"vq" if place == "tokenizer" else "gpt": "bad.pt"}
    line = mistake(capsys, command(files, tmp_path / "p", *GIVEN, **given))
    size = state[name].numel()
    assert f"bad.pt: {name} holds 2 values of {size} that are NaN or infinite in float32" in line
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_overflows(files, tmp_path, capsys):
    state = official(build(LlamaGen, MODEL))
    state["norm.weight"][3] = 1e5
    write({"model": state}, files / "large.pt")
    given = command(files, tmp_path / "p", *GIVEN, "--dtype", "float16", gpt="large.pt")
    assert "norm.weight holds 1 values of 32 that are NaN or infinite in float16" in mistake(
        capsys, given
    )
    main(command(files, tmp_path / "p", *GIVEN, gpt="large.pt"))

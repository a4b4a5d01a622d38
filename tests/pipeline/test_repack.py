"""A pipeline in fewer bits: it draws, belongs together, and damage is seen."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import smalti
from builders import build, pipeline
from smalti.cli.main import main
from smalti.loading import load_unified
from smalti.modules import fingerprint, save_module
from smalti.pipeline.card import is_own
from smalti.pipeline.repack import repack
from smalti.tokenizers import refined
from unified_pipelines import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "p"
    info = {"source": "shapes:40", "holdout": 0.5, "styles": ["noto"]}
    pipeline("maskbit-text", info=info).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bits", ["bfloat16", "int8"])
def test_files_become_small_and_draw(folder, tmp_path, bits):
    repack(folder, tmp_path / "small", bits=bits)
    pipe = smalti.load(tmp_path / "small", device="cpu", dtype="float32")
    exact = smalti.load(folder, device="cpu", dtype="float32")
    for part in ("tokenizer", "model", "text"):
        file = tmp_path / "small" / part / "model.safetensors"
        assert file.stat().st_size < 0.75 * (folder / part / "model.safetensors").stat().st_size
        assert {str(t.dtype)[6:] for t in load_file(file).values()} >= {bits}
    assert pipe.wording == exact.wording and pipe.info["source"] == "shapes:40"
    assert (
        pipe.tokenizer.encode(exact.tokenizer.decode(exact.codes(["x"]))).shape[1:]
        == (exact.model.spec.shape(1)[1:])
    )
    images = [p(["red heart, noto"], seed=1)[0] for p in (pipe, exact)]
    apart = np.abs(np.asarray(images[0], float) - np.asarray(images[1], float)).mean()
    assert apart < 40, "other codes at most, not noise"
    # in memory the parts are what the files say: what is saved again belongs together
    marks = pipe.fingerprint.split("-")
    assert marks == [fingerprint(p) for p in (pipe.tokenizer, pipe.model, pipe.text)]
    pipe.save_pretrained(tmp_path / "again")
    assert smalti.load(tmp_path / "again", device="cpu").fingerprint == pipe.fingerprint


def test_the_card_comes_along(folder, tmp_path):
    repack(folder, tmp_path / "small", bits="int8")
    card, pipe = (tmp_path / "small" / "README.md").read_text(), smalti.load(tmp_path / "small")
    assert is_own(card) and pipe.fingerprint in card
    assert smalti.load(folder).fingerprint not in card
    shutil.copytree(folder, tmp_path / "p")
    (tmp_path / "p" / "README.md").write_text("# mine\n")
    repack(tmp_path / "p", tmp_path / "other", bits="int8")
    assert (tmp_path / "other" / "README.md").read_text() == "# mine\n"
    repack(folder, tmp_path / "other", bits="bfloat16")  # which stays
    assert (tmp_path / "other" / "README.md").read_text() == "# mine\n"


@pytest.mark.parametrize("again", ["save", "repack"])
def test_parts_of_a_pipeline_that_was_there_before_go(tmp_path, again):
    """And what is not of smalti stays, or is refused where a part would be written over it."""
    old, new = made("janus"), made("one_vocabulary")
    old.save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "eye" / "notes.txt").write_text("mine")
    assert (tmp_path / "p" / "eye" / "config.json").is_file()
    if again == "save":
        new.save_pretrained(tmp_path / "p")
    else:
        new.save_pretrained(tmp_path / "new")
        repack(tmp_path / "new", tmp_path / "p", bits="bfloat16")
    assert [file.name for file in (tmp_path / "p" / "eye").iterdir()] == ["notes.txt"]
    assert load_unified(tmp_path / "p", "cpu").eye is None
    pipeline("llamagen").save_pretrained(tmp_path / "p")
    assert not (tmp_path / "p" / "words").exists()
    for part, file in (("words", "tokenizer.json"), ("eye", "config.json")):
        (tmp_path / "p" / part).mkdir(exist_ok=True)
        (tmp_path / "p" / part / file).write_text('{"my": "own"}')
        with pytest.raises(ValueError, match="is not"):
            new.save_pretrained(tmp_path / "p")
        assert (tmp_path / "p" / part / file).read_text() == '{"my": "own"}'
        (tmp_path / "p" / part / file).unlink()


def test_what_only_reads_becomes_small_too(tmp_path, capsys):
    made("flamingo").save_pretrained(tmp_path / "p")
    main(["repack", str(tmp_path / "p"), "--dtype", "int8", "--out", str(tmp_path / "small")])
    assert "what it costs is not measured" in capsys.readouterr().err
    pipe, exact = (load_unified(tmp_path / name, "cpu") for name in ("small", "p"))
    assert pipe.fingerprint != exact.fingerprint and pipe.eye is not None
    red = Image.new("RGB", (8, 8), "red")
    assert isinstance(pipe.ask(red, "what?", words=3), str)
    with pytest.raises(ValueError, match="draws no pictures: it has no tokenizer"):
        repack(tmp_path / "p", tmp_path / "o", smalti.load("smalti/emoji64").tokenizer)


def test_a_damaged_file_is_one_line(folder, tmp_path, capsys):
    repack(folder, tmp_path / "small", bits="int8")
    file = tmp_path / "small" / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.dtype.itemsize == 1)
    tensors[name].view(-1)[0] ^= 1
    save_file(tensors, file)
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(tmp_path / "small"), "--text", "x", "--out", str(tmp_path / "a.png")])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in line and "is damaged or was changed" in line
    config = tmp_path / "small" / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"stored": "int3"}))
    with pytest.raises(ValueError, match="stored in bfloat16 or int8, got 'int3'"):
        smalti.load(tmp_path / "small", device="cpu")


def test_the_command_says_what_it_costs(folder, tmp_path, capsys):
    out = tmp_path / "small"
    main(["repack", str(folder), "--dtype", "int8", "--out", str(out), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    assert report["kind"] == "pipeline" and report["model"]["stored"] == "int8"
    (psnr,) = [value for name, value in report["costs"].items() if name.startswith("psnr")]
    assert all(0 < value < 60 for value in psnr) and psnr[0] != psnr[1]
    assert any("bits_per_token" in name for name in report["costs"])
    exact = json.loads((folder / "model" / "config.json").read_text())
    count = sum(t.numel() for t in load_file(folder / "model" / "model.safetensors").values())
    assert report["model"]["parameters"] == count and exact["type"] == report["model"]["type"]


def test_another_tokenizer_is_measured_at_its_own_size(tmp_path, capsys):
    pipe = pipeline("llamagen-text", info={"source": "shapes:20", "holdout": 0.5})
    pipe.save_pretrained(tmp_path / "p")
    size = (2 * pipe.tokenizer.size[0], 2 * pipe.tokenizer.size[1])
    config = replace(refined.tiny(), size=size, tokenizer=pipe.tokenizer.config)
    config = replace(config, renderer=replace(config.renderer, patch=2))
    large = build(refined.Refined, config.coding(pipe.tokenizer))
    large.code_by(pipe.tokenizer)
    save_module(large, tmp_path / "large")
    words = ["repack", tmp_path / "p", "--tokenizer", tmp_path / "large", "--dtype", "int8"]
    main([*map(str, words), "--out", str(tmp_path / "o"), "--json"])
    told = json.loads((tmp_path / "o" / "pipeline.json").read_text())["fingerprint"]
    assert told == smalti.load(tmp_path / "o", device="cpu").fingerprint
    costs = json.loads(capsys.readouterr().out)["costs"]
    (bits,) = [pair for name, pair in costs.items() if name.startswith("bits_per_image")]
    assert any(name.startswith("psnr") for name in costs) and bits[0] == pytest.approx(bits[1], 0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "a --tokenizer, a --dtype or both, got neither"),
        (["--dtype", "int4"], "bfloat16"),
        (["--dtype", "int8", "--data", "nothing"], "is no folder, no .npz file and no data source"),
        (["--data", "shapes:40"], "--data is what --dtype is measured on"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as stop:
        main(["repack", str(folder), "--out", str(tmp_path / "o"), *options])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in line and words in line
    assert not (tmp_path / "o").exists()

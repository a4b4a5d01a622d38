"""MaskBit by the real commands: both parts are trained, drawn from, edited and measured."""

import json

import numpy as np
import pytest
from PIL import Image

from small_systems import TRAIN
from smalti.cli.main import main
from smalti.config import read_json
from smalti.modules import MODELS, TOKENIZERS, load_module
from smalti.tokenizers.maskbit import MaskBitVQGANConfig

DATA = "--data.source shapes:64 --train.steps 6".split()
TOKENIZER = [
    *"--model.size 16 16 --model.channels 8 --model.multipliers 1 2 --model.blocks 1".split(),
    *"--model.bits 6 --objective.perceptual none --objective.gan-weight 0".split(),
]
GENERATOR = "--model.layers 1 --model.heads 2 --model.dim 16 --model.ffn-dim 32".split()

pytestmark = pytest.mark.usefixtures("float32")


def run(*arguments) -> None:
    main([str(a) for a in arguments])


def mistake(capsys, *arguments) -> str:
    """The one line that a command which fails writes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out
    return line


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maskbit")
    run("train", "maskbit_tokenizer_14bit", "--out", folder / "t", *DATA, *TRAIN, *TOKENIZER)
    given = ["--tokenizer", folder / "t" / "tokenizer", *DATA, *TRAIN, *GENERATOR]
    run("train", "emoji_maskbit", "--out", folder / "g", *given)
    return folder


def test_what_was_trained(runs):
    tokenizer, _ = load_module(runs / "t" / "tokenizer", TOKENIZERS)
    assert tokenizer.config == MaskBitVQGANConfig((16, 16), 8, (1, 2), 1, bits=6)
    log = [json.loads(line) for line in (runs / "t" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "psnr", "commitment", "entropy"} <= log[-2].keys()
    assert "codebook" not in log[-2]
    model, _ = load_module(runs / "g" / "pipeline" / "model", MODELS)
    assert (model.spec, model.config.groups) == (tokenizer.spec, 3)
    report = read_json(runs / "g" / "report.json")
    assert report["held_out_bits_per_token_bound"] < 12
    assert read_json(runs / "g" / "recipe.json")["objective"]["known_weight"] == 1.0


def test_pictures_are_drawn_and_edited(runs, tmp_path):
    pipeline = runs / "g" / "pipeline"
    run("sample", pipeline, "--class", 1, "--n", 2, "--steps", 192, "--out", tmp_path / "s.png")
    assert np.asarray(Image.open(tmp_path / "s.png")).std() > 0
    picture, mask = tmp_path / "p.png", np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    Image.effect_noise((16, 16), 60).convert("RGB").save(picture)
    Image.fromarray(mask).save(tmp_path / "m.png")
    edited = tmp_path / "e"
    run("edit", pipeline, "--image", picture, "--mask", tmp_path / "m.png", "--class", 1,
        "--keep-pixels", "--n", 1, "--out", edited)  # fmt: skip
    (file,) = sorted(edited.iterdir()) if edited.is_dir() else [edited]
    before, after = (np.asarray(Image.open(f).convert("RGB"), int) for f in (picture, file))
    assert (before != after)[:, :4].any() and (before == after)[:, 12:].all()


def test_it_is_measured(runs, tmp_path):
    run("eval", runs / "g" / "pipeline", "--n", 8, "--out", tmp_path / "r.json")
    found = {m["metric"]: m["value"] for m in read_json(tmp_path / "r.json")["metrics"]}
    token, image = found["bits_per_token_bound"], found["bits_per_image_bound"]
    assert 0 < token < 12 and image == pytest.approx(64 * token)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 193], "steps must be at most 192, one for each"),
        (["--reveal", "arcos"], "got 'arcos'; did you mean 'arccos'?"),
        (["--confidence", -1], "confidence must be 0 or more"),
    ],
)
def test_settings_that_cannot_be(runs, tmp_path, capsys, options, words):
    out = ["--n", 1, "--out", tmp_path / "x.png", *options]
    assert words in mistake(capsys, "sample", runs / "g" / "pipeline", *out)
    assert not list(tmp_path.iterdir())


def test_runs_that_cannot_be(runs, tmp_path, capsys):
    given = [*DATA, *TRAIN, "--out", tmp_path / "x"]
    care = ["--objective.codebook.patience", 5, *TOKENIZER]
    line = mistake(capsys, "train", "maskbit_tokenizer_14bit", *given, *care)
    assert "care for a table of codes, which a MaskBitVQGAN does not have" in line
    known = ["--tokenizer", runs / "t" / "tokenizer", "--objective.known-weight", -1]
    line = mistake(capsys, "train", "emoji_maskbit", *given, *GENERATOR, *known)
    assert "known_weight must be 0 or more, got -1.0" in line
    assert not (tmp_path / "x").exists()

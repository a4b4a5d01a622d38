"""A tokenizer of several scales by the real command: what is logged, shown, reported."""

import json

import pytest

from small_systems import TRAIN
from smalti import modules
from smalti.cli.main import main
from smalti.modules import load_module
from smalti.recipes import RECIPES
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE

SMALL = [
    *"--data.source shapes:64 --model.size 16 16 --model.channels 8 --model.dim 4".split(),
    *"--model.vocab 16 --model.scales 1 1 2 2 4 4 --objective.codebook.warmup 2".split(),
    *"--train.steps 6 --train.log-every 1".split(),
    *TRAIN,
]
SHAPES = "--data.source shapes:64 --train.steps 6".split()
SCALES = ("1x1", "2x2", "4x4")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "t"
    main(["train", "emoji_msvqvae", "--out", str(folder), *SMALL])
    return folder


def test_meters_of_every_scale_are_logged_and_reported(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    trained = [row for row in rows if "loss" in row]
    for scale in SCALES:
        for meter in ("usage", "perplexity"):
            assert [f"{meter}_{scale}" in row for row in trained] == [False] * 2 + [True] * 4
    report = json.loads((run / "report.json").read_text())
    for scale in SCALES:
        assert 0 < report[f"held_out_usage_{scale}"] <= report["held_out_usage"] <= 1
        assert 1 <= report[f"held_out_perplexity_{scale}"] <= 16


def test_the_live_line_has_the_usage_of_every_scale(tmp_path, capsys):
    main(["train", "emoji_msvqvae", "--out", str(tmp_path / "t"), *SMALL])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "6 of 6  loss" in x]
    words = line.replace("(", "").replace(")", "").replace(",", "").split()
    places = [words.index(word) for word in ("psnr", "usage", *SCALES)]
    assert places == list(range(places[0], places[0] + 10, 2))
    assert all(0 < float(words[place + 1]) <= 1 for place in places[1:])


def test_a_run_goes_on_from_a_tokenizer_and_from_nothing_else(run, tmp_path, capsys):
    command = ["train", "emoji_msvqvae", *SMALL, "--init", str(run / "tokenizer")]
    main([*command, "--out", str(tmp_path / "on")])
    model, _ = load_module(tmp_path / "on" / "tokenizer", modules.TOKENIZERS)
    assert isinstance(model, MultiScaleVQVAE) and model.spec.positions == 21
    rows = [json.loads(line) for line in (tmp_path / "on" / "metrics.jsonl").open()]
    assert "usage_1x1" in rows[0], "no warm-up: the codebook knows images"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*"train emoji_vqgan --init".split(), str(run), "--out", str(tmp_path / "other")])
    words = "holds a multiscale_vqvae, which this recipe does not train: it takes VQGANConfig"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            "--model.scales 1 1 2 2",
            "last of scales must be (4, 4), which is size (16, 16) / 4, got",
        ),
        ("--model.scales 2 2 1 1 4 4", "scales must ascend, got (1, 1) behind (2, 2)"),
        ("--model.size 16 24", "last of scales must be (4, 6), which is size (16, 24) / 4, got"),
        ("--objective.codebook.share 2", "share must be in [0, 1), got 2.0"),
    ],
)
def test_a_schedule_that_does_not_fit_is_one_line(tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as stop:
        main(["train", "emoji_msvqvae", "--out", str(tmp_path / "t"), *SMALL, *more.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "care",
    ["warmup 3", "samples 8", "share 0.5", "patience 5", "kmeans"],
)
@pytest.mark.parametrize("recipe", ["emoji_bsq", "emoji_fsq", "emoji_lfq"])
def test_care_that_cannot_be_taken_is_one_line(tmp_path, capsys, recipe, care):
    """Of tokenizers without a table, whose recipes take none."""
    assert not RECIPES[recipe]().objective.codebook.chosen
    asked = [*SHAPES, *f"--objective.codebook.{care}".split()]
    with pytest.raises(SystemExit) as stop:
        main(["train", recipe, *asked, "--out", str(tmp_path / "t")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1
    assert "objective.codebook" in error and "a table" in error
    assert not (tmp_path / "t").exists()


def test_care_of_scales_is_refused_where_there_is_one(tmp_path, capsys):
    asked = [*SHAPES, "--objective.codebook.share", "0.5"]
    with pytest.raises(SystemExit):
        main(["train", "emoji_vqgan", *asked, "--out", str(tmp_path / "t")])
    words = "objective.codebook.share is of several scales, of which a VQGAN has one, got 0.5"
    assert words in capsys.readouterr().err

"""Masked and continuous pipelines by the real commands: what they draw, and one line for every
mistake."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from builders import pipeline, tokenizers
from small_systems import TRAIN
from smalti.cli.main import main
from smalti.config import read_json
from smalti.data.token_cache import TokenCache
from smalti.modules import name_of, save_module
from smalti.tokenizers.kl_vae import KLVAE

pytestmark = pytest.mark.usefixtures("float32")

NAMES = ("mar", "maskgit", "fluid", "fluid-discrete", "fluid-raster", "fluid-raster-continuous")
MASKED = ("mar", "maskgit", "fluid", "fluid-discrete")
CONTINUOUS = ("mar", "fluid", "fluid-raster-continuous")
DISCRETE = ("maskgit", "fluid-discrete", "fluid-raster")
QUICK = ["--head-steps", "2,0"]  # a head with random weights is wild where noise is strongest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pipeline of every name, with random weights; all but fluid-discrete, which is oblong, have
    16 positions."""
    folder = tmp_path_factory.mktemp("masked")
    for name in NAMES:
        pipeline(name).save_pretrained(folder / name)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.effect_noise((16, 16), 60).convert("RGB").save(folder / "picture.png")
    return folder


def run(*arguments) -> None:
    main([str(a) for a in arguments])


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and not output.out
    return line


def quick(name, steps=3) -> list[str]:
    given = ["--steps", str(steps)] if name in MASKED else []
    return given + (QUICK if name in CONTINUOUS else [])


def cases(refused: dict[tuple[str, ...], list[tuple[str, str]]]) -> list[tuple[str, str, str]]:
    return [(n, *case) for names, given in refused.items() for n in names for case in given]


REFUSED = cases(
    {
        ("mar", "maskgit"): [
            ("--steps 17", "one for each position, got 17"),
            ("--steps 0", "steps must be at least 1, got 0"),
            ("--steps -1", "steps must be at least 1, got -1"),
            ("--reveal cosin", "got 'cosin'; did you mean 'cosine'?"),
            ("--reveal 0.5,0.7,0", "the shares of reveal fall from 1 to 0, got '0.5,0.7,0'"),
            ("--steps 2 --reveal 0.8,0.4,0", "reveal has 3 shares, one for each step"),
            ("--refresh 0", "refresh must be at least 1, got 0"),
            ("--smooth True", "smooth is for multi-scale models"),
        ],
        ("mar", "fluid"): [
            ("--confidence 1", "confidence 1.0 is for discrete codes; continuous ones"),
        ],
        ("fluid-discrete",): [
            ("--confidence -1", "confidence must be 0 or more"),
            ("--refresh 2", "refresh 2 is for models that keep features between steps"),
        ],
        ("fluid-raster", "fluid-raster-continuous"): [
            ("--steps 4", "steps 4 is for masked models; this one draws codes in a row"),
            ("--reveal linear", "reveal linear is for masked models"),
            ("--confidence 1", "confidence 1.0 is for masked models"),
            ("--refresh 2", "refresh 2 is for masked models"),
        ],
        ("mar", "fluid-raster-continuous"): [
            ("--head-steps 1001", "1000 of 1000 timesteps cannot be respaced to 1001 steps"),
            ("--head-steps 500,501", "500 of 1000 timesteps cannot be respaced to 501 steps"),
            ("--head-steps 0", "steps of the head must be at least 1"),
            ("--head-steps 3,-1", "no section below 0, got '3,-1'"),
            ("--head-steps ten", "steps of the head must be numbers with commas between"),
            ("--solver euler", "a diffusion head is solved by ancestral, ddim, dpm, got 'euler'"),
            ("--solver dmp", "solver must be one of ancestral, ddim, dpm, euler, midpoint"),
            ("--top-k 3", "top_k 3 is for discrete codes; this model draws continuous ones"),
            ("--top-p 0.5", "top_p 0.5 is for discrete codes"),
        ],
        DISCRETE: [
            ("--solver ddim", "solver ddim is for continuous codes; this model draws discrete"),
            ("--head-steps 10", "head_steps 10 is for continuous codes"),
        ],
        ("mar", "fluid-raster"): [  # of any model: in either loop
            ("--guidance -1", "guidance scale must be 0 or more (1 is off), got -1.0"),
            ("--schedule linear --guidance -2", "guidance scale must be 0 or more"),
            ("--schedule list --scales 2 1 -1", "guidance scales must be 0 or more, got -1.0 at 2"),
            ("--schedule list", "needs at least one, got () with 'list'"),
            ("--scales 1 2", "guidance scales are for the schedule 'list'"),
            ("--rescale -1", "guidance rescale must be 0 or more, got -1.0"),
            ("--momentum 2", "guidance momentum must be between -1 and 1, got 2.0"),
        ],
    }
)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("name", "options", "words"), REFUSED)
def test_settings_that_cannot_be(folders, tmp_path, capsys, name, options, words):
    out = ["--n", 1, "--out", tmp_path / "x.png", *options.split()]
    assert words in mistake(capsys, "sample", folders / name, *out)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("name", "options", "words"), [c for c in REFUSED if c[0] == "mar"])
def test_settings_of_an_edit_that_cannot_be(folders, tmp_path, capsys, name, options, words):
    given = ["--image", folders / "picture.png", "--mask", folders / "mask.png"]
    out = ["--class", 1, "--out", tmp_path / "x.png", *options.split()]
    assert words in mistake(capsys, "edit", folders / name, *given, *out)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fluid-discrete"])
def test_every_command_takes_the_pipeline(folders, tmp_path, capsys, name):
    folder, settings = folders / name, quick(name)
    run("sample", folder, "--classes", 2, "--n", 2, "--out", tmp_path / "s", *settings)
    files = sorted((tmp_path / "s").iterdir())
    run("sample", folder, "--like", files[1], "--out", tmp_path / "again.png")
    first, second, again = (
        np.asarray(Image.open(f), int) for f in (*files, tmp_path / "again.png")
    )
    assert abs(second - again).max() <= 1  # the decoder rounds otherwise in another batch
    assert abs(first - second).max() > 1
    given = ["--image", folders / "picture.png", "--mask", folders / "mask.png", "--keep-pixels"]
    run("edit", folder, *given, "--out", tmp_path / "e.png", *settings)
    before, after = (
        np.asarray(Image.open(f)) for f in (folders / "picture.png", tmp_path / "e.png")
    )
    mask = np.asarray(Image.open(folders / "mask.png")) > 0
    assert np.array_equal(before[~mask], after[~mask]) and (before != after)[mask].any()
    given = ["--image", folders / "picture.png", "--extend", "left=8"]
    run("edit", folder, *given, "--out", tmp_path / "w.png", *settings)
    assert Image.open(tmp_path / "w.png").size == (24, 16)
    capsys.readouterr()
    run("info", folder, "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "pipeline"
    run("encode", "shapes:6", "--tokenizer", folder, "--out", tmp_path / "c.arrow")
    cache = TokenCache(tmp_path / "c.arrow")
    assert len(cache) == 6 and cache.posterior == (name in CONTINUOUS)


def test_steps_up_to_one_for_each_position(folders, tmp_path):
    """And known positions are none of them: an edit has fewer."""
    for steps in (1, 16):
        settings = quick("mar", steps)
        run("sample", folders / "mar", "--n", 1, "--out", tmp_path / "x.png", *settings)
        given = ["--image", folders / "picture.png", "--mask", folders / "mask.png"]
        run("edit", folders / "mar", *given, "--out", tmp_path / "e.png", *settings)


def test_a_stored_setting_that_does_not_fit(folders, tmp_path, capsys):
    copy = shutil.copytree(folders / "mar", tmp_path / "p")
    info = read_json(copy / "pipeline.json")
    info["sampling"]["steps"] = 99
    (copy / "pipeline.json").write_text(json.dumps(info))
    assert "steps must be at most 16" in mistake(capsys, "sample", copy, "--n", 1)


# -- numbers that are none


def broken(folder) -> KLVAE:
    """A tokenizer of finite weights whose encoder gives no numbers."""
    module, config = tokenizers()["kl_vae"]
    tokenizer = module(config)
    with torch.no_grad():
        tokenizer.quant_conv.weight.fill_(3e38)
    save_module(tokenizer, folder)
    return tokenizer


def test_codes_that_are_no_numbers_name_the_picture(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(pictures / "grey.png")
    assert name_of(broken(tmp_path / "t")) == "kl_vae"
    given = ["--tokenizer", tmp_path / "t", "--out", tmp_path / "c.arrow"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("encode", f"folder:{pictures}", *given)
    *_, line = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert "codes of 'grey.png': latents of the tokenizer must be finite numbers" in line
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "t"}


TRAINED = [
    *"--data.source shapes:32 --model.encoder-layers 1 --model.decoder-layers 1".split(),
    *"--model.heads 2 --model.dim 16 --model.buffer 2 --model.head.depth 1".split(),
    *"--model.head.width 16 --train.steps 4 --sampling.steps 2".split(),
    *TRAIN,
]


def test_a_loss_that_is_no_number_names_the_batch(folders, tmp_path, capsys):
    given = ["--tokenizer", folders / "mar", *TRAINED, "--train.optim.lr", "1e30"]
    given += ["--train.optim.clip", "0", "--train.log-every", "1"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("train", "emoji_mar", *given, "--out", tmp_path / "run")
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and "step" in line and "batch" in line
    assert not (tmp_path / "run" / "pipeline").exists()


@pytest.mark.parametrize(
    ("recipe", "name", "options", "words"),
    [
        ("emoji_mar", "mar", "--sampling.steps 17", "steps must be at most 16"),
        ("emoji_mar", "mar", "--sampling.solver euler", "a diffusion head is solved by"),
        (
            "emoji_mar",
            "mar",
            "--sampling.head-steps 1001",
            "can use 960 of 1000 timesteps, got 1001",
        ),
        ("emoji_mar", "mar", "--objective.smoothing 0.1", "smoothing is for discrete codes"),
        ("emoji_mar", "mar", "--objective.least 1.5", "least must be in [0, 1], got 1.5"),
        (
            "emoji_mar",
            "mar",
            "--objective.deviation 0",
            "deviation must be a positive number",
        ),
        ("emoji_mar", "maskgit", "", "continuous"),
        ("emoji_maskgit", "mar", "", "discrete"),
        ("emoji_maskgit", "maskgit", "--sampling.steps 0", "steps must be at least 1, got 0"),
    ],
)
def test_runs_that_cannot_be(folders, tmp_path, capsys, recipe, name, options, words):
    trained = TRAINED if recipe == "emoji_mar" else ["--data.source", "shapes:32", *TRAIN]
    given = ["--tokenizer", folders / name, *trained, *options.split()]
    line = mistake(capsys, "train", recipe, *given, "--out", tmp_path / "run")
    assert words in line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("recipe", "name", "model"),
    [
        ("emoji_mar", "mar", TRAINED),
        (
            "emoji_maskgit",
            "maskgit",
            [
                *"--data.source shapes:32 --model.layers 1 --model.heads 2 --model.dim 16".split(),
                *"--model.ffn-dim 16 --train.steps 4 --sampling.steps 2".split(),
                *TRAIN,
            ],
        ),
    ],
)
def test_small_runs(folders, tmp_path, recipe, name, model):
    run("train", recipe, "--tokenizer", folders / name, *model, "--out", tmp_path / "run")
    pipe = tmp_path / "run" / "pipeline"
    assert read_json(pipe / "pipeline.json")["sampling"]["steps"] == 2
    run("sample", pipe, "--n", 1, "--out", tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size == (16, 16)

"""A KL-VAE by the real commands: trained, measured, encoded, looked at."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import build
from small_systems import TOKENIZER, TRAIN
from smalti import modules
from smalti.cli.main import main
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform, to_float
from smalti.modules import fingerprint, load_module
from smalti.recipes import RECIPES
from smalti.recipes.mar import emoji_klvae
from smalti.runs.encode import encode
from smalti.runs.image_coder import Coder
from smalti.tokenizers.kl_vae import KLVAE, tiny

SMALL = [
    *"--data.source shapes:64 --model.size 16 16 --model.channels 8 --model.latent 3".split(),
    *"--objective.kl-weight 0.1 --train.steps 6 --train.log-every 1".split(),
    *TRAIN,
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "t"
    main(["train", "emoji_klvae", "--out", str(folder), *SMALL])
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    return load_module(run / "tokenizer", modules.TOKENIZERS)[0]


def told(capsys, *arguments):
    capsys.readouterr()
    main([*(str(a) for a in arguments), "--json"])
    return json.loads(capsys.readouterr().out)


@torch.no_grad()
def test_the_scale_is_measured_reported_and_stored(run, tokenizer):
    report = json.loads((run / "report.json").read_text())
    assert report["scale"] == tokenizer.config.scale == 1 / report["latent_std"]
    assert 3 < report["held_out_psnr"] < 60 and report["held_out_kl"] > 0
    source = open_source("shapes:64")
    chosen, transform = split(source, 0.1)[0], Transform(16)
    pixels = np.stack([transform(source[i].image, None) for i in chosen])
    mean, std = tokenizer.moments(to_float(torch.from_numpy(pixels))).chunk(2, -1)
    codes = mean + std * torch.randn(64, *mean.shape, generator=torch.Generator().manual_seed(0))
    assert codes.std().item() == pytest.approx(1, abs=0.01)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert all({"kl", "std", "psnr", "loss"} <= row.keys() for row in rows if "loss" in row)


def test_a_run_that_goes_on_measures_anew_and_is_what_one_run_is(run, tmp_path):
    main(["train", "emoji_klvae", "--out", str(tmp_path / "on"), *SMALL, "--init", str(run)])
    more, _ = load_module(tmp_path / "on" / "tokenizer", modules.TOKENIZERS)
    report = json.loads((tmp_path / "on" / "report.json").read_text())
    assert more.config.scale == report["scale"]
    assert fingerprint(more) != fingerprint(load_module(run / "tokenizer", modules.TOKENIZERS)[0])
    main(["train", "emoji_klvae", "--out", str(tmp_path / "again"), *SMALL])
    again = load_module(tmp_path / "again" / "tokenizer", modules.TOKENIZERS)[0]
    assert fingerprint(again) == fingerprint(
        load_module(run / "tokenizer", modules.TOKENIZERS)[0]
    ), "samples are seeded by the step"


@torch.no_grad()
def test_encode_keeps_distributions_or_means(run, tokenizer, tmp_path, capsys):
    command = ["encode", "shapes:20", "--tokenizer", run / "tokenizer", "--out"]
    spec = tokenizer.spec
    caches = {}
    for name, more in (
        ("default", []),
        ("sample", ["--posterior", "sample", "--half"]),
        ("mode", ["--posterior", "mode"]),
    ):
        report = told(capsys, *command, tmp_path / f"{name}.arrow", *more)
        assert (report["images"], report["views"], report["channels"]) == (20, 2, spec.channels)
        caches[name] = TokenCache(tmp_path / f"{name}.arrow")
        caches[name].require(fingerprint(tokenizer))
    assert [caches[n].posterior for n in caches] == [True, True, False]
    source, transform = open_source("shapes:20"), Transform(16)
    pixels = np.stack([transform(source[i].image, None) for i in range(20)])
    mean, std = tokenizer.moments(to_float(torch.from_numpy(pixels))).chunk(2, -1)
    seeds = np.arange(20)
    for name, atol in (("default", 1e-5), ("sample", 5e-3), ("mode", 1e-5)):
        found = caches[name].codes(np.arange(20))
        torch.testing.assert_close(found, mean, rtol=0, atol=atol)
        drawn = caches[name].codes(np.arange(20), 0, seeds)
        assert ((drawn - mean).abs().mean() > 0.1 * std.mean()) == (name != "mode")
    info = told(capsys, "info", tmp_path / "default.arrow")
    assert (info["vocab"], info["channels"], info["posterior"]) == (0, spec.channels, True)


def test_reconstruct_and_info(run, tmp_path, capsys):
    out = tmp_path / "r.png"
    report = told(capsys, "reconstruct", run / "tokenizer", "shapes:5", "--out", out)
    assert report.keys() == {"file", "psnr", "ssim", "l1", "kl", "std", "images"}
    assert report["images"] == 5
    info = told(capsys, "info", run / "tokenizer")
    assert (info["kind"], info["type"]) == ("tokenizer", "kl_vae")
    assert info["config"]["scale"] == json.loads((run / "report.json").read_text())["scale"]


def test_images_whose_codes_are_no_numbers_are_named(tmp_path):
    model = build(KLVAE, tiny())
    model.quant_conv.bias.data[0] = float("nan")
    out = tmp_path / "codes.arrow"
    with pytest.raises(ValueError, match="codes of '0': latents of the tokenizer must be finite"):
        encode(Coder(open_source("shapes:4"), model, Transform(16)), out)
    assert not out.exists()


def failed(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    *_, line = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def test_mistakes_are_one_line(run, tmp_path, capsys):
    train = ["train", "emoji_klvae", "--out", tmp_path / "x", *SMALL]
    for more, words in (
        (("--model.scale", "0"), "scale must be a positive number, got 0.0"),
        (("--model.group", "3"), "size must be multiples of 12 pixels, which make one code"),
        (("--objective.kl-weight", "-1"), "kl_weight must be 0 or more, got -1.0"),
    ):
        assert words in failed(capsys, *train, *more)
    assert not (tmp_path / "x").exists()
    main([str(a) for a in ("train", "emoji_vqgan", "--out", tmp_path / "v", *TOKENIZER)])
    command = ["encode", "shapes:4", "--tokenizer", tmp_path / "v" / "tokenizer", "--out"]
    for more in (("--posterior", "mode"), ("--half",)):
        line = failed(capsys, *command, tmp_path / "codes.arrow", *more)
        assert "for tokenizers of continuous codes, got one of codes out of 16" in line
    line = failed(capsys, *train, "--init", tmp_path / "v")
    assert "holds a vqgan, which this recipe does not train: it takes KLVAEConfig" in line


def test_a_step_that_is_no_number_names_its_batch(tmp_path, capsys):
    huge = ["--train.optim.lr", "1e30", "--train.optim.warmup", "0"]
    line = failed(capsys, "train", "emoji_klvae", "--out", tmp_path / "x", *SMALL, *huge)
    assert "is no number" in line and "batch of " in line


def test_recipes():
    assert {"emoji_klvae", "kl16"} <= RECIPES.keys()
    model, published = emoji_klvae().model, RECIPES["kl16"]()
    assert model.spec.grids == ((8, 8),) and model.size == (32, 32)
    assert replace(published.model, scale=1.0) == type(model)(), "upstream's are the defaults"
    assert published.objective.gan_adaptive and published.objective.kl_weight == 1e-6

"""TiTok by the real commands: trained in one stage and in two, drawn from, measured; mistakes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from builders import build
from small_systems import TRAIN, mistake
from smalti.cli.main import main
from smalti.config import read_json
from smalti.modules import TOKENIZERS, load_module, save_module
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN

DATA = "--data.source shapes:64 --train.steps 4".split()
MODEL = [
    *"--model.size 16 16 --model.patch 4 --model.tokens 6 --model.dim 4".split(),
    *"--model.encoder.layers 1 --model.encoder.heads 2 --model.encoder.dim 16".split(),
    *"--model.decoder.layers 1 --model.decoder.heads 2 --model.decoder.dim 16".split(),
]
CODES = ["--model.vocab", 16, "--objective.codebook.warmup", 2]
GENERATOR = (
    "--model.layers 2 --model.heads 2 --model.dim 16 --model.ffn-dim 32 --sampling.steps 6".split()
)

pytestmark = pytest.mark.usefixtures("float32")


def run(*arguments) -> None:
    main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer `t` and a generator `g` of its codes; both stages `first` and `second`."""
    folder = tmp_path_factory.mktemp("titok")
    run("train", "emoji_titok", "--out", folder / "t", *DATA, *TRAIN, *MODEL, *CODES)
    given = ["--tokenizer", folder / "t" / "tokenizer", *DATA, *TRAIN, *GENERATOR]
    run("train", "emoji_titok_generator", "--out", folder / "g", *given)
    save_module(build(MaskGITVQGAN, maskgit_vqgan.tiny()), folder / "proxy")
    run("train", "titok_l32_first", "--tokenizer", folder / "proxy", "--out", folder / "first",
        *DATA, *TRAIN, *MODEL, "--model.vocab", 16)  # fmt: skip
    run("train", "titok_l32_tokenizer", "--init", folder / "first" / "tokenizer", "--out",
        folder / "second", *DATA, *TRAIN, "--objective.perceptual", "none",
        "--objective.gan-weight", 0)  # fmt: skip
    return folder


def test_what_is_trained_is_drawn_and_measured(runs, tmp_path):
    tokenizer, _ = load_module(runs / "t" / "tokenizer", TOKENIZERS)
    assert tokenizer.spec.grids == ((1, 6),) and tokenizer.size == (16, 16)
    pipeline = runs / "g" / "pipeline"
    assert read_json(runs / "g" / "report.json")["held_out_bits_per_token_bound"] < 16
    run("sample", pipeline, "--class", 1, "--n", 2, "--steps", 6, "--out", tmp_path / "s.png")
    assert np.asarray(Image.open(tmp_path / "s.png")).std() > 0


def test_two_stages(runs):
    proxy, first, second = (
        load_module(runs / name, TOKENIZERS)[0].state_dict()
        for name in ("proxy", "first/tokenizer", "second/tokenizer")
    )
    log = [json.loads(line) for line in (runs / "first" / "metrics.jsonl").read_text().splitlines()]
    assert "proxy" in log[-2] and "pixel" not in log[-2]
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert all(name in same for name in first if name.startswith(("encoder.", "quantize.")))
    moved = {"decoder.positions", "decoder.predict.2.weight", "pixel_decoder.conv_in.weight"}
    assert not moved & same, "the second stage trains the decoder"
    decoder = {n.partition(".")[2]: t for n, t in first.items() if n.startswith("pixel_decoder.")}
    assert all(torch.equal(t, proxy[f"decoder.{n}"]) for n, t in decoder.items())
    assert torch.equal(first["proxy_codes.weight"], proxy["quantize.embedding.weight"])


def test_the_vae_is_trained(tmp_path):
    run("train", "emoji_titok_vae", "--out", tmp_path, *DATA, *TRAIN, *MODEL)
    tokenizer, _ = load_module(tmp_path / "tokenizer", TOKENIZERS)
    assert tokenizer.spec.channels == 4 and tokenizer.config.scale != 1


def test_what_cannot_be(runs, tmp_path, capsys):
    picture, pipeline = tmp_path / "p.png", runs / "g" / "pipeline"
    Image.new("RGB", (16, 16)).save(picture)
    why = "an edit needs codes with places in the picture, which the 6 tokens of a TiTok do not"
    for task in (["--mask", picture], ["--extend", "left=4"]):
        line = mistake(capsys, "edit", pipeline, "--image", picture, *task, "--out",
                       tmp_path / "x.png")  # fmt: skip
        assert why in line
    line = mistake(capsys, "sample", pipeline, "--size", "32", "--out", tmp_path / "x.png")
    assert "16x16" in line
    given = [*DATA, *TRAIN, *MODEL, "--out", tmp_path / "x"]
    line = mistake(capsys, "train", "titok_l32_first", *given)
    assert "a tokenizer that is made around another one needs --tokenizer DIR" in line
    line = mistake(capsys, "train", "titok_l32_first", *given, "--tokenizer", runs / "t")
    assert "proxy codes are those of a MaskGITVQGAN" in line
    line = mistake(capsys, "train", "titok_l32_tokenizer", *given, "--model.decoder-patch", 16)
    assert "the second stage goes on from a tokenizer: give --init DIR" in line
    assert not (tmp_path / "x").exists()

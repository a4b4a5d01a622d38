"""MaskGIT-VQGAN by the real commands: trained from scratch, used, and trained on from a file."""

import json
from dataclasses import replace

import pytest

from builders import build
from official import official, write
from small_systems import TRAIN, write_pictures
from smalti.cli.main import main
from smalti.modules import TOKENIZERS, load_module
from smalti.tokenizers import maskgit_vqgan
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig

TRAINING = [
    *"--data.source shapes:64 --objective.perceptual none --objective.gan-weight 0".split(),
    *"--train.steps 6".split(),
    *TRAIN,
]
SMALL = [
    *"--model.size 16 16 --model.channels 8 --model.multipliers 1 2 --model.blocks 1".split(),
    *"--model.vocab 16 --model.dim 4".split(),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "maskgit"
    main(["train", "maskgit_vqgan", "--out", str(out), *TRAINING, *SMALL])
    return out


def test_training_from_scratch(trained, capsys):
    tokenizer, _ = load_module(trained / "tokenizer", TOKENIZERS)
    assert tokenizer.config == MaskGITVQGANConfig((16, 16), 8, (1, 2), 1, 16, 4)
    report = json.loads((trained / "report.json").read_text())
    assert report["steps"] == 6 and report["held_out_psnr"] > -5
    log = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "psnr", "codebook", "commitment", "usage"} <= log[-2].keys()
    recipe = json.loads((trained / "recipe.json").read_text())
    assert recipe["objective"]["quantizer_weight"] == 0.25
    assert recipe["objective"]["commitment"] == 1.0
    main(["info", str(trained / "tokenizer")])
    assert "maskgit_vqgan" in capsys.readouterr().out


def test_pictures_come_back(trained, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", 4)
    main(
        [
            "reconstruct",
            str(trained / "tokenizer"),
            f"folder:{pictures}",
            "--out",
            str(tmp_path / "r.png"),
            "--json",
        ]
    )
    assert json.loads(capsys.readouterr().out)["psnr"] > -5


def test_training_goes_on_from_a_released_file(tmp_path):
    config = replace(maskgit_vqgan.tiny(), size=(16, 16))
    model = build(MaskGITVQGAN, config)
    file = write(official(model), tmp_path / "vq.bin")
    folder = tmp_path / "t"
    main(
        ["convert", "maskgit-vqgan", "--tokenizer", str(file), "--size", "16", "--out", str(folder)]
    )
    out = tmp_path / "run"
    main(["train", "maskgit_vqgan", "--out", str(out), "--init", str(folder), *TRAINING])
    tokenizer, _ = load_module(out / "tokenizer", TOKENIZERS)
    assert tokenizer.config == config
    before, after = model.state_dict(), tokenizer.state_dict()
    moved = {name: (after[name] - before[name]).abs().max() for name in before}
    assert all(0 < change < 0.01 for change in moved.values()), "a little, from where it was"

"""DC-AE by the real commands: trained in its stages, and pictures of a generator on its codes."""

import json

import pytest
import torch

from small_systems import TRAIN
from smalti import modules
from smalti.cli.main import main
from smalti.modules import load_module

STEPS = ["--data.source", "shapes:32", "--train.steps", "2", "--train.optim.warmup", "1", *TRAIN]
SMALL = "--model.size 16 16 --model.latent 4 --model.head-dim 8 --objective.perceptual none".split()
for half in ("encoder", "decoder"):
    SMALL += f"--model.{half}.widths 4 8 8 --model.{half}.blocks 0 1 1".split()
    SMALL += f"--model.{half}.attention-at 4".split()
NEXT = ["--objective.perceptual", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "t"
    main(["train", "emoji_dcae", "--out", str(folder), *STEPS, *SMALL])
    return folder


def opened(folder):
    return load_module(folder / "tokenizer", modules.TOKENIZERS)[0]


@pytest.mark.slow
def test_its_stages_and_a_picture(run, tmp_path):
    first, report = opened(run), json.loads((run / "report.json").read_text())
    assert report["scale"] == first.config.scale == 1 / report["latent_std"]
    begin = ["--init", str(run), "--pixels", "32"]
    main(["train", "dcae_middle", "--out", str(tmp_path / "m"), *begin, *STEPS, *NEXT])
    middle = opened(tmp_path / "m")
    assert middle.size == (32, 32) and middle.spec.grids == ((8, 8),)
    begin = ["--init", str(tmp_path / "m"), "--pixels", "16", "--objective.gan-layers", "1"]
    main(["train", "dcae_head", "--out", str(tmp_path / "h"), *begin, *STEPS, *NEXT])
    head, images = opened(tmp_path / "h"), torch.rand(1, 3, 16, 16) * 2 - 1
    assert head.size == (16, 16)
    latents = [tokenizer.latent(images) for tokenizer in (first, middle, head)]
    assert torch.equal(latents[1], latents[2]) and not torch.equal(latents[0], latents[1])
    generator = ["train", "emoji_dcae_mar", "--tokenizer", str(tmp_path / "h")]
    small = "--model.encoder-layers 1 --model.decoder-layers 1 --model.heads 2 --model.dim 16"
    small += " --model.head.depth 1 --model.head.width 16 --sampling.head-steps 2"
    main([*generator, "--out", str(tmp_path / "g"), *STEPS, *small.split()])
    pipeline, out = str(tmp_path / "g" / "pipeline"), tmp_path / "x.png"
    main(["sample", pipeline, "--n", "1", "--steps", "2", "--out", str(out)])
    assert out.is_file()


def test_later_stages_are_of_a_tokenizer_that_is_trained(tmp_path, capsys):
    small = [*SMALL, "--pixels", "16", "--model.decoder.batch-norm-at", "2"]
    small += ["--model.decoder.activations", "silu", "silu", "silu"]
    with pytest.raises(SystemExit) as error:
        main(["train", "dcae_middle", "--out", str(tmp_path / "x"), *STEPS, *small])
    assert error.value.code == 2 and not (tmp_path / "x").exists()
    assert "learns middle is of a tokenizer that is trained" in capsys.readouterr().err

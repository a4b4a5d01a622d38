"""UniTok by the command: trained with captions, drawn from, refused without them."""

import json

import pytest
from PIL import Image

from small_systems import GENERATOR, TRAIN, write_pictures
from smalti.cli.main import main

SIZES = (
    "--model.size 16 16 --model.widths 8 --model.blocks 1 --model.layers 1 --model.heads 2 "
    "--model.width 16 --model.vocab 16 --model.dim 8 --model.depth 2 --model.features 8 "
    "--objective.text.dim 16 --objective.text.layers 1 --objective.text.heads 2 "
    "--objective.codebook.warmup 2 --train.steps 4"
).split()
TOKENIZER = ["train", "emoji_unitok32", *SIZES, *TRAIN]


def test_from_pictures_and_captions_to_pictures(tmp_path):
    tokenizer, run = tmp_path / "t", tmp_path / "g"
    main([*TOKENIZER, "--data.source", "shapes:64", "--out", str(tokenizer)])
    lines = [json.loads(line) for line in (tokenizer / "metrics.jsonl").read_text().splitlines()]
    assert any("contrastive" in line and "retrieval" in line for line in lines)
    words = ["--tokenizer", str(tokenizer / "tokenizer"), "--train.steps", "4"]
    main(["train", "emoji_unitok_ar", *GENERATOR, *words, "--out", str(run)])
    config = json.loads((run / "pipeline" / "model" / "config.json").read_text())["config"]
    assert (config["depth"], config["vocab"], config["grid"]) == (2, 16, [2, 2])
    out = tmp_path / "samples.png"
    main(["sample", str(run / "pipeline"), "--n", "2", "--guidance", "2", "--out", str(out)])
    assert Image.open(out).size[0] >= 32


def test_pictures_without_captions_are_refused(tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pictures", 12)
    with pytest.raises(SystemExit) as end:
        main([*TOKENIZER, "--data.source", f"folder:{pictures}", "--out", str(tmp_path / "t")])
    assert end.value.code == 2
    assert "have no captions" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "t" / "tokenizer").exists()


def test_a_tokenizer_without_features_is_refused(tmp_path, capsys):
    words = ["--data.source", "shapes:64", "--model.features", "0"]
    with pytest.raises(SystemExit) as end:
        main([*TOKENIZER, *words, "--out", str(tmp_path / "t")])
    assert end.value.code == 2
    assert "model.features" in capsys.readouterr().err.strip().splitlines()[-1]

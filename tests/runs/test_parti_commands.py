"""Parti and ViT-VQGAN by the real commands: trained, drawn from a text, refused a class."""

import pytest

from small_systems import TRAIN
from smalti.cli.main import main
from smalti.config import read_json

STEPS = ["--data.source", "shapes:32", "--train.steps", "3", "--train.optim.warmup", "1", *TRAIN]
TOKENIZER = "--model.size 16 16 --model.layers 1 --model.decoder-layers 1 --model.heads 2".split()
TOKENIZER += "--model.decoder-heads 2 --model.width 16 --model.decoder-width 16".split()
TOKENIZER += "--model.vocab 16 --model.dim 4 --objective.codebook.warmup 1".split()
MODEL = "--model.encoder-layers 1 --model.layers 1 --model.heads 2 --model.dim 16".split()
MODEL += "--model.ffn-dim 32 --text.length 16".split()
TEXTS = {
    "emoji_parti": "--text.dim 16 --text.heads 2".split(),  # words as bytes
    "parti_350m": "--text.vocab 262".split(),  # ids of pieces of words
}


def test_names_become_pictures(tmp_path, capsys):
    tokenizer = str(tmp_path / "t")
    main(["train", "emoji_vit_vqgan", "--out", tokenizer, *STEPS, *TOKENIZER])
    for recipe, text in TEXTS.items():
        run, out = str(tmp_path / recipe), tmp_path / f"{recipe}.png"
        main(["train", recipe, "--tokenizer", tokenizer, "--out", run, *STEPS, *MODEL, *text])
        sample = ["sample", f"{run}/pipeline", "--n", "1", "--out", str(out)]
        main([*sample, "--text", "a red star", "--guidance", "2"])
        assert out.is_file()
    config = read_json(tmp_path / "parti_350m" / "pipeline" / "model" / "config.json")["config"]
    assert (config["text_dim"], config["text_vocab"]) == (1, 262)
    with pytest.raises(SystemExit) as error:
        main([*sample, "--classes", "1"])
    assert error.value.code == 2 and "text" in capsys.readouterr().err

"""DALL-E by the real commands: a dVAE, a model of texts as ids, pictures of a text."""

import json

import pytest
from PIL import Image

from small_systems import TRAIN, mistake
from smalti.cli.main import main
from smalti.config import read_json

pytestmark = pytest.mark.usefixtures("float32")
TOKENIZER = [
    *"--data.source shapes:32 --train.steps 2 --model.size 16 16 --model.channels 8".split(),
    *"--model.multipliers 1 2 --model.dim 6 --model.vocab 16".split(),
    *TRAIN,
]
MODEL = [
    *"--data.source shapes:32 --train.steps 2 --model.layers 2 --model.heads 2".split(),
    *"--model.dim 16 --text.length 40 --text.vocab 262".split(),
    *TRAIN,
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained dVAE `t` and a DALL-E `g`."""
    folder = tmp_path_factory.mktemp("dalle")
    main(["train", "emoji_dvae", "--out", str(folder / "t"), *TOKENIZER])
    given = ["--tokenizer", str(folder / "t" / "tokenizer"), *MODEL]
    main(["train", "emoji_dalle", "--out", str(folder / "g"), *given])
    return folder


def test_what_was_trained(work):
    log = [json.loads(line) for line in (work / "t" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in log if "nats" in line]
    assert {"kl", "psnr", "usage", "temperature"} <= steps[-1].keys()
    config = read_json(work / "g" / "pipeline" / "model" / "config.json")["config"]
    assert (config["text_length"], config["text_vocab"], config["grid"]) == (40, 262, [8, 8])
    text = read_json(work / "g" / "pipeline" / "text" / "config.json")
    assert text["type"] == "word_ids" and text["config"]["vocab"] == 262
    report = read_json(work / "g" / "report.json")
    assert 0 < report["held_out_bits_per_token"] < 6


def test_a_text_is_drawn_and_edited(work, tmp_path, capsys):
    pipe, out = str(work / "g" / "pipeline"), tmp_path / "drawn"
    main(["sample", pipe, "--text", "a small red heart", "--n", "2", "--out", str(out)])
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2 and Image.open(pictures[0]).size == (16, 16)
    words = ["edit", pipe, "--image", str(pictures[0]), "--text", "a star"]
    main([*words, "--extend", "right=8", "--out", str(tmp_path / "edited.png")])
    assert (tmp_path / "edited.png").is_file()
    line = mistake(capsys, "sample", pipe, "--classes", "0", "--out", tmp_path / "no.png")
    assert "texts" in line or "text" in line


def test_a_folder_without_a_text_tokenizer_is_refused(work, tmp_path, capsys):
    words = ["--tokenizer", work / "t" / "tokenizer", "--out", tmp_path / "x", *MODEL]
    line = mistake(capsys, "train", "emoji_dalle", *words, "--text.words", tmp_path / "nowhere")
    assert "nowhere holds no text tokenizer" in line and not (tmp_path / "x").exists()

"""What an earlier smalti wrote (commit 2cb090d, in `fixtures/before`) is read as it was: a
pipeline, a run that was cut off, a token cache, a report, a picture."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from smalti import load
from smalti.cli.main import main
from smalti.config import read_json, renamed, written
from smalti.data.token_cache import TokenCache
from smalti.pipeline.sampling import Sampling

BEFORE = Path(__file__).parent / "fixtures" / "before"
RUN = [
    *"train emoji_llamagen --tokenizer t/tokenizer --codes codes.arrow --out g".split(),
    *"--model.layers 1 --model.heads 2 --model.dim 16 --model.multiple-of 16".split(),
    *"--train.steps 4 --train.batch 4 --train.eval-every 0 --train.preview-every 0".split(),
    *"--train.save-every 2 --train.precision fp32 --train.device cpu".split(),
    *"--train.optim.warmup 100".split(),
]
"""The command that was cut off after two of its four steps."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of all, laid out as it was, to work in."""
    shutil.copytree(BEFORE / "run", tmp_path / "g")
    shutil.copytree(BEFORE / "pipeline" / "tokenizer", tmp_path / "t" / "tokenizer")
    shutil.copy(BEFORE / "codes.arrow", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("float32")
def test_a_pipeline_draws_the_same_picture():
    pipe, info = (
        load(BEFORE / "pipeline", device="cpu"),
        read_json(BEFORE / "pipeline/pipeline.json"),
    )
    later = {"guidance_pictures": None, "parallel": "off", "window": 0}  # came after it
    later |= {"prune": (), "prune_layers": 0.5, "final_temperature": None}
    assert written(pipe.sampling) == later | {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in renamed(Sampling, info["sampling"]).items()
    }
    with Image.open(BEFORE / "sample.png") as sheet:
        tags = json.loads(sheet.text["smalti"])["images"]
        then = np.asarray(sheet.convert("RGB")).astype(int)
    images = pipe(n=3, seed=5)
    for tag, image in zip(tags, images, strict=True):
        mine, tag = image.info["smalti"], renamed(Sampling, tag)
        assert {name: mine[name] for name in tag} == json.loads(json.dumps(tag))
    pixels = np.asarray(images[0]).astype(int)
    tile = then[2 : 2 + 2 * len(pixels) : 2, 2 : 2 + 2 * len(pixels) : 2]  # zoomed twice
    assert np.abs(tile - pixels).max() <= 1, "up to the rounding of another processor"


def test_a_token_cache_is_read():
    cache = TokenCache(BEFORE / "codes.arrow")
    assert (len(cache), cache.views, cache.spec.positions, cache.spec.vocab) == (24, 2, 16, 32)
    assert cache.codes(range(24)).max() < 32 and len(cache.indices("held_out")) == 2


def test_a_report_is_compared(capsys):
    main(["eval", "compare", str(BEFORE / "report.json"), str(BEFORE / "report.json"), "--json"])
    assert "bits_per_token" in capsys.readouterr().out


def test_a_run_goes_on_to_the_weights_that_it_had(folder, capsys):
    main(RUN)
    assert "step 4 of 4" in capsys.readouterr().err
    now = load_file(folder / "g" / "pipeline" / "model" / "model.safetensors")
    then = load_file(BEFORE / "pipeline" / "model" / "model.safetensors")
    assert now.keys() == then.keys()
    for name, weight in then.items():
        torch.testing.assert_close(now[name], weight, rtol=0, atol=1e-6, msg=name)
    then, now = (
        read_json(p / "config.json")
        for p in (BEFORE / "pipeline/model", folder / "g/pipeline/model")
    )
    assert now["config"] | then["config"] == now["config"]  # there may be new fields

"""From captions to pictures by commands, with either encoder; one line for every mistake."""

import json

import pytest
import torch
from PIL import Image

import smalti
from small_systems import GENERATOR, TOKENIZER, write_pictures
from smalti.cli.main import main
from smalti.data.drawn_shapes import Shapes
from smalti.data.token_cache import TokenCache
from tiny_t5 import write_t5

pytestmark = pytest.mark.usefixtures("float32")
BYTES = [
    *GENERATOR,
    *"--text.layers 1 --text.heads 2 --text.dim 16 --text.length 12".split(),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained tokenizer `t`, and a generator `g` that read captions of shapes as bytes."""
    folder = tmp_path_factory.mktemp("work")
    main(["train", "shapes_vqgan", "--out", str(folder / "t"), *TOKENIZER])
    given = ["--tokenizer", str(folder / "t" / "tokenizer"), *BYTES]
    main(["train", "shapes_t2i", "--out", str(folder / "g"), *given])
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A T5 for the captions of shapes."""
    captions = [Shapes(40).caption(i) for i in range(40)]
    return write_t5(tmp_path_factory.mktemp("t5"), captions)


def told(capsys, *arguments) -> dict:
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def test_a_run_with_bytes_leaves_a_pipeline_that_reads(work, tmp_path, capsys):
    report = json.loads((work / "g" / "report.json").read_text())
    shares = {k: report[f"matching_{k}"] for k in ("colour", "shape", "size", "position", "all")}
    assert all(0 <= share <= 1 for share in shares.values())
    assert report["matching_images"] == 6 and 0 < report["held_out_bits_per_token"] < 6
    with Image.open(work / "g" / "previews" / "step-00000006.png") as image:
        assert image.width == 6 * 34 + 2 and image.height > 34 + 2  # one row, named, the 6 held out
    info = told(capsys, "info", work / "g" / "pipeline")
    assert info["text"]["kind"] == "text encoder" and info["text"]["type"] == "bytes"
    pipe = smalti.load(work / "g" / "pipeline", device="cpu")
    assert pipe.model.config.text_length == 12 and pipe.model.config.classes == 0
    command = ["sample", work / "g" / "pipeline", "--out", tmp_path / "a.png"]
    tags = told(capsys, *command, "--text", "a small red heart in the centre")["images"]
    assert tags[0]["text"] == "a small red heart in the centre"


def test_the_encoder_learns_too(work):
    from safetensors.torch import load_file

    trained = smalti.load(work / "g" / "pipeline", device="cpu", dtype=torch.float32).text
    torch.manual_seed(0)
    fresh = type(trained)(trained.config).state_dict()
    moved = trained.state_dict()["norm.weight"] - fresh["norm.weight"]
    assert moved.abs().max() > 1e-4
    stored = load_file(work / "g" / "pipeline" / "text" / "model.safetensors")
    assert stored.keys() == fresh.keys()


@pytest.mark.slow
def test_encode_keeps_features_that_a_run_with_t5_learns_from(work, t5, tmp_path, capsys):
    tokenizer, codes = work / "t" / "tokenizer", tmp_path / "codes.arrow"
    given = ["--tokenizer", tokenizer, "--out", codes, "--no-flip"]
    report = told(capsys, "encode", "shapes:64", *given, "--text", t5)
    assert report["images"] == 64
    cache = TokenCache(codes)
    assert cache.encoder and cache.encoder["config"]["model"] == t5
    features, mask = cache.text(range(64))
    assert features.shape == (64, 120, 16) and mask.any(1).all() and features[mask].std() > 0.1
    assert told(capsys, "info", codes)["text"]["type"] == "t5"
    given = ["--tokenizer", tokenizer, "--text.model", t5, "--text.dim", "16", *GENERATOR]
    command = ["train", "llamagen_t2i_stage1", *given, "--train.eval-every", "0"]
    main([str(a) for a in (*command, "--codes", codes, "--out", tmp_path / "g")])
    pipe = smalti.load(tmp_path / "g" / "pipeline", device="cpu")
    assert pipe.text.config.model == t5 and list(pipe.text.parameters()) == []
    pipe(text="a red heart", guidance=2.0)
    # without a cache the run makes its own, with the same features
    main([str(a) for a in (*command, "--out", tmp_path / "h")])
    own, mask_of_own = TokenCache(tmp_path / "h" / "codes.arrow").text(range(64))
    assert torch.equal(own, features) and torch.equal(mask_of_own, mask)
    line = mistake(capsys, *command, "--codes", codes, "--out", tmp_path / "i", "--text.clean")
    assert "but the recipe's text encoder is" in line and "encode the images again" in line
    bare = tmp_path / "bare.arrow"
    main([str(a) for a in ("encode", "shapes:64", "--tokenizer", tokenizer, "--out", bare)])
    line = mistake(capsys, *command, "--codes", bare, "--out", tmp_path / "i")
    assert "holds caption features of none" in line


def test_images_without_captions_are_refused(work, t5, tmp_path, capsys):
    source = f"folder:{write_pictures(tmp_path / 'flat', 12)}"
    tokenizer = ["--tokenizer", work / "t" / "tokenizer"]
    line = mistake(
        capsys, "encode", source, *tokenizer, "--text", t5, "--out", tmp_path / "codes.arrow"
    )
    assert "have no captions" in line and not (tmp_path / "codes.arrow").exists()
    run = ["train", "shapes_t2i", *tokenizer, *BYTES, "--data.source", source]
    assert "have no captions" in mistake(capsys, *run, "--out", tmp_path / "g")
    assert not (tmp_path / "g").exists()
    codes = tmp_path / "codes.arrow"
    main([str(a) for a in ("encode", source, *tokenizer, "--out", codes)])
    line = mistake(capsys, *run, "--codes", codes, "--out", tmp_path / "g")
    assert "codes.arrow: the images of" in line and "have no captions" in line


def test_a_text_encoder_that_is_none(work, tmp_path, capsys):
    given = ["--tokenizer", work / "t" / "tokenizer", "--out", tmp_path / "codes.arrow"]
    (tmp_path / "empty").mkdir()
    line = mistake(capsys, "encode", "shapes:4", *given, "--text", tmp_path / "empty")
    assert "empty is no T5 that can be loaded" in line or "smalti[text]" in line

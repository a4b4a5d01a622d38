"""Maps as a condition by the real commands: learned from a folder, drawn, edited; bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from builders import build, pipeline
from small_systems import TRAIN, mistake, said
from smalti.modules import save_module
from smalti.recipes.base import MapRecipe
from smalti.runs.finetune import open_pipeline
from smalti.tokenizers.vqgan import VQGAN, tiny

SHAPE = "--model.layers 1 --model.heads 2 --model.dim 16 --model.unmasked 9 --train.steps 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten pictures of 20 x 18 pixels with depths and segmentations of the same names."""
    root, rng = tmp_path_factory.mktemp("maps") / "pictures", np.random.default_rng(0)
    for kind in ("", "depth", "segmentation"):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for i in range(10):
            colours = rng.integers(0, 256, (18, 20, 3), np.uint8)
            grey = (colours[..., 0] % 4) if kind == "segmentation" else colours[..., 0]
            Image.fromarray(grey if kind else colours).save(root / kind / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def tokenizers(folder) -> Path:
    root = folder.parent
    save_module(build(VQGAN, tiny()), root / "pictures-tokenizer")
    save_module(build(VQGAN, replace(tiny(), map="depth", vocab=9)), root / "depth-tokenizer")
    return root


@pytest.fixture(scope="module")
def drawn(folder, tokenizers) -> Path:
    """A pipeline that learned to draw from depths for two steps."""
    from smalti.cli.main import main

    words = f"train emoji_taming_edges --data.source folder:{folder} {SHAPE}".split()
    words += ["--tokenizer", str(tokenizers / "pictures-tokenizer")]
    words += ["--map", str(tokenizers / "depth-tokenizer"), *TRAIN]
    main([*words, "--out", str(folder.parent / "run")])
    return folder.parent / "run" / "pipeline"


def test_a_picture_is_drawn_from_a_depth_and_drawn_again(drawn, folder, tmp_path, capsys):
    depth = folder / "depth" / "3.png"
    said(
        capsys, "sample", drawn, "--map", depth, folder / "depth" / "4.png", "--out", tmp_path / "a"
    )
    first, second = (Image.open(tmp_path / "a" / f"00000{i}.png") for i in range(2))
    pipe = smalti.load(drawn, device="cpu")
    assert pipe.map is not None and pipe.map.map == "depth" and pipe.classes == []
    again = pipe(map=[Image.open(depth)], n=1)[0]
    assert np.array_equal(np.asarray(again), np.asarray(first))
    assert again.info["smalti"]["map"] != pipe.asked(map=folder / "depth" / "4.png")[0]["map"]
    said(capsys, "sample", drawn, "--like", tmp_path / "a" / "000001.png", "--out", tmp_path / "b")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b" / "000001.png")), np.asarray(second))


def test_a_pipeline_that_is_packed_again_reads_its_maps(drawn, folder, tmp_path, capsys):
    said(capsys, "repack", drawn, "--tokenizer", drawn / "tokenizer", "--out", tmp_path / "again")
    words = ("--map", folder / "depth" / "3.png", "--out")
    for name, pipe in (("old", drawn), ("new", tmp_path / "again")):
        said(capsys, "sample", pipe, *words, tmp_path / f"{name}.png")
    old, new = (Image.open(tmp_path / f"{name}.png") for name in ("old", "new"))
    assert np.array_equal(np.asarray(old), np.asarray(new))


def test_larger_pictures_are_drawn_by_windows(drawn, folder, tmp_path, capsys):
    words = ("sample", drawn, "--map", folder / "depth" / "3.png", "--out", tmp_path / "large")
    said(capsys, *words, "--size", "20x24")
    image = Image.open(tmp_path / "large" / "000000.png")
    assert image.size == (24, 20)
    said(capsys, *words[:-2], "--size", "20x24", "--npz", tmp_path / "a.npz", "--count", 1)
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"][0], np.asarray(image))
    pipe, size = smalti.load(drawn, "cpu"), (20, 24)
    codes = pipe.codes([folder / "depth" / "3.png"], size=size)
    assert np.array_equal(pipe.decode(codes, pipe.spec_of(size))[0].permute(1, 2, 0), image)
    told = mistake(capsys, *words, "--size", "8x8")
    assert "by windows of 4x4 codes, and a picture must be no smaller, got 2x2" in told


def test_a_part_is_painted_anew_with_and_without_a_map(drawn, folder, tmp_path, capsys):
    pixels = np.zeros((18, 20), np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    image = folder / "3.png"
    words = ("edit", drawn, "--image", image, "--mask", tmp_path / "mask.png")
    for name, more in (("with", ("--map", folder / "depth" / "3.png")), ("without", ())):
        said(capsys, *words, *more, "--out", tmp_path / f"{name}.png")
    Image.new("L", (18, 18)).save(tmp_path / "other.png")
    told = mistake(capsys, *words, "--map", tmp_path / "other.png", "--out", tmp_path / "no.png")
    assert "the map has 18 x 18 pixels, the image 20 x 18" in told
    more = ("--map", folder / "depth" / "3.png", "--extend", "left=4", "--out", tmp_path / "no.png")
    assert "extend needs no map" in mistake(capsys, "edit", drawn, "--image", image, *more)


def test_what_a_pipeline_of_maps_is_not_asked(drawn, tmp_path, capsys):
    out = ("--out", tmp_path / "no.png")
    told = mistake(capsys, "sample", drawn, *out)
    assert "this pipeline draws from maps: give it one, a depth" in told
    assert "not text, got ['a cat']" in mistake(capsys, "sample", drawn, "--text", "a cat", *out)
    classes = tmp_path / "classes"
    pipeline("taming").save_pretrained(classes)
    told = mistake(capsys, "sample", classes, "--text", "a cat", *out)
    assert "this pipeline draws classes, not texts" in told
    told = mistake(capsys, "sample", classes, "--map", tmp_path / "a.png", *out)
    assert "this pipeline draws classes, not maps" in told


def test_a_pipeline_of_maps_goes_on_with_its_own(drawn, folder, tokenizers, tmp_path, capsys):
    words = ["train", "emoji_taming_edges", "--init", drawn, "--data.source", f"folder:{folder}"]
    words += ["--train.steps", "1", *TRAIN, "--out"]
    save_module(build(VQGAN, replace(tiny(), map="depth", vocab=9), 1), tmp_path / "other")
    told = mistake(capsys, *words, tmp_path / "no", "--map", tmp_path / "other")
    assert "other is tokenizer of maps" in told and "leave --map out" in told
    assert not (tmp_path / "no").exists()
    said(capsys, *words, tmp_path / "on", "--map", tokenizers / "depth-tokenizer")
    recipe = MapRecipe(init=str(drawn), model=smalti.load(drawn).model.config)
    pipe = open_pipeline(recipe, tmp_path / "run", torch.device("meta"))
    parts = (pipe.tokenizer, pipe.map)
    assert [next(part.parameters()).device.type for part in parts if part] == ["meta", "meta"]


def test_what_cannot_be_learned(folder, tokenizers, tmp_path, capsys):
    words = f"train emoji_taming_edges {SHAPE}".split()
    words += ["--tokenizer", str(tokenizers / "pictures-tokenizer"), *TRAIN]
    words += ["--out", str(tmp_path / "run")]
    source, map = f"--data.source folder:{folder}", str(tokenizers / "depth-tokenizer")
    assert "maps need --map DIR" in mistake(capsys, *words, *source.split())
    told = mistake(capsys, *words, *source.split(), "--map", tokenizers / "pictures-tokenizer")
    assert "a map needs a tokenizer of depth, segmentation or edges" in told
    told = mistake(capsys, *words, "--data.source", "shapes:8", "--map", map)
    assert "shapes:8 has no maps: depth maps are files in a folder depth beside" in told
    save_module(build(VQGAN, replace(tiny(), size=(8, 8), map="depth")), tmp_path / "small")
    told = mistake(capsys, *words, *source.split(), "--map", tmp_path / "small")
    assert "the tokenizer of maps reads images of 8x8 pixels, that of pictures of 16x16" in told
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_kinds_learns_from_the_same_folder(folder, tmp_path, capsys):
    words = f"train emoji_edges --data.source folder:{folder} --model.size 16 16".split()
    words += "--model.channels 8 --model.latent 8 --model.vocab 8 --train.steps 3".split()
    words += "--model.map segmentation --model.kinds 4 --objective.codebook.warmup 1".split()
    told = mistake(capsys, *words, *TRAIN, "--out", tmp_path / "no")
    assert "objective.pixel must be kinds for this tokenizer, got l2" in told
    said(capsys, *words, "--objective.pixel", "kinds", *TRAIN, "--out", tmp_path / "run")
    told = mistake(capsys, *words, "--objective.pixel", "kinds", "--model.kinds", "3", *TRAIN,
                   "--out", tmp_path / "few")  # fmt: skip
    assert "kinds of a segmentation must be in [0, 3), got 3" in told

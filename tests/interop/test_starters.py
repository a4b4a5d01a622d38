"""Pipelines that come with smalti: found by name, drawn with where none is named."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

import smalti
from builders import pipeline
from small_systems import mistake
from smalti.cli.drawing import sample
from smalti.cli.editing import edit
from smalti.cli.main import main
from smalti.cli.serving import serve
from smalti.data.styles import CREDIT
from smalti.interop import starters
from smalti.interop.listing import list_models
from smalti.loading import load_tokenizer, pipeline_folder
from smalti.recipes.starter import FILE, emoji64
from smalti.runs.finetune import open_pipeline
from smalti.runs.generator import origin

INFO = {
    "styles": ["fluent3d", "noto", "twemoji"],
    "text_classes": ["Smileys", "Flags"],
    "credit": CREDIT,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of starters with a tiny one in it."""
    root = tmp_path_factory.mktemp("starters")
    pipeline("maskbit-text", info=INFO).save_pretrained(root / "emoji64")
    return root


@pytest.fixture
def starter(installed, monkeypatch, tmp_path):
    monkeypatch.setattr(starters, "ROOT", installed)
    monkeypatch.chdir(tmp_path)
    return installed / "emoji64"


def test_found_by_name(starter):
    pipe = smalti.load("smalti/emoji64", device="cpu")
    assert pipe.fingerprint == smalti.load(starter, device="cpu").fingerprint
    assert pipeline_folder("smalti/emoji64") == starter
    assert load_tokenizer("smalti/emoji64", "cpu").spec == pipe.tokenizer.spec


def test_commands_draw_with_it(starter, tmp_path, capsys):
    main(["sample", "--text", "red heart", "--style", "fluent", "--out", "a.png"])
    main(["edit", "--image", "a.png", "--extend", "left=8", "--text", "flag", "--out", "b.png"])
    capsys.readouterr()
    main(["info", "smalti/emoji64"])
    assert "styles: [fluent3d, noto, twemoji]" in capsys.readouterr().out
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()
    assert signature(serve).parameters["pipelines"].default == ("smalti/emoji64",)
    assert signature(sample).parameters["pipeline"].default == "smalti/emoji64"
    assert signature(edit).parameters["pipeline"].default == "smalti/emoji64"


def test_damaged_weights_are_one_line(installed, monkeypatch, tmp_path, capsys):
    shutil.copytree(installed, tmp_path / "starters")
    monkeypatch.setattr(starters, "ROOT", tmp_path / "starters")
    weights = tmp_path / "starters" / "emoji64" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (whole[: len(whole) // 2], flipped, b"version https://git-lfs"):
        weights.write_bytes(damaged)
        line = mistake(capsys, "sample", "--text", "a", "--out", tmp_path / "a.png")
        assert str(weights.parent) in line, line


def test_a_run_begins_from_it(starter, tmp_path):
    recipe = replace(emoji64(), init="smalti/emoji64")
    begun = open_pipeline(recipe, tmp_path / "run", torch.device("cpu"))
    assert begun.fingerprint == smalti.load(starter, device="cpu").fingerprint
    assert origin(SimpleNamespace(source="folder:mine", holdout=0.1), begun)["credit"] == CREDIT


def test_a_users_folder_of_that_name_wins(starter, tmp_path, capsys):
    other = pipeline("maskbit-text")
    other.save_pretrained(tmp_path / "smalti" / "emoji64")
    pipe = smalti.load("smalti/emoji64", device="cpu")
    assert pipe.wording.styles == () and pipe.fingerprint == other.fingerprint
    assert capsys.readouterr().err == "smalti/emoji64 is the folder of that name, not the starter\n"


@pytest.mark.parametrize("name", ["smalti/emoji46", "smalti/emoji64x"])
def test_a_name_that_is_none(starter, capsys, name):
    with pytest.raises(SystemExit) as stop:
        main(["sample", name, "--out", "a.png"])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in line
    assert "with this smalti came smalti/emoji64; did you mean 'smalti/emoji64'" in line


def test_other_names_are_left_to_others(starter):
    for name in ("owner/name", "smalti/emoji64/more", "emoji64", "./smalti/emoji64"):
        assert starters.find(name) is None


def test_none_came(monkeypatch, tmp_path):
    monkeypatch.setattr(starters, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="no starter smalti/emoji64; with this smalti came none"):
        starters.find(starters.STARTER)


def test_the_name_needs_no_torch():
    script = "import sys; import smalti.cli.main; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr


def test_what_comes_with_smalti_says_whose_pictures_it_learned():
    folder = starters.ROOT / "emoji64"
    card, told = json.loads((folder / "card.json").read_text()), folder / "ATTRIBUTION.md"
    assert {*starters.CARD, "parameters", "tokenizer_parameters"} == card.keys()
    assert card["name"] == starters.STARTER
    lines = ("Noto Emoji", "Apache-2.0", "CC-BY 4.0", "Fluent Emoji", "MIT")
    assert all(line in told.read_text() for line in lines)
    assert "Twemoji, (c) Twitter, Inc and other contributors" in " ".join(told.read_text().split())
    info = json.loads((folder / "pipeline.json").read_text())
    assert (info["credit"], info["source"]) == (CREDIT, FILE)  # as a run of the recipe says
    results = {r["metric"]: r["value"] for r in info["card"]["results"]}
    assert results and results.items() <= card["results"].items()


def test_its_card_names_whose_pictures_it_learned(tmp_path):
    smalti.load(starters.STARTER, device="cpu").save_pretrained(tmp_path / "p")
    card = ModelCard((tmp_path / "p" / "README.md").read_text())
    assert card.data.license == "apache-2.0" and len(card.data.eval_results) >= 2
    assert f"Credit: {CREDIT}" in card.text and "Twemoji" in CREDIT and "CC-BY 4.0" in CREDIT
    assert "- Terms: the weights are part of smalti" in card.text


@pytest.mark.parametrize("name", starters.starters())
def test_one_that_came_draws(name):
    pipe = smalti.load(name, device="cpu")
    (image,) = pipe(["red heart"], style="noto")
    assert (image.height, image.width) == pipe.tokenizer.size
    (listed,) = list_models(name)
    assert listed.parameters == sum(p.numel() for p in pipe.model.parameters())
    assert listed.tokenizer_parameters == sum(p.numel() for p in pipe.tokenizer.parameters())
    folder = starters.ROOT / name.removeprefix(starters.PREFIX)
    assert listed.disk == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert sum(p.stat().st_size for p in starters.ROOT.rglob("*") if p.is_file()) <= 16e6

"""Runs of towers: what they leave, how they go on, and what they refuse."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from smalti.data.emoji import CREDIT
from smalti.eval.towers import ranks
from smalti.loading import load_towers, save_towers
from smalti.models.towers import Matcher, Towers, tiny
from smalti.recipes.base import DataConfig, TowersRecipe
from smalti.recipes.towers import emoji_siglip, shapes_clip, shapes_siglip
from smalti.runs.run import train
from smalti.runs.towers import first_of
from smalti.text.words import Words
from smalti.train.optim import OptimConfig
from smalti.train.pairs import PairsConfig
from smalti.train.settings import TrainConfig


def recipe(kind="siglip", steps=4, source="shapes:60", **data) -> TowersRecipe:
    model = replace(tiny(), size=16, length=10, kind=kind)
    return TowersRecipe(
        vocab=300,
        data=DataConfig(source, flip=False, holdout=0.2, **data),
        model=model,
        objective=PairsConfig("softmax" if kind == "clip" else "sigmoid"),
        train=TrainConfig(
            steps=steps, batch=8, optim=OptimConfig(lr=1e-3), save_every=2, eval_every=2
        ),
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(recipe(), folder)
    return folder


def test_a_run_leaves_towers_and_what_was_measured(done):
    matcher = load_towers(done / "towers")
    assert matcher.info["source"] == "shapes:60" and matcher.info["holdout"] == 0.2
    assert Words.open(done / "words").fingerprint() == matcher.words.fingerprint()
    report = json.loads((done / "report.json").read_text())
    names = ("loss", "image_to_text_1", "text_to_image_1")
    assert all(np.isfinite(report[f"held_out_{name}"]) for name in names)
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    seen = [line["step"] for line in lines if "held_out_loss" in line]
    assert seen == [2, 4] and len(list((done / "previews").iterdir())) == 1
    assert train(recipe(), done) == report


def test_a_run_that_was_cut_off_goes_on_as_if_it_was_not(done, tmp_path, monkeypatch):
    from smalti.train.trainer import Trainer

    step = Trainer._train_step

    def cut(self, module, batch):
        if self.step == 3:
            raise RuntimeError("the lights went out")
        return step(self, module, batch)

    monkeypatch.setattr(Trainer, "_train_step", cut)
    with pytest.raises(RuntimeError, match="lights"):
        train(recipe(), tmp_path / "run")
    monkeypatch.undo()
    train(recipe(), tmp_path / "run")
    ours, whole = (load_towers(f / "towers").towers.state_dict() for f in (tmp_path / "run", done))
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_a_run_goes_on_from_towers_with_their_words(done, tmp_path):
    begun = replace(recipe("siglip", 2), init=str(done / "towers"))
    train(begun, tmp_path / "more")
    matcher = load_towers(tmp_path / "more" / "towers")
    before = load_towers(done / "towers")
    assert matcher.words.fingerprint() == before.words.fingerprint()
    apart = [
        float((a - b).abs().max())
        for a, b in zip(matcher.towers.parameters(), before.towers.parameters(), strict=True)
    ]
    assert 0 < max(apart) < 0.02  # two steps away, and not drawn anew
    with pytest.raises(ValueError, match="keep their text tokenizer: leave --words out"):
        train(replace(begun, words=str(done)), tmp_path / "other")


def test_a_clip_learns_with_given_words(done, tmp_path):
    named = replace(recipe("clip", 2), words=str(done))
    train(named, tmp_path / "clip")
    matcher = load_towers(tmp_path / "clip" / "towers")
    assert matcher.towers.config.start == matcher.words.start is not None
    assert not (tmp_path / "clip" / "words").exists()
    Words.train(["others"], 270).save(tmp_path / "words")
    (tmp_path / "clip" / "report.json").unlink()
    with pytest.raises(ValueError, match="holds a run of another recipe: words was"):
        train(replace(named, words=str(tmp_path / "words")), tmp_path / "clip")


def captioned(path: Path, texts) -> str:
    """A file of pictures, of which those with a text have a caption."""
    rows = []
    for i, text in enumerate(texts):
        data = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 10 * i, np.uint8)).save(data, "PNG")
        rows.append({"image": {"bytes": data.getvalue()}, "text": text})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return f"parquet:{path}"


def test_pictures_without_captions_are_counted_and_long_captions_told(tmp_path, capsys):
    texts = ["a red circle", None, "a circle " * 20, *["a blue star"] * 9]
    source = captioned(tmp_path / "some.parquet", texts)
    train(recipe(steps=1, source=source), tmp_path / "run")
    said = capsys.readouterr().err
    assert "1 of 12 pictures have no caption and are left out" in said
    assert "1 of 3 captions are longer than --model.length 10 ids" in said


def test_a_source_without_captions_is_refused(tmp_path):
    source = captioned(tmp_path / "none.parquet", [""] * 4)
    with pytest.raises(ValueError, match="have no captions"):
        train(recipe(source=source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_are_not_mirrored():
    with pytest.raises(ValueError, match="captions say left and right, so data.flip must be False"):
        TowersRecipe(data=DataConfig("shapes"))
    with pytest.raises(ValueError, match="data.crop center or random, got False, ten"):
        TowersRecipe(data=DataConfig("shapes", crop="ten", flip=False))


def test_texts_that_are_equal_are_one():
    ids = torch.tensor([[5, 1], [4, 1], [5, 1], [9, 1]])
    every, first, own = first_of(ids)
    assert torch.equal(every[own], ids) and torch.equal(ids[first], every)
    assert sorted(first.tolist()) == [0, 1, 3]
    features = torch.nn.functional.one_hot(own).float()
    assert all(bool((r == 0).all()) for r in ranks(features, features[first], own))


@pytest.mark.parametrize("made", [shapes_siglip, shapes_clip, emoji_siglip])
def test_small_recipes_have_what_their_losses_need(made):
    known = made()
    model = Towers(known.model)
    assert known.objective.objective(model).model is model
    assert sum(p.numel() for p in model.parameters()) < 6e6


def test_a_folder_of_other_things_and_changed_words_are_refused(tmp_path):
    words = Words.train(["a red circle"], 280)
    matcher = Matcher(Towers(tiny().fitted(words)), words, {"credit": CREDIT})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt"):
        save_towers(matcher, tmp_path / "full")
    save_towers(matcher, tmp_path / "a")
    assert load_towers(tmp_path / "a").info["credit"] == CREDIT
    told = json.loads((tmp_path / "a" / "words" / "tokenizer.json").read_text())
    told["added_tokens"][1]["content"] = "</t>"
    (tmp_path / "a" / "words" / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="the towers were trained with words"):
        load_towers(tmp_path / "a")

"""A run of an older version, whose recipe lacks fields that came later."""

import json
from dataclasses import replace

import pytest
import torch

from smalti.config import read_json, to_dict
from smalti.recipes.llamagen import emoji_llamagen
from smalti.runs.folder import check, filled
from smalti.runs.run import train_among
from smalti.train.parallel import World

CPU = torch.device("cpu")


def test_fields_that_came_later_are_at_their_defaults(tmp_path):
    recipe = emoji_llamagen()
    told = to_dict(recipe)
    del told["sampling"]["scales"], told["sampling"]["momentum"], told["train"]["optim"]["betas"]
    del told["lora"]
    (tmp_path / "recipe.json").write_text(json.dumps(told))
    check(tmp_path, recipe)
    assert filled(read_json(tmp_path / "recipe.json"), recipe) == to_dict(recipe)
    other = replace(recipe, sampling=recipe.sampling.changed(momentum=-0.5))
    with pytest.raises(ValueError, match=r"sampling.momentum was 0.0, now -0.5"):
        check(tmp_path, other)


def test_fields_that_are_gone_are_told(tmp_path):
    recipe = emoji_llamagen()
    (tmp_path / "recipe.json").write_text(json.dumps(to_dict(recipe) | {"gone": 3}))
    with pytest.raises(ValueError, match="gone was 3, now None"):
        check(tmp_path, recipe)


def test_the_report_of_a_finished_run_is_of_the_main_process_alone(tmp_path):
    recipe = emoji_llamagen()
    report = {"steps": recipe.train.steps, "held_out_bits_per_token": 3.0}
    (tmp_path / "recipe.json").write_text(json.dumps(to_dict(recipe)))
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = [train_among(recipe, tmp_path, World(rank, 1, CPU)) for rank in (0, 1)]
    assert found == [report, {}]

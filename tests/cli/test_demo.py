"""What a demo is made of on both kinds of processor."""

import json
from dataclasses import replace

import pytest
import torch

from smalti.cli import catalogue, demo
from smalti.data.open import open_source
from smalti.models.unified import Marks
from smalti.modules import MODELS, TOKENIZERS, UNIFIED, module_of
from smalti.recipes import DEMOS
from smalti.recipes.base import UnifiedRecipe
from smalti.recipes.llamagen import emoji_llamagen
from smalti.runs.generator import fitted, open_encoder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A demo on a processor with or without bfloat16 whose steps only note their recipes."""

    def start(fast, **options):
        seen = {}
        monkeypatch.setattr(demo, "fast_bf16", lambda device: fast)
        monkeypatch.setattr(demo, "best_device", lambda: torch.device("cpu"))

        def noted(name, told):
            def step(recipe, *rest):
                seen[name] = recipe
                return told

            return step

        monkeypatch.setattr(demo, "learn_codes", noted("tokenizer", {"held_out_psnr": 22.0}))
        monkeypatch.setattr(demo, "learn_to_predict", noted("generator", {"steps": 1}))
        monkeypatch.setattr(demo, "draw", lambda *rest: 8.0)
        report = demo.demo("shapes:24", tmp_path, **options)
        assert json.loads((tmp_path / "report.json").read_text()) == report
        return seen, report, capsys.readouterr().err

    return start


@pytest.mark.parametrize(
    ("fast", "steps", "until", "words"),
    [
        (True, 3540, 1770, "about 9 on two without.\n"),
        (False, 1770, 885, "on two without as here, where the generator trains 50% of its steps."),
    ],
)
def test_a_slower_processor_trains_less_and_both_times_are_said(run, fast, steps, until, words):
    seen, report, err = run(fast, system="rar")
    assert seen["tokenizer"].train.steps == 800
    assert seen["generator"].train.steps == steps
    assert seen["generator"].objective.random_until == until
    assert "It takes about 5 minutes on two free cores with AVX-512 and bfloat16" in err
    assert words in err
    assert report["images"] == 24 and report["sampling_images_per_s"] == 8.0


def test_a_quick_demo_says_no_minutes(run):
    seen, _, err = run(True, quick=True)
    assert "minutes" not in err
    assert (seen["tokenizer"].train.steps, seen["generator"].train.steps) == (40, 150)


def test_the_recipes_alone_do_not_depend_on_the_processor(monkeypatch):
    monkeypatch.setattr(demo, "fast_bf16", lambda device: False)
    _, second = demo.recipes("shapes:24", quick=False, seed=3)
    assert second == demo.replace(emoji_llamagen(), data=second.data, train=second.train)
    assert (second.train.steps, second.train.seed) == (3000, 3)


def test_every_system_has_its_words_and_the_minutes_that_were_measured():
    assert list(catalogue.demos().items()) == [(name, d.what) for name, d in DEMOS.items()]
    measured = [d.minutes for d in DEMOS.values() if d.minutes]
    assert len(measured) >= 6 and all(fast < slow for fast, slow in measured)


def test_a_full_demo_is_the_recipe():
    for name, d in DEMOS.items():
        recipes = demo.recipes("shapes:24", False, 0, name)
        for ours, recipe in zip(recipes, (d.tokenizer, d.generator), strict=True):
            assert ours.objective == recipe().objective and ours.model == recipe().model
            assert ours.train.optim == recipe().train.optim
            where = ours.data.source
            assert where in ("shapes:24", "captioned:shapes:24")
            assert ours.data == replace(recipe().data, source=where)
            assert (
                ours.train.steps <= 2 * ours.train.eval_every <= ours.train.steps + 1
            )  # at the end


def test_pictures_with_names_are_not_mirrored():
    """Names say left and right."""
    mirrored = {name: demo.recipes("shapes:24", False, 0, name)[1].data.flip for name in DEMOS}
    assert not mirrored["dalle"] and not mirrored["infinity"] and mirrored["llamagen"]


@pytest.mark.parametrize("name", DEMOS)
def test_the_parts_of_a_demo_fit(name):
    """The tokenizer, the model of its codes and how it draws, as they are before any training."""
    first, second = demo.recipes("shapes:24", False, 0, name)
    tokenizer = module_of(first.model, TOKENIZERS)
    if isinstance(second, UnifiedRecipe):
        config = second.model.fitted(tokenizer.coder.spec, second.vocab, Marks(0, (1,), 2))
        config, among = config.with_codebook(tokenizer.coder.codebook), UNIFIED
    else:
        classes, encoder = len(open_source("shapes:24").classes), open_encoder(second, None)
        config, among = fitted(second.model, tokenizer, classes, encoder), MODELS
    with torch.device("meta"):
        model = module_of(config, among)
    assert model.spec == tokenizer.coder.spec
    second.sampling.check(model)


def test_no_such_system():
    with pytest.raises(ValueError, match="must be one of .* got 'vaar'; did you mean 'var'"):
        demo.recipes("shapes:24", False, 0, "vaar")

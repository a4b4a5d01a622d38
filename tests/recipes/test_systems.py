"""Runs of RAR and VAR that cannot be: said at once, before anything is encoded."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from builders import build
from smalti.codes import Reads
from smalti.config import read_json
from smalti.data.columns import choices
from smalti.data.open import open_source
from smalti.models import llamagen, rar, var
from smalti.modules import save_module
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.base import GeneratorRecipe
from smalti.recipes.rar import emoji_rar
from smalti.runs.run import train
from smalti.tokenizers import multiscale_vqvae, vqgan
from smalti.train.objectives import LikelihoodConfig
from smalti.train.settings import TrainConfig

GRID = build(vqgan.VQGAN, vqgan.tiny())
TINY = TrainConfig(steps=4, batch=8, device="cpu", precision="fp32")


@pytest.fixture
def scales():
    return build(multiscale_vqvae.MultiScaleVQVAE, multiscale_vqvae.tiny())


def test_a_model_must_predict_what_the_tokenizer_gives(scales):
    grids = scales.spec.grids
    (rar.tiny()).fitted(GRID, Reads(3))
    (replace(var.tiny(), scales=grids)).fitted(scales, Reads(3))
    with pytest.raises(
        ValueError, match="VAR predicts scales of codes, but .* VQGAN, gives 1 grid"
    ):
        (var.tiny()).fitted(GRID, Reads(3))
    for config in (rar.tiny(), llamagen.tiny()):
        with pytest.raises(
            ValueError, match="one grid of codes, but the .* MultiScaleVQVAE, gives"
        ):
            (config).fitted(scales, Reads(3))
    other = ((1, 1), (2, 2), (3, 3))
    with pytest.raises(ValueError, match="must be the tokenizer's, .* give --model.scales 1 1 "):
        (replace(var.tiny(), scales=other)).fitted(scales, Reads(3))


def test_nothing_is_written_for_a_model_of_other_codes(scales, tmp_path):
    save_module(scales, tmp_path / "t")
    recipe = GeneratorRecipe(tokenizer=str(tmp_path / "t"), model=rar.tiny(), train=TINY)
    with pytest.raises(ValueError, match="RAR predicts one grid of codes"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_orders_must_settle_before_the_end(tmp_path):
    save_module(GRID, tmp_path / "t")
    recipe = GeneratorRecipe(
        tokenizer=str(tmp_path / "t"),
        model=rar.tiny(),
        objective=LikelihoodConfig(random_until=2, random_end=5),
        train=TINY,
    )
    with pytest.raises(ValueError, match="random_end must be at most train.steps 4, .* got 5"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize("end", [0, 3])
def test_known_codes_come_first_where_random_orders_were_learned(tmp_path, end):
    save_module(GRID, tmp_path / "t")
    recipe = emoji_rar()
    recipe = replace(
        recipe,
        tokenizer=str(tmp_path / "t"),
        data=replace(recipe.data, source="shapes:32"),
        model=rar.tiny(),
        objective=LikelihoodConfig(random_until=0, random_end=end),
        train=replace(TINY, optim=replace(recipe.train.optim, warmup=1)),
    )
    report = train(recipe, tmp_path / "run")
    stored = read_json(tmp_path / "run" / "pipeline" / "pipeline.json")["sampling"]
    assert stored["known_first"] is (None if end else False)
    assert ("bits_per_token_random" in report) == bool(end)
    model = build(rar.RAR, rar.tiny())
    assert Sampling.of(**stored).sees_known_first(model) == bool(end)


def test_folders_that_recipes_read_can_be_opened(tmp_path, monkeypatch):
    """Plain ones, with sub-folders: classes, but for models of pictures of one kind."""
    monkeypatch.chdir(tmp_path)
    made = {name: recipe() for name, recipe in RECIPES.items() if name != "tokenizer_text"}
    sources = {name: r.data.source for name, r in made.items() if r.data.source[:7] == "folder:"}
    assert {"taming_ffhq", "taming_faceshq", "titok_l32", "imagegpt_s"} <= sources.keys()
    for source in set(sources.values()):
        for inside in ("00000", "01000"):
            folder = Path(choices(source.removeprefix("folder:"))[0]) / inside
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
    opened = {source: open_source(source) for source in set(sources.values())}
    for name, source in sources.items():
        one = getattr(made[name].model, "classes", None) == 1
        assert len(opened[source]) == 2 and len(opened[source].classes) == (0 if one else 2), name


def test_generators_learn_pictures_that_can_be_coded_once():
    """Not parts that are cut out anew each time, of which only tokenizers learn."""
    random = [
        name
        for name, recipe in RECIPES.items()
        if isinstance(made := recipe(), GeneratorRecipe) and made.data.crop == "random"
    ]
    assert random == []

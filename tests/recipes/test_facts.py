"""What the list of models says of recipes is what their configurations have."""

import json
from pathlib import Path

import pytest

from smalti.interop.listing import recipe_facts
from smalti.interop.releases import releases
from smalti.recipes import RECIPES

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from recipe_facts import FILE, facts_of, published

COMMAND = "run: python benchmarks/recipe_facts.py"
FEW = ("llamagen_b", "llamagen_vq16", "rar_b", "imagegpt_s", "var_d16", "shapes_chameleon")


def test_every_recipe_is_there():
    assert list(json.loads(FILE.read_text())) == list(RECIPES), COMMAND


@pytest.mark.parametrize("name", FEW)
def test_few_are_counted(name):
    assert recipe_facts()[name] == facts_of(RECIPES[name]), COMMAND


@pytest.mark.parametrize(
    ("name", "count", "grid"),
    [("shapes_chameleon", 3_276_480, "8x8"), ("shapes_transfusion", 3_154_024, "4x4")],
)
def test_small_models_of_text_and_pictures_are_counted_as_they_are_trained(name, count, grid):
    """With the ids of their own texts and codes, and not with those of any."""
    told = recipe_facts()[name]
    assert (told["parameters"], told["size"]) == (count, f"{grid} codes")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_all_are_counted(name):
    """Those of released models among them: each is made, without numbers, and counted."""
    assert recipe_facts()[name] == facts_of(RECIPES[name]), COMMAND


def test_released_models_have_a_recipe_or_none_is_known():
    known = recipe_facts()
    for release in releases().values():
        assert release.recipe in known or not release.recipe, release.name
        assert release.codes in known or not release.codes, release.name
        assert not release.codes or known[release.codes]["task"] == "tokenizer", release.name
    without = {r.name for r in releases().values() if not r.recipe}
    many = {n for n in without if n.startswith(("dc-ae-f32c32-sana", "tatitok-"))}
    assert without - many == {"meissonic-vqvae", "chameleon-vqgan"} and len(many) == 4 + 6


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("X. Published: FID 2.58 at 256 (guidance 2).", {"fid": 2.58, "fid_on": ""}),
        ("X. Published: rFID 2.19 on ImageNet.\n\nMore.", {"fid": 2.19, "fid_on": "ImageNet"}),
        ("Published: reconstruction FID\n    7.94.", {"fid": 7.94, "fid_on": ""}),
        ("Published: FID 7.23 on MS-COCO, 0.62 on GenEval [M].", {}),  # from memory
        ("X, 1.2 B parameters; no FID was published.", {}),
    ],
)
def test_published_numbers_are_read_off_docstrings(text, wanted):
    assert published(text) == wanted

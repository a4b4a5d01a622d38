"""Published towers have the sizes of what was released."""

import pytest
import torch

from smalti import modules
from smalti.recipes import RECIPES

MILLIONS = {"clip_vit_l14": 427.6, "siglip_so400m": 877.4}
"""Of the released models, from their files."""


@pytest.mark.parametrize("name", MILLIONS)
def test_they_have_as_many_parameters_as_what_was_released(name):
    recipe = RECIPES[name]()
    with torch.device("meta"):
        towers = modules.module_of(recipe.model, modules.TOWERS)
    assert sum(p.numel() for p in towers.parameters()) / 1e6 == pytest.approx(
        MILLIONS[name], abs=0.2
    )


def test_pairs_that_were_seen():
    clip, siglip = (RECIPES[name]().train for name in MILLIONS)
    assert clip.steps * clip.batch == 32 * 400_000_000
    assert siglip.steps * siglip.batch == pytest.approx(40e9, rel=1e-6)

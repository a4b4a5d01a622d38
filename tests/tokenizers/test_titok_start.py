"""New weights of TiTok: its codes depend on the picture, and what it shows depends on them."""

import pytest
import torch
from torch import Tensor

from smalti.recipes import RECIPES
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.titok import BASE, LARGE, SMALL


def share(x: Tensor) -> float:
    """The share of the variance of vectors (B, n, D) that is between items at one position."""
    return float(x.var(0).sum(-1).mean() / x.flatten(0, 1).var(0).sum())


@pytest.mark.parametrize("name", ["emoji_titok", "emoji_titok_vae"])
@torch.no_grad()
def test_a_new_tokenizer_tells_pictures_and_codes_apart(name):
    """With a deviation of 0.02 both shares are below 1e-3, and training stays there for long."""
    torch.manual_seed(0)
    model = tokenizer_of(RECIPES[name]().model).eval()
    pictures = torch.rand(16, 3, 1, 1).expand(-1, -1, *model.size) * 2 - 1  # of one colour each
    assert share(model.latent(pictures).squeeze(2).mT) > 5e-3
    latents = torch.nn.functional.normalize(torch.randn(16, model.config.dim, 1, 32), dim=1)
    assert share(model.decoder.read(latents, None)) > 5e-3


@pytest.mark.parametrize("trunk", [SMALL, BASE, LARGE])
def test_published_widths_begin_as_published(trunk):
    assert trunk.std == 0.02

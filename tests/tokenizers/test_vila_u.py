"""VILA-U's tower: what is quantized, what is drawn, and what texts are compared with."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build
from smalti.tokenizers.vila_u import VILAU, large, so400m, tiny
from smalti.train.contrastive import ContrastiveConfig


def test_published_sizes():
    for config, grid, drawn in ((large(), 16, 16), (so400m(), 27, 24)):
        assert config.grid == (grid, grid) and config.drawn == (drawn, drawn)
        with torch.device("meta"):
            model = VILAU(config)
        assert model.size == model.size_of(None) == config.size
        assert model.tower.positions.shape == (grid**2, model.understands)


@torch.no_grad()
def test_another_grid_than_the_decoder_has():
    """A rest at the border is not seen, and what stands for codes is resized."""
    model = build(VILAU, replace(tiny(), cell=5))  # 3 x 3 cells of 15 pixels, 4 x 4 to draw of
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = model.encode(images)
    assert codes.shape == (2, 9, 3) and model.decode(codes).shape == images.shape
    images[..., 15:] = 0.5
    assert torch.equal(model.encode(images), codes)
    latent = model.quantize.decode(codes.unflatten(1, (3, 3)))
    wide = F.interpolate(latent, (4, 4), mode="bilinear")
    assert torch.equal(model.decode(codes), model.decoder(model.post_quant_conv(wide)))


@torch.no_grad()
def test_the_rest_of_the_tower_reads_the_codes():
    model = build(VILAU, replace(tiny(), understands=True))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    z = model.latent(images)
    whole = model.tower.whole(model.tower(images))  # without codes
    torch.testing.assert_close(model.features(z), whole)
    found = model.features(model.quantize.decode(model.quantize.encode(z)))
    assert found.shape == (2, model.understands) and not torch.allclose(found, whole)


def test_a_tower_that_does_not_understand_has_no_features():
    model = build(VILAU, tiny())
    assert not model.understands and len(model.tower.layers) == 2
    with pytest.raises(ValueError, match="has no features of texts"):
        model.features(torch.zeros(1, 16, 4, 4))
    with pytest.raises(ValueError, match="got a VILAU of none"):
        ContrastiveConfig().objective(model, 0, 10)


def test_settings_that_cannot_be():
    for changes, message in (
        ({"cell": 17}, "size must be at least a cell of 17, got"),
        ({"size": (18, 16)}, "size must be multiples of 4 pixels"),
        ({"vision": replace(tiny().vision, layers=1)}, "vision.layers must be at least 2, got 1"),
        ({"decoder_multipliers": (1, 1, 1)}, "has no decoder_multipliers"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(tiny(), **changes)

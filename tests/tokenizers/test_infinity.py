"""Infinity's tokenizer: the published sizes and schedules, and codes of all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from builders import build, random_codes
from smalti.data.transforms import to_uint8
from smalti.engine.step import Step
from smalti.pipeline.coded import preview
from smalti.tokenizers import infinity
from smalti.tokenizers.infinity import (
    BUDGETS,
    SCHEDULES,
    InfinityVAE,
    InfinityVAEConfig,
    at,
    groups,
    published,
    published_d56,
    ratio_of,
    schedule,
)

ALL = [(ratio, budget) for ratio in SCHEDULES for budget in BUDGETS]
PIXELS = {"0.06M": 256, "0.25M": 512, "0.60M": 768, "1M": 1024}


@pytest.mark.parametrize(
    ("ratio", "budget", "sides"),
    [
        (1.0, "0.06M", ["1x1", "2x2", "4x4", "6x6", "8x8", "12x12", "16x16"]),
        (1.333, "0.06M", ["1x1", "2x2", "4x3", "8x6", "12x9", "16x12", "20x15"]),
        (0.333, "0.06M", ["1x1", "2x2", "2x6", "3x9", "5x15", "7x21", "9x27"]),
        (0.571, "1M", [*"1x1 2x2 3x3 4x7 6x11 8x14 12x21 16x28 20x35 24x42".split(), "32x56",
                       "40x70", "48x84"]),
    ],
)  # fmt: skip
def test_published_schedules(ratio, budget, sides):
    assert [f"{h}x{w}" for h, w in schedule(ratio, budget)] == sides


def test_all_schedules_are_of_their_ratio_and_about_as_many_pixels():
    assert len(SCHEDULES) == 15 and len({schedule(*one)[-1] for one in ALL}) == 60
    for ratio, budget in ALL:
        grids = schedule(ratio, budget)
        height, width = grids[-1]
        assert abs(height / width - ratio) < 0.01
        assert 0.97 < 16 * (height * width) ** 0.5 / PIXELS[budget] < 1.12
        assert ratio_of(grids) == ratio
        flat = int(1000 / ratio) / 1000
        if ratio > 1:
            assert schedule(flat, budget) == tuple((w, h) for h, w in grids)
    assert ratio_of(((1, 1), (2, 2))) is None, "of all ratios"
    assert ratio_of(((1, 1), (3, 3))) is None, "of none"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((1.1, "1M"), r"ratio \(height / width\) must be one of 0.333, .*, 0.8, 1, 1.25, .* got 1"),
        ((1.0, "2M"), "budget must be one of 0.06M, 0.25M, 0.60M, 1M, got '2M'"),
    ],
)
def test_a_schedule_that_there_is_not(asked, message):
    with pytest.raises(ValueError, match=message):
        schedule(*asked)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("config", "channels", "parameters"),
    [
        (published(16), 16, 109.97),
        (published(24), 24, 110.04),
        (published(32), 32, 110.12),
        (published(64), 64, 110.41),
        (published_d56(), 56, 81.62),
    ],
)
def test_published_tokenizers(config, channels, parameters):
    with torch.device("meta"):
        model = InfinityVAE(config)
    assert round(count(model) / 1e6, 2) == parameters and not count(model.quantize)
    assert model.spec.trailing == (channels,) and model.spec.positions == 10521
    assert (model.factor, model.size, model.codebook) == (16, (1024, 1024), None)
    assert {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)} == {32}


def test_groups():
    assert [groups(c) for c in (32, 96, 128, 24, 48, 72, 8, 20)] == [32, 32, 32, 24, 24, 24, 8, 4]


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("ratio", [0.4, 1.0, 1.75])
@torch.no_grad()
def test_one_network_has_codes_of_every_ratio(ratio, cells):
    model = build(InfinityVAE, replace(infinity.tiny(), size=(16 * cells,) * 2, cells=cells))
    grids = schedule(ratio)
    spec = replace(model.spec, grids=grids)
    size = model.size_of(spec)
    assert size == tuple(side * model.factor for side in grids[-1])
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.encode(images, spec)
    assert codes.shape == spec.shape(1)
    assert model.decode(codes, spec).shape == images.shape
    with pytest.raises(ValueError, match="images must be"):
        model.encode(images)


def test_scales_that_do_not_ascend_are_refused():
    model = build(InfinityVAE, infinity.tiny())
    with pytest.raises(ValueError, match=r"InfinityVAE gives .*ascend, got \(2, 2\) behind \(4, 2"):
        model.gives(replace(model.spec, grids=((4, 2), (2, 2))))


def test_the_same_tokenizer_for_other_images():
    config = at(InfinityVAEConfig(bits=16), schedule(2.0, "0.25M"))
    assert config.size == (736, 368) and config.scales[-1] == (46, 23)


def test_a_size_has_the_scales_of_its_published_schedule():
    model = build(InfinityVAE, infinity.tiny())  # 4 pixels a position
    found = {model.spec_of((4 * h, 4 * w)).grids for h, w in (schedule(*one)[-1] for one in ALL)}
    assert found == {schedule(*one) for one in ALL}
    assert model.spec_of((80, 60)) == replace(model.spec, grids=schedule(1.333))
    assert model.spec_of((16, 16)) == model.spec, "its own, which is none of them"
    words = r"size must be one of 16x16, .*, 64x64, .*, 256x256, .*444x148, got 64x60"
    with pytest.raises(ValueError, match=words) as error:
        model.spec_of((64, 60))
    assert str(error.value).count(", ") == 61


@torch.inference_mode()
def test_scales_of_another_size_are_shown_as_they_are_drawn():
    model = build(InfinityVAE, infinity.tiny())
    spec = model.spec_of((80, 60))
    codes = random_codes(spec, 2)
    drawn = sum(height * width for height, width in spec.grids[:3])
    ready = torch.arange(spec.positions).expand(2, -1) < drawn
    step = Step(3, 7, codes, torch.zeros(2, 12), ready)
    images = preview(model, step, spec)
    assert [image.size for image in images] == [(60, 80)] * 2
    wanted = to_uint8(model.decode(codes, spec, scales=3))
    assert np.array_equal(np.stack([np.asarray(i) for i in images]), wanted.permute(0, 2, 3, 1))

"""The GPT of taming-transformers: what is read, in windows and not, and what that costs."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from builders import build, generate, random_codes
from smalti.codes import Cond, Span, TokenSpec
from smalti.models.taming import Taming, TamingConfig, places, tiny
from smalti.sampling.noise import Noise


def of_maps(**changes) -> TamingConfig:
    return replace(tiny(), classes=0, map_grid=(4, 4), map_vocab=9, **changes)


def products(config: TamingConfig, length: int) -> int:
    """Multiplications and additions of a pass over so many positions, one of which is predicted, on
    paper: queries, keys, values and what becomes of them, feed-forward, and attention."""
    width = config.dim
    layer = 2 * length * (4 * width**2 + 8 * width**2) + 2 * 2 * length**2 * width
    return config.layers * layer + 2 * width * config.vocab


def test_drawing_by_windows_costs_the_products_of_its_windows():
    model = build(Taming, of_maps())
    grid = (5, 7)
    spec, cond = TokenSpec((grid,), 32), Cond(map=random_codes(TokenSpec((grid,), 9), 1))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        generate(model, cond, Noise.request(0, 1), spec=spec)
    window = 4 * 4
    upper, trimmed = 0, 0
    for i, j in product(*map(range, grid)):
        rows = i if i <= 2 else 4 - (5 - i) if 5 - i < 2 else 2
        columns = j if j <= 2 else 4 - (7 - j) if 7 - j < 2 else 2
        upper += products(model.config, 2 * window - 1)
        trimmed += products(model.config, window + rows * 4 + columns)
    found = counted.get_total_flops()
    assert found <= 1.1 * trimmed < 1.1 * upper and found > 0.8 * trimmed


def test_windows_are_no_smaller_than_the_model():
    model = build(Taming, tiny())
    assert not model.by_windows(None) and not model.by_windows(model.spec)
    assert model.by_windows(TokenSpec(((4, 9),), 32))
    with pytest.raises(ValueError, match="by windows of 4x4 codes.*got 3x9"):
        model.draws(TokenSpec(((3, 9),), 32))
    spiral = build(Taming, replace(tiny(), order="spiral-in"))
    other = build(Taming, of_maps(grid=(2, 4)))
    for bound in (spiral, other):
        with pytest.raises(ValueError, match="this model draws"):
            bound.draws(TokenSpec(((9, 9),), 32))


@torch.no_grad()
def test_rows_at_different_slots_of_a_larger_picture_are_what_each_is_alone():
    model = build(Taming, of_maps())
    spec = TokenSpec(((6, 5),), 32)
    codes, cond = random_codes(spec, 3), Cond(map=random_codes(TokenSpec(((6, 5),), 9), 3))
    prepared = model.prepare(cond, None, spec)
    whole = model.hidden(codes, prepared, Span.whole(30))
    slots = torch.tensor([[3, 29], [0, 17], [3, 4]])
    h = model.hidden(codes, prepared, Span.rows(slots, 30), model.cache(3, spec))
    torch.testing.assert_close(h, whole[torch.arange(3)[:, None], slots])


@torch.no_grad()
def test_a_prefix_is_seen_in_both_directions_as_far_as_is_said():
    cond = Cond(map=random_codes(TokenSpec(((4, 4),), 9), 1))
    changed = Cond(map=cond.map.clone())
    changed.map[:, 11] = (changed.map[:, 11] + 1) % 9
    for unmasked, reach in ((0, 11), (12, 0), (5, 11)):
        model = build(Taming, of_maps(unmasked=unmasked))
        seen = list[torch.Tensor]()
        model.layers[1].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        for each in (cond, changed):
            model.hidden(random_codes(model.spec, 1), model.prepare(each), Span.whole(16))
        moved = (seen[0] != seen[1]).any(-1)[0].nonzero().flatten()
        assert int(moved[0]) == reach


def test_places_are_shares_of_the_picture_row_by_row():
    found = places((2, 3), 4, 1024).view(2, 3)
    pixels = torch.arange(8 * 12).view(8, 12).double() / 96
    wanted = torch.nn.functional.avg_pool2d(pixels[None, None], 4)[0, 0] * 1024
    assert torch.equal(found, wanted.round().long())
    assert int(places((1, 1), 1, 1).max()) == 0, "no place is beyond the last"
    model = build(Taming, replace(tiny(), classes=1, places=16, cell=4))
    cond = Cond(labels=torch.zeros(1, dtype=torch.int64))
    assert model.prepare(cond).prefix.shape == (1, 16, 32)
    assert generate(model, cond, Noise.request(0, 1), spec=TokenSpec(((5, 4),), 32)).shape == (
        1,
        20,
    )


def test_codes_that_training_does_not_keep_are_others():
    model = build(Taming, replace(tiny(), keep=0.5)).train()
    codes = torch.full((64, 16), 31)
    noise = Noise(torch.arange(64), torch.zeros(64, dtype=torch.int64))
    read = model.shown(codes, noise)
    share = (read == 31).float().mean().item()
    assert 0.45 < share < 0.6 and int(read.min()) == 0
    assert model.random_loss and torch.equal(model.eval().shown(codes, noise), codes)
    assert not build(Taming, tiny()).random_loss


@pytest.mark.parametrize(("changes", "told"), [
    ({"classes": 0}, "the condition must be"),
    ({"map_grid": (2, 2), "map_vocab": 4}, "the condition must be"),
    ({"places": 8}, "the condition must be"),
    ({"classes": 0, "map_grid": (2, 2)}, "map_vocab must be at least 2, got 0"),
    ({"keep": 0.0}, "keep must be above 0"),
    ({"order": "random"}, "order"),
])  # fmt: skip
def test_settings_that_cannot_be(changes, told):
    with pytest.raises(ValueError, match=told):
        replace(tiny(), **changes)

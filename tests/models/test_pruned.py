"""Late layers that leave positions of late scales out, against the same computed in full."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from builders import build, generate, models, random_cond
from smalti.codes import Known
from smalti.engine.running import Running
from smalti.models.pruned import Rows
from smalti.models.pyramid_stack import Place
from smalti.pipeline.sampling import Sampling
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.pruning import Pruning
from smalti.tokenizers.quantize.multiscale import pyramid

NAMES = ["var", "infinity", "hart"]
SHARES = Pruning((0.3, 0.6))
SCALES = pyramid(1, 2, 3, 4)


def model_of(name: str, **changes):
    """A small model of four scales and four layers whose gates are open."""
    module, config = models()[name]
    return build(module, replace(config, scales=SCALES, layers=4, **changes))


def drawn(model, pruning: Pruning, **more) -> Tensor:
    cond, noise = random_cond(model, 2), Noise.request(5, 2)
    return generate(model, cond, noise, Guidance(3.0), pruning=pruning, **more)


class InFull(Rows):
    """Rows of a late layer of which all are computed, and those left out are replaced."""

    def take(self, x: Tensor) -> Tensor:
        return x

    def put(self, y: Tensor, branch: str) -> Tensor:
        if self.kept is None:
            return super().put(y, branch)
        old, (height, width) = self.outputs[self.layer, branch], self.plan.source
        old = old.view(len(old), height, width, -1).permute(0, 3, 1, 2)
        new = F.interpolate(old, size=self.plan.grid, mode="area").flatten(2).mT
        kept = torch.zeros(y.shape[:2], dtype=torch.bool).scatter(1, self.kept, True)
        return torch.where(kept[..., None], y, new)


class Hiding:
    """In place of `Place.rows`: a mask hides the keys that were left out of each layer."""

    def __init__(self) -> None:
        self.hidden: dict[int, Tensor] = {}

    def __call__(self, place: Place, x: Tensor, layer: int, cache) -> tuple[Rows, Place]:
        plan = place.pruned
        if plan is None or layer < plan.first:
            return Rows(), place
        rows = Rows.of(x, layer, plan, cache.outputs)
        rows = InFull(rows.kept, plan, layer, cache.outputs)
        shown = torch.ones(len(x), place.reach, dtype=torch.bool)
        if layer in self.hidden:
            before = self.hidden[layer]
            shown[:, : before.shape[1]] = before
        if rows.kept is not None:
            shown[:, -x.shape[1] :] = False
            shown.scatter_(1, rows.kept + place.reach - x.shape[1], True)
        self.hidden[layer] = shown
        return rows, place._replace(mask=shown[:, None, None])


@pytest.mark.parametrize("name", NAMES)
def test_as_if_all_were_computed_and_some_replaced(name, monkeypatch):
    model = model_of(name)
    mine, exact = drawn(model, SHARES), drawn(model, Pruning())
    hiding = Hiding()
    monkeypatch.setattr(Place, "rows", lambda *given: hiding(*given))
    torch.testing.assert_close(mine, drawn(model, SHARES), rtol=1e-4, atol=1e-4)
    assert hiding.hidden.keys() == {2, 3}  # half of the layers
    assert not torch.equal(mine, exact)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_left_out_is_exact(name):
    model = model_of(name)
    exact = drawn(model, Pruning())
    for pruning in (Pruning((0.0, 0.0)), Pruning((0.5,), layers=0.0)):
        assert torch.equal(drawn(model, pruning), exact)


def test_late_layers_compute_fewer_rows():
    model, rows = model_of("var"), [[] for _ in range(4)]
    for layer, seen in zip(model.layers, rows, strict=True):
        layer.feed_forward.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0].shape[1])
        )
    drawn(model, Pruning((0.3, 0.6), layers=0.25))
    assert rows == [[1, 4, 9, 16]] * 3 + [[1, 4, 9 - 2, 16 - 9]]


def test_guidance_that_ends_known_codes_and_rows_alone():
    """Branches are dropped with what was kept of them; a picture is the same alone."""
    model = model_of("var")
    cond, noise = random_cond(model, 2), Noise.request(5, 2)
    scheduled = Guidance(3.0, "interval", stop=0.6), None
    both = generate(model, cond, noise, *scheduled, pruning=SHARES)
    for i in range(2):
        one = Noise(noise.seeds[i : i + 1], noise.index[i : i + 1])
        alone = generate(model, cond.rows(slice(i, i + 1)), one, *scheduled, pruning=SHARES)
        assert torch.equal(alone, both[i : i + 1])
    known = Known(
        both, torch.rand(both.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    )
    again = generate(model, cond, noise, *scheduled, known=known, pruning=SHARES)
    assert torch.equal(again[known.mask], both[known.mask])


def test_a_running_batch_draws_them_alone():
    model = model_of("var")
    cond, noise = random_cond(model, 1), Noise.request(5, 1)
    request = Sampling.of(prune=(0.3, 0.6)).request(model, cond, noise)
    running = Running(model)
    running.join([request])
    last = None
    while moved := running.step():
        last = moved[0][1]
    assert torch.equal(last.codes, generate(model, cond, noise, pruning=SHARES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune": (1.0,)}, r"prune must be numbers in \[0, 1\), got \(1.0,\)"),
        ({"prune": (math.nan,)}, r"prune must be numbers in \[0, 1\)"),
        ({"prune": 0.5}, r"prune must be numbers in \[0, 1\), got 0.5"),
        ({"prune_layers": 1.5}, r"prune_layers must be in \[0, 1\], got 1.5"),
        ({"prune": (0.1,) * 4}, "shares of at most 3 of 4 scales"),
    ],
)
def test_what_cannot_be_pruned(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling.of(**settings).check(model_of("var"))


@pytest.mark.parametrize("name", ["llamagen", "mar", "hart"])
def test_models_that_cannot_prune(name):
    module, config = models()[name]
    model = build(module, replace(config, refine_steps=2) if name == "hart" else config)
    with pytest.raises(ValueError, match="prune"):
        drawn(model, SHARES)
    with pytest.raises(ValueError, match=r"prune \(0.5,\) is for models of scales"):
        Sampling.of(prune=(0.5,)).check(model)

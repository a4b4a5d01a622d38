"""Rows of a picture drawn several at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import build, causal_models, generate, random_codes, random_cond, stream
from smalti.codes import Known
from smalti.engine.running import Running
from smalti.engine.zipar import passes
from smalti.pipeline.sampling import Sampling
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.parallel import Parallel

CASES = {
    name: (module, config)
    for name, (module, config) in causal_models().items()
    if config.spec.discrete and len(config.spec.grids) == 1
}
CASES = {n: c for n, c in CASES.items() if getattr(c[1], "order", "row-major") == "row-major"}
SCALED = (Guidance(3.0, "linear"), Filters(0.9, top_p=0.9))


def test_passes_of_a_picture():
    plan = passes(3, 4, 2)
    assert [now.drawn for now in plan] == [*([0], [1], [2, 4], [3, 5], [6, 8], [7, 9], [10], [11])]
    assert [now.again for now in plan] == [[], [], [], [], [4], [], [8], []]
    assert [now.stand_in for now in plan] == [None, None, (3, 1), None, (7, 5), None, None, None]
    in_turn = passes(3, 4, 4)
    assert [now.drawn for now in in_turn] == [[slot] for slot in range(12)]
    assert all(now.again == [] and now.stand_in is None for now in in_turn)


def drawn(model, window: int, **more) -> Tensor:
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    return generate(model, cond, noise, *SCALED, parallel=Parallel("zipar", window), **more)


@pytest.mark.parametrize("name", CASES)
def test_a_window_of_a_row_draws_in_turn(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    in_turn = generate(model, cond, noise, *SCALED)
    assert torch.equal(drawn(model, model.spec.grids[0][1]), in_turn)
    assert torch.equal(drawn(model, 1000), in_turn)


@pytest.mark.parametrize("name", CASES)
def test_slots_that_are_not_filled_are_not_seen(name):
    """A cache that is full of something else gives the same codes."""
    model = build(*CASES[name])
    codes, new = drawn(model, 1), model.cache

    def filled(*given):
        cache = new(*given)
        for stored in (*cache.keys, *cache.values):
            stored.fill_(7.0)
        return cache

    model.cache = filled
    assert torch.equal(drawn(model, 1), codes)


def test_a_code_reads_what_it_says():
    """Against one call of each pass alone, without a cache of earlier ones: the first code of a
    row is drawn from the stand-in, and read from then on as if the true one had been there."""
    module, config = CASES["llamagen"]
    model = build(module, replace(config, grid=(2, 4)))
    seen = []
    embed = model.read
    model.read = lambda codes: seen.append(codes.tolist()) or embed(codes)
    codes = drawn(model, 2)[0].tolist()
    rows = [step[0] for step in seen]
    assert rows[2] == [codes[1], codes[1]]  # slot 2, and slot 4 of the stand-in
    assert rows[3] == [codes[2], codes[4]]
    assert rows[4] == [codes[5], codes[3]]  # slot 6, and slot 4 again of the true code
    assert len(rows) == 6


def test_known_codes_steps_and_rows_alone():
    model = build(*CASES["llamagen"])
    cond, noise, spec = random_cond(model, 2), Noise.request(5, 2), model.spec
    mask = torch.rand(2, spec.positions, generator=torch.Generator().manual_seed(1)) < 0.4
    known = Known(random_codes(spec, 2), mask)
    ahead = {"known": known, "parallel": Parallel("zipar", 2)}
    steps, before = list(stream(model, cond, noise, *SCALED, **ahead)), 0
    for step in stream(model, cond, noise, *SCALED, **ahead):
        assert step.total == len(steps) == 3 * 2 + 4
        assert int(step.ready.sum()) - before == step.logp.shape[1]
        assert not step.codes[:, ~step.ready].any()
        before = int(step.ready.sum())
    codes = steps[-1].codes
    assert torch.equal(codes[mask], known.codes[mask])
    cond, noise = cond.rows(slice(0, 1)), Noise.request(5, 1)
    sampling = Sampling.of(parallel="zipar")
    request = sampling.changed(window=2).request(model, cond, noise)
    running, last = Running(model), None
    running.join([request])
    while moved := running.step():
        last = moved[0][1]
    alone = generate(model, cond, noise, parallel=Parallel("zipar", 2))
    assert torch.equal(last.codes, alone)


def test_pictures_that_are_drawn_by_windows():
    model = build(*causal_models()["taming"])
    height, width = model.spec.grids[0]
    large = replace(model.spec, grids=((height, width + 2),))
    assert model.by_windows(large)
    with pytest.raises(ValueError, match="by rows and not by windows"):
        drawn(model, 2, spec=large)


@pytest.mark.parametrize("name", ["var", "rar"])
def test_models_whose_rows_do_not_follow_each_other(name):
    model = build(*causal_models()[name])
    orders = {"orders": torch.arange(model.spec.positions).flip(0)} if name == "rar" else {}
    with pytest.raises(ValueError, match="zipar is for models that draw one discrete code"):
        drawn(model, 2, **orders)

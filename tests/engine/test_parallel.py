"""Drawing ahead: the same codes as drawing in turn, whatever the window, in no more passes."""

from dataclasses import replace

import pytest
import torch

from builders import build, causal_models, generate, random_codes, random_cond, stream
from smalti.codes import Known, TokenSpec
from smalti.engine.guesses import nearest
from smalti.engine.parallel import wanted
from smalti.engine.step import Request
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import order
from smalti.sampling.parallel import Parallel

CASES = {
    name: case
    for name, case in causal_models().items()
    if case[1].spec.discrete and len(case[1].spec.grids) == 1
}
SCALED = (Guidance(3.0, "linear"), Filters(0.9, top_p=0.9))


@pytest.mark.parametrize("name", CASES)
def test_any_window_draws_the_codes_that_are_drawn_in_turn(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    in_turn = generate(model, cond, noise, *SCALED)
    for window in (0, 2, 5, 1000):
        ahead = Parallel("exact", window)
        assert torch.equal(generate(model, cond, noise, *SCALED, parallel=ahead), in_turn), window


@pytest.mark.parametrize("name", ["llamagen", "rar"])
def test_known_codes_and_any_order(name):
    model = build(*CASES[name])
    cond, noise, spec = random_cond(model, 2), Noise.request(5, 2), model.spec
    mask = torch.rand(2, spec.positions, generator=torch.Generator().manual_seed(1)) < 0.4
    known = Known(random_codes(spec, 2), mask)
    orders = torch.stack([order("spiral-in", spec.grids[0]), order("z-curve", spec.grids[0])])
    for more in ({"known": known}, {"orders": orders}, {"known": known, "orders": orders[1]}):
        in_turn = generate(model, cond, noise, *SCALED, **more)
        ahead = generate(model, cond, noise, *SCALED, parallel=Parallel("exact", 6), **more)
        assert torch.equal(ahead, in_turn)
    assert torch.equal(in_turn[mask], known.codes[mask])


def test_what_is_yielded_on_the_way_is_final():
    """Each pass has a code more of each row at least; what is ready stays, others are guesses."""
    model = build(*CASES["llamagen"])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    in_turn = [step.logp for step in stream(model, cond, noise, *SCALED)]
    logp = torch.full((3, model.spec.positions), torch.nan)
    whole, done = generate(model, cond, noise, *SCALED), 0
    for step in stream(model, cond, noise, *SCALED, parallel=Parallel("exact", 4)):
        ready = step.ready.sum(1)
        assert (step.codes == whole)[step.ready].all() and step.total == model.spec.positions
        assert int(ready.min()) == step.done > done
        for row, (count, nats) in enumerate(zip(ready, step.logp, strict=True)):
            new = nats[~nats.isnan()]
            logp[row, int(count) - len(new) : int(count)] = new
        done = step.done
    assert done == model.spec.positions
    torch.testing.assert_close(logp, torch.cat(in_turn, 1))


def test_right_guesses_save_passes():
    """A model that always draws one code needs a pass for each window, and one for the first
    guess."""
    model = build(*CASES["llamagen"])
    model.head.logits = lambda h: 1e4 * torch.eye(model.spec.vocab)[3].expand(*h.shape[:2], -1)
    steps = stream(model, random_cond(model, 2), Noise.request(5, 2), parallel=Parallel("exact", 4))
    assert [step.done for step in steps] == [1, 5, 9, 13, 16]


def test_models_of_scales_are_not_drawn_ahead():
    name, case = next((n, c) for n, c in causal_models().items() if len(c[1].spec.grids) > 1)
    model = build(*case)
    with pytest.raises(ValueError, match="one position after another"):
        generate(model, random_cond(model, 1), Noise.request(0, 1), parallel=Parallel("exact", 4))


@pytest.mark.parametrize("mode", ["exact", "speculative"])
def test_pictures_that_are_drawn_by_windows_are_not_drawn_ahead(mode):
    model = build(*causal_models()["taming"])
    height, width = model.spec.grids[0]
    large = replace(model.spec, grids=((height, width + 2),))
    cond, noise = random_cond(model, 1), Noise.request(0, 1)
    with pytest.raises(ValueError, match=f"parallel {mode} is for .* and not by windows"):
        generate(model, cond, noise, spec=large, parallel=Parallel(mode))
    auto = Request(cond, noise, spec=large, parallel=Parallel("auto"))
    assert not wanted(model, auto)


def test_the_nearest_position_of_those_before():
    spec = TokenSpec(((2, 3),), 8)
    assert nearest(spec, None).tolist() == [0, 0, 1, 0, 1, 2]
    turned = torch.tensor([5, 4, 3, 2, 1, 0])
    both = nearest(spec, torch.stack([torch.arange(6), turned]))
    assert both.tolist() == [[0, 0, 1, 0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("mode", "window"), [("off", 0), ("exact", 3), ("speculative", 0), ("speculative", 3)]
)
def test_every_outcome_is_as_likely_as_its_codes_say(mode, window):
    """Three codes at four slots, 20,000 pictures: against the product of conditionals."""
    module, config = CASES["llamagen"]
    model = build(module, replace(config, grid=(2, 2), vocab=3))
    count = 20_000
    cond = random_cond(model, 1).rows(torch.zeros(count, dtype=torch.int64))
    noise = Noise.request(3, count)
    codes = generate(model, cond, noise, parallel=Parallel(mode, window))
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)  # (81, 4)
    with torch.no_grad():
        nats = model.loss(every, cond.rows(torch.zeros(81, dtype=torch.int64))).sum(1)
    expected = (-nats).exp() * count
    found = (codes @ torch.tensor([27, 9, 3, 1])).bincount(minlength=81)
    chi = ((found - expected) ** 2 / expected).sum()
    assert abs(float(expected.sum()) - count) < 1 and float(chi) < 80 + 4 * 160**0.5


@pytest.mark.parametrize("name", ["llamagen", "llamagen-depth", "rar-bits"])
def test_a_speculative_picture_is_the_same_in_any_batch(name):
    model = build(*CASES[name])
    cond, noise, ahead = random_cond(model, 3), Noise.request(5, 3), Parallel("speculative", 4)
    together = generate(model, cond, noise, *SCALED, parallel=ahead)
    for i in range(3):
        one = Noise(noise.seeds[i : i + 1], noise.index[i : i + 1])
        alone = generate(model, cond.rows(slice(i, i + 1)), one, *SCALED, parallel=ahead)
        assert torch.equal(alone[0], together[i])


def test_auto_draws_in_turn_what_rounds_too_much_or_has_no_turns():
    model, other = build(*CASES["llamagen"]), build(*causal_models()["var"])
    asked = Request(random_cond(model, 1), Noise.request(0, 1), parallel=Parallel("auto"))
    assert wanted(model, asked) and not wanted(other, replace(asked, cond=random_cond(other, 1)))
    assert not wanted(model, replace(asked, cond=random_cond(model, 2)))
    assert not wanted(model.bfloat16(), asked)

"""What a running batch needs of every model: rows at different steps, each by its own request, give
what each gives alone; rows leave and others take their place; a cache can be read without being
written."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

import builders
from builders import build, causal_models, generate, models, random_codes, random_cond
from smalti.codes import Cond, Span, Turn
from smalti.engine.causal import spans
from smalti.engine.masked import Asked, Plan, Surest
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters, RowFilters
from smalti.sampling.guidance import ClassifierFree, Guidance, Projected
from smalti.sampling.noise import Drawing, Noise, SlotNoise, racing
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

CASES = causal_models()
RASTERS = [name for name, (_, config) in CASES.items() if len(config.spec.grids) == 1]
BITS = 2e-5  # how far float32 results may differ when computed in another order
FEW = Solver(steps="4")
SCALES, FILTERS = (3.0, 1.5, 2.0), (Filters(), Filters(0.9, 7), Filters(1.1, top_p=0.8))
"""The requests of three rows."""


def both(rows: Tensor, batch: int) -> Tensor:
    """The rows of both branches of guidance, in a batch of so many images."""
    return torch.cat((rows, rows + batch))


def alone(model, cond: Cond, noise: Noise, i: int, **more) -> Tensor:
    """The codes of request i, drawn by the loop in a batch of one."""
    row = slice(i, i + 1)
    one = Noise(noise.seeds[row], noise.index[row])
    more = {"solver": FEW} | more
    return generate(model, cond.rows(row), one, Guidance(SCALES[i]), FILTERS[i], **more)[0]


def same(model, codes: Tensor, expected: Tensor) -> bool:
    if model.spec.discrete:
        return torch.equal(codes, expected)
    return torch.allclose(codes, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def chance_of(
    noise: Noise, rows: Tensor, slots: Tensor, step: int | Tensor = 0, by: Drawing | None = None
) -> Chance:
    """Each of the rows by its own scale, filters and noise."""
    numbers = SlotNoise(Noise(noise.seeds[rows], noise.index[rows]), slots, step, by=by)
    scale = torch.tensor(SCALES)[rows]
    return Chance(ClassifierFree(scale), numbers, RowFilters.of([FILTERS[i] for i in rows]), FEW)


@pytest.mark.parametrize("name", RASTERS)
@torch.inference_mode()
def test_rows_at_different_slots_give_what_each_gives_alone(name):
    """Three requests start at steps 0, 2 and 3 of one batch; the last two join a cache in use."""
    model, starts = build(*CASES[name]), (0, 2, 3)
    cond, noise = random_cond(model, 3), Noise(torch.tensor([1, 2, 3]), torch.tensor([0, 7, 1]))
    total, begin = model.spec.positions, {}
    by = racing if model.spec.discrete else None
    own = model.order()
    branches = Guidance(2.0).branches(cond)
    prepared, cache = model.prepare(branches), model.cache(6)
    codes = model.spec.empty(3)
    for time in range(starts[-1] + total):
        for i in (i for i, start in enumerate(starts) if start == time):
            index = both(torch.tensor([i]), 3)
            new, fresh = model.prepare(branches.rows(index)), model.cache(2)
            (first, *_) = spans(model.blocks())
            rows = torch.tensor([i])
            drawn = model.draw(
                codes[rows], new, first, fresh, chance_of(noise, rows, first.slots, by=by)
            )
            codes[i, :1] = drawn.codes[0]
            prepared.put(index, new)
            cache.put(index, fresh)
            begin[i] = time
        running = [i for i in begin if begin[i] < time < begin[i] + total]
        if not running:
            continue
        rows = torch.tensor(running)
        slots = torch.tensor([[time - begin[i]] for i in running])
        index = both(rows, 3)
        taken = cache.rows(index)
        span = Span.rows(slots, int(slots.max()) + 1)
        chance = chance_of(noise, rows, slots, by=by)
        drawn = model.draw(codes[rows], prepared.rows(index), span, taken, chance)
        cache.put(index, taken)
        codes[rows, slots[:, 0]] = drawn.codes[:, 0]
    codes = codes if own is None else codes[:, own.argsort()]
    for i in range(3):
        assert same(model, codes[i], alone(model, cond, noise, i))


@pytest.mark.parametrize("name", [name for name in CASES if name not in RASTERS])
@torch.inference_mode()
def test_a_cohort_of_scales_has_a_request_in_each_row_and_rows_may_leave(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(4, 3)
    branches = Guidance(2.0).branches(cond)
    prepared, cache, codes = model.prepare(branches), model.cache(6), model.spec.empty(3)
    rows = torch.arange(3)
    for k, span in enumerate(spans(model.blocks())):
        if k == len(model.spec.grids) - 1:  # the second request is cancelled
            left = torch.tensor([0, 2])
            index = both(left, 3)
            prepared, cache, codes, rows = (
                prepared.rows(index),
                cache.rows(index),
                codes[left],
                rows[left],
            )
        drawn = model.draw(codes, prepared, span, cache, chance_of(noise, rows, span.slots))
        codes[:, span.slots] = drawn.codes
    for i, drawn in zip((0, 2), codes, strict=True):
        assert same(model, drawn, alone(model, cond, noise, i))
    with pytest.raises(ValueError, match="images of scales begin together"):
        cache.put(torch.tensor([0]), model.cache(1))


@torch.inference_mode()
def test_masked_rows_at_different_steps_give_what_each_gives_alone():
    """Three requests of 3, 5 and 4 steps begin at different times and share their passes."""
    model, starts, steps = build(*models()["maskgit"]), (0, 1, 3), (3, 5, 4)
    cond, noise = random_cond(model, 3), Noise.request(4, 3)
    reveals = [Reveal(n, confidence=2.0) for n in steps]
    prepared = model.prepare(Guidance(2.0).branches(cond))
    codes, ready = model.spec.empty(3), torch.zeros(3, model.spec.positions, dtype=torch.bool)
    plans = [Plan.of(reveal, ready[:1]) for reveal in reveals]
    taker = Surest(noise, Reveal(), 1, model.spec.positions)
    for time in range(max(a + b for a, b in zip(starts, steps, strict=True))):
        running = [i for i in range(3) if starts[i] <= time < starts[i] + steps[i]]
        rows, step = torch.tensor(running), [time - starts[i] for i in running]
        chance = chance_of(noise, rows, taker.slots, torch.tensor(step))
        pairs = list(zip(running, step, strict=True))
        scale = [Guidance(SCALES[i]).scale_at(k, steps[i], plans[i].share(k)) for i, k in pairs]
        chance = chance._replace(guide=ClassifierFree(torch.tensor(scale)))
        left = torch.tensor([plans[i].left[0][k + 1] for i, k in pairs])
        weight = torch.tensor([reveals[i].weight(k, steps[i]) for i, k in pairs])
        asked = Asked(chance.noise, hidden=left, weight=weight)
        turn = Turn(ready[rows], None, model.spec.positions)
        draw = model.draw(codes[rows], prepared.rows(both(rows, 3)), turn, None, chance)
        codes[rows], ready[rows] = taker.take(codes[rows], ready[rows], draw, asked)
    for i in range(3):
        assert torch.equal(codes[i], alone(model, cond, noise, i, reveal=reveals[i]))


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_cache_is_read_without_being_written(name):
    model = build(*CASES[name])
    codes, cond = random_codes(model.spec, 2), random_cond(model, 2)
    prepared, cache, kept = model.prepare(cond), model.cache(2), model.cache(2)
    for span in spans(model.blocks()):
        before = [t.clone() for t in (*cache.keys, *cache.values)]
        for _ in range(2):  # what is read twice is the same twice
            seen = model.hidden(codes, prepared, span._replace(keep=False), cache)
            after = (*cache.keys, *cache.values)
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        expected = model.hidden(codes, prepared, span, kept)
        torch.testing.assert_close(seen, expected, rtol=0, atol=BITS)
        model.hidden(codes, prepared, span, cache)


@pytest.mark.parametrize("name", models())
@torch.inference_mode()
def test_rows_of_what_is_prepared_are_what_is_prepared_of_the_rows(name):
    model = build(*models()[name])
    cond, other = random_cond(model, 4), random_cond(model, 2, seed=1)
    index = torch.tensor([3, 1])
    taken = model.prepare(cond).rows(index)
    check_same(taken, model.prepare(cond.rows(index)))
    prepared = model.prepare(cond)
    prepared.put(index, model.prepare(other))
    check_same(prepared.rows(index), model.prepare(other))
    check_same(prepared.rows(torch.tensor([0, 2])), model.prepare(cond.rows(torch.tensor([0, 2]))))


def check_same(a, b) -> None:
    for f in fields(a):
        mine, theirs = getattr(a, f.name), getattr(b, f.name)
        if isinstance(mine, Tensor):
            torch.testing.assert_close(mine, theirs)
        elif hasattr(mine, "__dataclass_fields__"):
            check_same(mine, theirs)


def test_rows_that_need_other_things_of_all_are_refused():
    model = build(*models()["llamagen"])
    cond = random_cond(model, 2)
    backwards = torch.arange(model.spec.positions).flip(0)
    prepared = model.prepare(cond)
    with pytest.raises(ValueError, match="rows of another rotation cannot be drawn together"):
        prepared.put(torch.tensor([0]), model.prepare(cond.rows(slice(0, 1)), backwards))


def test_guides_and_filters_of_rows_do_what_each_does_alone():
    torch.manual_seed(0)
    pred = torch.randn(6, 2, 40)
    for make in (ClassifierFree, lambda s: Projected(s, 0.3, 1.0)):
        together = make(torch.tensor(SCALES)).merge(pred)
        for i, scale in enumerate(SCALES):
            torch.testing.assert_close(together[i : i + 1], make(scale).merge(pred[i::3]))
    many = [*FILTERS, Filters(0.0), Filters(2.0, 39, 0.5), Filters(top_k=100, top_p=1.0)]
    logits = torch.randn(len(many), 2, 40)
    rows = RowFilters.of(many)(logits)
    for i, filters in enumerate(many):
        assert torch.equal(rows[i], filters(logits[i])), filters
    with pytest.raises(ValueError, match="all smooth, or none"):
        RowFilters.of([Filters(), Filters(smooth=True)])


@pytest.mark.parametrize("name", ["llamagen", "open_magvit2"])
@torch.inference_mode()
def test_a_model_without_positions_draws_other_grids(name):
    """As the model of that grid with the same weights."""
    module, config = CASES[name]
    model, oblong = build(module, config), build(module, config.with_known(grid=(3, 5)))
    cond, noise = random_cond(model, 2), Noise.request(5, 2)
    drawn = generate(model, cond, noise, Guidance(2.0), spec=oblong.spec)
    assert torch.equal(drawn, generate(oblong, cond, noise, Guidance(2.0)))
    assert drawn.shape == (2, 15, *model.spec.trailing)
    of_scales = replace(model.spec, grids=((1, 1), (2, 2)))
    for spec in (build(*CASES["fluid-raster-continuous"]).spec, of_scales):
        with pytest.raises(ValueError, match="this model draws TokenSpec"):
            generate(model, cond, noise, spec=spec)
    for other in ("rar", "var", "mar", "maskgit", "fluid", "fluid-raster"):
        fixed = build(*models()[other])
        with pytest.raises(ValueError, match="this model draws TokenSpec"):
            list(builders.stream(fixed, random_cond(fixed, 2), noise, spec=oblong.spec))

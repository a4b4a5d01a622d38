"""Pictures that are drawn together, each by its own request, are those that are drawn alone."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import build, models, random_codes, random_cond
from smalti.codes import Known
from smalti.engine import causal_lane, stream
from smalti.engine.running import Running, computes
from smalti.engine.step import Request, Step
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import shuffled
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

CASES = models()
FEW = Solver(steps="4")


def request_of(model, seed: int) -> Request:
    """A request of one picture, all of whose settings its seed decides."""
    chance = random.Random(seed)
    noise, spec = Noise.request(seed, 1, first=chance.randrange(5)), model.spec
    guidance = chance.choice(
        [
            Guidance(3.0, chance.choice(["constant", "linear"])),
            Guidance(1.5),
            Guidance(),
            Guidance(2.0, "interval", start=0.25, stop=0.75),
        ]
    )
    filters = Filters(chance.choice([1.0, 0.9]))
    if model.filtered:
        filters = chance.choice([filters, Filters(0.9, top_k=5), Filters(top_p=0.9)])
    more = {}
    if chance.random() < 0.3:
        mask = torch.rand(1, spec.positions, generator=torch.manual_seed(seed)) < 0.3
        more["known"] = Known(random_codes(spec, 1, seed), mask)
    if chance.random() < 0.2:
        more["negative"] = random_cond(model, 1, seed + 1)
    if model.any_order and model.draws_by == "causal" and chance.random() < 0.3:
        more["orders"] = shuffled(noise, spec.positions)
    if model.draws_by == "masked":
        steps = chance.choice([3, 4, spec.positions * model.parts])
        more["reveal"] = Reveal(steps, confidence=model.confidence)
        filters = chance.choice([filters, replace(filters, final_temperature=0.5)])
    cond = random_cond(model, 1, seed)
    return Request(cond, noise, guidance, filters, solver=FEW, **more)


def alone(model, request: Request) -> Tensor:
    *_, last = stream(model, request)
    return last.drawn


def same(model, codes: Tensor, expected: Tensor) -> bool:
    if model.spec.discrete and not codes.is_floating_point():
        return torch.equal(codes, expected)
    return torch.allclose(codes, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def drawn_together(model, requests: list[Request], seed: int, slots: int) -> list[Tensor]:
    """Requests that join at random steps, never more than `slots` at once; what each gave."""
    chance, running = random.Random(seed), Running(model)
    waiting, found, place = list(range(len(requests))), {}, {}
    while waiting or len(running):
        free = slots - len(running)
        some = [waiting.pop(0) for _ in range(min(free, chance.randrange(3), len(waiting)))]
        numbers = running.join([requests[i] for i in some])
        place |= dict(zip(numbers, some, strict=True))
        for number, step in running.step():
            assert isinstance(step, Step), step
            if step.done == step.total:
                found[place[number]] = step.drawn.clone()
    running.close()
    return [found[i] for i in range(len(requests))]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_requests_that_join_at_random_give_what_each_gives_alone(name, count):
    model = build(*CASES[name])
    requests = [request_of(model, seed) for seed in range(count)]
    together = drawn_together(model, requests, 0, 4)
    for request, codes in zip(requests, together, strict=True):
        assert same(model, codes, alone(model, request)), request


@pytest.mark.parametrize("name", ["llamagen", "var", "maskgit"])
def test_a_picture_that_leaves_changes_no_other(name):
    model = build(*CASES[name])
    requests = [replace(request_of(model, seed), guidance=Guidance(2.0)) for seed in range(3)]
    running = Running(model)
    numbers, found = running.join(requests), {}
    running.step()
    running.leave(numbers[1])
    running.leave(numbers[1])  # it has left
    while len(running):
        found |= {number: step.drawn.clone() for number, step in running.step()}
    assert set(found) == {numbers[0], numbers[2]}
    for i in (0, 2):
        assert same(model, found[numbers[i]], alone(model, requests[i]))


@pytest.mark.parametrize("name", ["llamagen", "maskgit", "mar"])
def test_what_is_wrong_with_one_fails_that_one(name):
    """A condition that is no number; others go on."""
    model = build(*CASES[name])
    requests = [replace(request_of(model, seed), guidance=Guidance(2.0)) for seed in range(3)]
    with torch.no_grad():
        model.reader.weight[3] = torch.nan
    conds = [requests[1].cond.of_labels(torch.tensor([n])) for n in (0, 3, 1)]
    requests = [
        replace(r, cond=c, negative=None, known=None) for r, c in zip(requests, conds, strict=True)
    ]
    running = Running(model)
    numbers, found = running.join(requests), {}
    while len(running):
        found |= dict(running.step())
    assert "must be finite numbers" in str(found[numbers[1]])
    for i in (0, 2):
        assert same(model, found[numbers[i]].drawn, alone(model, requests[i]))


def test_what_breaks_a_pass_fails_the_pictures_of_that_pass():
    model = build(*CASES["llamagen"])
    running = Running(model)
    guided = replace(request_of(model, 0), guidance=Guidance(2.0), orders=None)
    free = replace(guided, guidance=Guidance())
    (first,), (second,) = running.join([guided]), running.join([free])
    running.step()
    hidden, calls = model.hidden, []

    def broken(*args, **more):
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return hidden(*args, **more)

    model.hidden = broken
    found = dict(running.step())
    assert isinstance(found[first], RuntimeError) and isinstance(found[second], Step)
    assert len(running) == 1


@pytest.mark.parametrize("where", ["hidden", "behind"])
def test_what_breaks_the_first_pass_of_a_picture_fails_it_alone(where, monkeypatch):
    """Its pass, or that it is put behind the others; these go on as if nothing had been."""
    model = build(*CASES["llamagen"])
    running = Running(model)
    old, new = (
        replace(request_of(model, i), guidance=Guidance(2.0), orders=None, negative=None)
        for i in range(2)
    )
    (first,) = running.join([old])
    running.step()
    (second,) = running.join([new])
    with monkeypatch.context() as patched:
        target, calls = (model if where == "hidden" else causal_lane), []
        works = getattr(target, where)

        def broken(*args, **more):
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return works(*args, **more)

        patched.setattr(target, where, broken)
        found = dict(running.step())
    assert isinstance(found[second], RuntimeError) and len(running) == 1
    while len(running):
        found |= dict(running.step())
    assert same(model, found[first].drawn, alone(model, old))


def test_a_device_that_computes_no_more_is_known():
    error, dead = RuntimeError("CUDA error: an illegal memory access"), torch.device("meta")
    assert not computes(dead, error) and computes(torch.device("cpu"), error)
    assert computes(dead, ValueError("its own fault"))
    assert computes(dead, torch.OutOfMemoryError("too large"))


def test_alone_is_equal_to_the_bit():
    model = build(*CASES["fluid-raster-continuous"])
    requests = [request_of(model, seed) for seed in range(3)]
    running = Running(model, alone=True)
    numbers, found = running.join(requests), {}
    while len(running):
        found |= {number: step.drawn.clone() for number, step in running.step()}
    for number, request in zip(numbers, requests, strict=True):
        assert torch.equal(found[number], alone(model, request))


def test_requests_that_cannot_be_are_refused_and_none_begins():
    model = build(*CASES["llamagen"])
    good = request_of(model, 0)
    running = Running(model)
    two = Request(random_cond(model, 2), Noise.request(0, 2))
    bad = replace(good, filters=Filters(smooth=True))
    for wrong, why in ((two, "one picture, got 2"), (bad, "smooth is for multi-scale")):
        with pytest.raises(ValueError, match=why):
            running.join([good, wrong])
    assert len(running) == 0


@pytest.mark.parametrize("together", [True, False])
def test_ways_of_revealing_that_cannot_be_are_refused(together):
    """As `engine.stream` refuses them, also in lanes."""
    for name, changes, why in (
        ("mar", {"reveal": Reveal(4, confidence=1.0)}, "confidence 1.0 is for discrete codes"),
        ("maskgit", {"orders": True}, "an order is for models that reveal in one"),
        ("maskgit", {"refresh": 0}, "refresh must be at least 1, got 0"),
        ("maskgit", {"reveal": Reveal(10**6)}, "steps"),
    ):
        model = build(*CASES[name])
        good = request_of(model, 0)
        if "orders" in changes:
            changes = {"orders": shuffled(good.noise, model.spec.positions)}
        bad = replace(good, **changes)
        running = Running(model)
        with pytest.raises(ValueError, match=why):
            alone(model, bad)
        with pytest.raises(ValueError, match=why):
            running.join([good, bad] if together else [bad])
        assert len(running) == 0
        (number,) = running.join([good])
        found = {number: step.drawn for _ in range(99) for number, step in running.step()}
        assert torch.equal(found[number], alone(model, good))

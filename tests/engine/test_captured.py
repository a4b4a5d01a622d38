"""Recorded draws: the same codes as without, few recordings, and nothing that waits."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import build, causal_models, masked_models, models, random_codes, random_cond
from smalti.codes import Span
from smalti.devices.graphs import Recorded, form, mapped, recorder, tensors
from smalti.engine import LOOPS
from smalti.engine.captured import BOARDS, captured, recordings
from smalti.engine.parallel import Passes
from smalti.engine.step import Known, Request, Watch
from smalti.models import llamagen
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree, Guidance
from smalti.sampling.noise import Noise, SlotNoise, philox
from smalti.sampling.orders import order
from smalti.sampling.parallel import Parallel
from smalti.sampling.pruning import Pruning
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver
from tape import Waited, taped, waiting_for_nothing

B = 2
TURNS = [name for name, (_, c) in causal_models().items() if len(c.spec.grids) == 1]
"""Models that draw one position after another."""


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """What a CPU does at every step because it need not be waited for: no mask, a check, NumPy's
    sort and words."""
    monkeypatch.setattr("smalti.sampling.noise.random_words", philox)
    monkeypatch.setattr("smalti.models.mar.everywhere", lambda mask: False)
    monkeypatch.setattr(Watch, "see", lambda self, draw: None)
    sorted_there = lambda logits: logits.sort(descending=True).values  # noqa: E731
    monkeypatch.setattr("smalti.sampling.filters.descending", sorted_there)


def request(model, seed: int, batch: int = B, **more) -> Request:
    more = {"guidance": Guidance(3.0, "linear"), "solver": Solver(steps="3")} | more
    return Request(random_cond(model, batch, seed), Noise.request(seed, batch), **more)


def drawn(model, wish, record=None) -> tuple[Tensor, Tensor]:
    """Codes and log-probabilities, with draws recorded by `record`."""
    with captured(model, record) as drawer:
        steps = [(s.drawn.clone(), s.logp) for s in LOOPS[model.loop](drawer, wish)]
    return steps[-1][0], torch.cat([logp for _, logp in steps], 1)


def check(model, wish) -> None:
    """Recorded draws are what the model draws."""
    found, expected = drawn(model, wish, lambda: taped), drawn(model, wish)
    if model.spec.discrete and not model.solved:
        assert torch.equal(found[0], expected[0])
    size = expected[0].float().abs().max().item()
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4 * size)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", causal_models())
def test_recorded_draws_are_the_same(name):
    model = build(*causal_models()[name])
    for seed in (1, 2):
        check(model, request(model, seed, filters=Filters(1.2, 12, 0.9)))
    blocks = model.blocks()
    assert recordings(model) == (len(blocks) if max(blocks) > 1 else 2)


@pytest.mark.parametrize("name", masked_models())
def test_recorded_draws_of_masked_models_are_the_same(name):
    model = build(*masked_models()[name])
    for seed in (1, 2):
        check(model, request(model, seed, reveal=Reveal(steps=4, confidence=model.confidence)))
    assert recordings(model) == 4


@pytest.mark.parametrize("name", ["var", "infinity", "hart", "llamagen", "rar"])
def test_recorded_draws_that_lose_something_are_the_same(name):
    """Late layers keep what they gave; rows begin early."""
    model = build(*models()[name])
    ways = [Pruning((0.3, 0.5)), Pruning((0.5,), layers=1)] if model.prunes else [Pruning()]
    for pruning in ways:
        parallel = Parallel("off" if model.prunes else "zipar", 1)
        for seed in (1, 2):
            check(model, request(model, seed, pruning=pruning, parallel=parallel))


@pytest.mark.parametrize("name", [*TURNS, "var"])
def test_recorded_draws_go_on_alone_behind_the_last_guided_step(name):
    """With what their rows had in the cache; those of scales stay."""
    model = build(*models()[name])
    guidance = Guidance(3.0, "interval", stop=0.5)
    for seed in (1, 2):
        check(model, request(model, seed, guidance=guidance))
    rows = set[int]()
    with captured(model, lambda: taped) as drawer:
        draw = drawer.draw
        drawer.draw = lambda codes, cond, *more: (
            rows.add(cond.prepared.batch) or draw(codes, cond, *more)
        )
        assert list(LOOPS["causal"](drawer, request(model, 3, guidance=guidance)))
    assert rows == ({B, 2 * B} if name in TURNS else {2 * B})


@pytest.mark.parametrize("name", ["llamagen", "var", "mar", "fluid-raster-continuous"])
def test_recorded_draws_of_projected_guidance_are_the_same(name):
    """Its momentum is that of a solver's steps, and nothing that a recording would keep."""
    model = build(*models()[name])
    guidance = Guidance(3.0, parallel=0.3, rescale=2.0, momentum=-0.5)
    for seed in (1, 2):
        check(model, request(model, seed, guidance=guidance))


def test_one_picture_is_drawn_ahead_on_recordings_by_itself():
    model = build(*models()["llamagen"])
    for seed in (1, 2):
        check(model, request(model, seed, 1, parallel=Parallel("auto")))


@pytest.mark.slow
def test_a_recording_serves_many_steps_of_many_requests():
    model = build(llamagen.LlamaGen, replace(llamagen.tiny(), grid=(10, 20)))
    for more in ({}, {"guidance": Guidance(2.0)}, {"guidance": Guidance(2.0, "cosine")}):
        check(model, request(model, 3, 1, **more))
    assert recordings(model) == 1 + 4  # the first slot, and those below 64, 128, 192 and 200


def test_what_was_not_used_for_long_is_dropped():
    model = build(*models()["llamagen"])
    for batch in range(1, 4 + BOARDS):
        drawn(model, request(model, 1, batch), lambda: taped)
    assert recordings(model) == 2 * BOARDS


@pytest.mark.parametrize("name", ["llamagen", "rar", "var", "dnd", "llamagen-text"])
def test_what_is_given_may_change(name):
    """Known codes, orders, filters, a negative condition."""
    model = build(*models()[name])
    for seed in (1, 2, 3):
        mask = torch.rand(B, model.spec.positions) < 0.5
        known = Known(random_codes(model.spec, B, seed), mask)
        negative = random_cond(model, B, seed + 5)
        more = {"known": known, "negative": negative, "filters": Filters(1.0, 5)}
        if len(model.spec.grids) == 1:
            more["orders"] = order("random", model.config.grid, seed)
        check(model, request(model, seed, **more))


def test_weights_that_change_are_read_and_weights_that_move_are_recorded_anew():
    model = build(*models()["llamagen"])
    check(model, request(model, 1))
    with torch.no_grad():
        model.norm.weight.mul_(2)  # as training does
    check(model, request(model, 1))
    assert recordings(model) == 2
    for parameter in model.parameters():
        parameter.data = 0.5 * parameter.data
    check(model, request(model, 1))
    assert recordings(model) == 2


def test_a_drawing_that_is_left_and_one_beside_another():
    model = build(*models()["var"])
    wishes = [request(model, seed) for seed in (1, 2)]
    with captured(model, lambda: taped) as drawer:
        steps = LOOPS["causal"](drawer, wishes[0])
        next(steps), next(steps)
        check(model, wishes[1])  # which is not recorded: the recordings are in use
        assert recordings(model) == 2
    for wish in wishes:
        check(model, wish)
    assert recordings(model) == 3


def test_nothing_is_recorded_on_a_cpu_or_where_the_environment_says_so(monkeypatch):
    model = build(*models()["llamagen"])
    assert recorder(torch.device("cpu")) is None
    with captured(model) as drawer:
        assert drawer is model
    monkeypatch.setenv("SMALTI_GRAPHS", "0")
    with captured(model, lambda: taped) as drawer:
        assert drawer is model


@pytest.mark.parametrize("name", models())
def test_no_step_waits_for_the_device(name):
    """The loops too, behind their first step."""
    model = build(*models()[name])
    steps = LOOPS[model.loop](model, request(model, 1))
    next(steps)
    with waiting_for_nothing():
        assert list(steps)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.sum()),
        lambda x: int(x.sum()),
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.repeat_interleave(x.long()),
    ],
)
def test_what_waits_is_refused(wait):
    x = torch.arange(3.0)
    for refused in (lambda: taped(lambda: wait(x), lambda: None), waiting):
        with pytest.raises(Waited):
            refused() if refused is not waiting else waiting(wait, x)


def waiting(wait, x: Tensor) -> None:
    with waiting_for_nothing():
        wait(x)


def test_what_is_made_on_no_device_in_particular_is_refused():
    x = torch.arange(3.0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        taped(lambda: torch.arange(3.0).to(x.device) + x, lambda: None)


def test_records_are_walked_and_copied():
    noise = Noise.request(3, 2)
    record = ({"a": [noise, 1.5]}, Filters(0.5), Known(torch.ones(2, 3), torch.ones(2, 3) > 0))
    assert [t.shape for t in tensors(record)] == [(2,), (2,), (2, 3), (2, 3)]
    other = mapped(record, torch.zeros_like)
    assert form(other) == form(record) and hash(form(record))
    assert other[0]["a"][0].seeds.tolist() == [0, 0] and noise.seeds.tolist() == [3, 3]
    assert isinstance(other[2], Known) and other[1] == record[1] and other[0]["a"][1] == 1.5
    assert form(mapped(record, lambda t: t[:1])) != form(record)
    assert form(({"a": [noise, 2.5]}, *record[1:])) != form(record)


def test_a_recording_reads_what_is_given_and_runs_no_python():
    calls = []

    def function(given):
        calls.append(given)
        return given[0] * given[1] + 1

    x, y = torch.arange(3.0), torch.ones(3)
    recorded = Recorded(function, (x, y), taped, function)
    assert recorded.given.tolist() == [1, 2, 3] and len(calls) == 2
    assert recorded((x, 2 * y)).tolist() == [1, 3, 5] and len(calls) == 2


@pytest.mark.parametrize("name", ["llamagen", "rar", "dnd", "llamagen-text", "fluid-raster"])
@torch.inference_mode()
def test_a_window_of_slots_rides_on_recordings(name):
    """Of all rows the same, or of each its own; of codes that are there already."""
    model, guide = build(*models()[name]), ClassifierFree(2.0)
    cond, noise = random_cond(model, B), Noise.request(4, B)
    branches, codes = Guidance(2.0).branches(cond), random_codes(model.spec, B)
    found = list[list[Tensor]]()
    for record in (None, lambda: taped):
        with captured(model, record) as drawer:
            cache, prepared = drawer.cache(2 * B), drawer.prepare(branches)
            found.append([])
            for span in (
                Span(torch.arange(1), 1, 0),
                Span(torch.arange(1, 5), 5, 1),
                Span(torch.arange(5, 9), 9, 5),
                Span.rows(torch.tensor([[4, 5, 6], [8, 9, 10]]), 11),
                Span.rows(torch.tensor([[7, 8, 9], [11, 12, 13]]), 14),
            ):
                chance = Chance(guide, SlotNoise(noise, span.slots))
                found[-1].append(drawer.draw(codes, prepared, span, cache, chance).codes)
    torch.testing.assert_close(*found)
    assert recordings(model) == 3


@pytest.mark.parametrize("name", ["llamagen", "rar", "llamagen-depth"])
def test_codes_drawn_ahead_are_recorded(name):
    model = build(*models()[name])
    for seed in (1, 2):
        check(model, request(model, seed, parallel=Parallel("exact", 4)))
    assert recordings(model) <= 1 + 4 * 2  # widths at the end, rows together or apart
    with captured(model, lambda: taped) as drawer:
        assert drawer is not model


@pytest.mark.parametrize("name", ["llamagen", "rar-bits"])
def test_a_pass_that_draws_ahead_waits_for_nothing_but_how_far_it_came(name, monkeypatch):
    """With known codes, and rows that stand apart."""
    model, drawn = build(*models()[name]), Passes.drawn
    known = Known(random_codes(model.spec, B), torch.rand(B, model.spec.positions) < 0.3)
    wish = request(model, 1, known=known, parallel=Parallel("exact", 4))

    def unwaited(self, *given):
        with waiting_for_nothing():
            return drawn(self, *given)

    steps = LOOPS["causal"](model, wish)
    next(steps)
    monkeypatch.setattr(Passes, "drawn", unwaited)
    assert 4 <= len(list(steps)) < model.spec.positions


def test_a_cuda_graph_is_recorded_behind_the_same_computation_elsewhere(monkeypatch):
    """What CUDA is asked for, in which order."""
    said = list[str]()

    @contextmanager
    def entered(*what, **more):
        said.append(f"enter {what[0]} {' '.join(more)}".strip())
        yield
        said.append(f"leave {what[0]}")

    class Stream(str):
        def wait_stream(self, other):
            said.append(f"{self} waits for {other}")

    class Graph(str):
        def replay(self):
            said.append("replay")

    fakes = {
        "device": entered,
        "graph_pool_handle": lambda: "pool",
        "current_stream": lambda: Stream("here"),
        "Stream": lambda: Stream("beside"),
        "stream": entered,
        "CUDAGraph": lambda: Graph("graph"),
        "graph": entered,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    record = recorder(torch.device("cuda:1"))()
    assert said == ["enter cuda:1", "leave cuda:1"]
    said.clear()
    given, replay = record(lambda: said.append("step") or 5, lambda: said.append("warm"))
    assert given == 5
    assert said == [
        "enter cuda:1",
        *["beside waits for here", "enter beside", "warm", "leave beside", "here waits for beside"],
        *["enter graph pool capture_error_mode", "step", "leave graph", "replay"],
        "leave cuda:1",
    ]
    replay()
    assert said[-1] == "replay"

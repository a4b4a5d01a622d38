"""The loop: its spans, what it yields, and equality with a slow loop without a cache."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from builders import (
    build,
    causal_models,
    generate,
    of_each_value,
    random_codes,
    random_cond,
    stream,
)
from smalti.codes import Cond, Draw, Reads, TokenSpec
from smalti.engine.causal import spans
from smalti.engine.step import Known
from smalti.heads.bitwise import BitwiseHead
from smalti.heads.categorical import CategoricalHead
from smalti.models import var
from smalti.models.generator import Generator
from smalti.models.var import VAR
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters, draw, race
from smalti.sampling.guidance import ClassifierFree, Guidance
from smalti.sampling.noise import Noise, SlotNoise, hashed, racing
from smalti.sampling.orders import arrange, order, restore
from smalti.sampling.solvers import Solver
from smalti.tokenizers.multiscale_vqvae import VAR256
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, pyramid

CASES = causal_models()


def summary(blocks: list[int]) -> list[tuple[list[int], bool, int, int | None]]:
    return [(s.slots.tolist(), s.first, s.reach, s.start) for s in spans(blocks)]


def test_spans_of_a_raster():
    assert summary([1, 1, 1]) == [
        ([0], True, 1, 0),
        ([1], False, 2, 1),
        ([2], False, 3, 2),
    ]


def test_spans_of_a_pyramid():
    assert summary([1, 4, 9]) == [
        ([0], True, 1, 0),
        ([1, 2, 3, 4], False, 5, 1),
        (list(range(5, 14)), False, 14, 5),
    ]


@pytest.mark.parametrize("blocks", [[1, 0], [2, -1]])
def test_bad_spans(blocks):
    with pytest.raises(ValueError, match="blocks must be positive, got"):
        spans(blocks)


def slow_generate(model, cond, noise, guidance, filters, solver) -> tuple[Tensor, Tensor]:
    """Everything again at every step: no cache, the branches in two separate batches."""
    total = model.spec.positions
    (everything,) = spans([total])
    codes, logps = model.spec.empty(cond.batch), []
    blocks = model.blocks()
    by = racing if model.spec.discrete and len(blocks) == total else None
    for i, n in enumerate(blocks):
        new = slice(sum(blocks[:i]), sum(blocks[:i]) + n)
        scale = guidance.scale_at(i, len(blocks))
        if model.between:
            before = Known(codes, (everything.slots < new.start).expand(cond.batch, -1))
            numbers = SlotNoise(noise, everything.slots, by=by)
            chance = Chance(ClassifierFree(scale), numbers, filters, solver, before)
            both = model.prepare(Cond.cat([cond, cond.null()]))
            found = model.draw(codes, both, everything, None, chance)
            codes[:, new] = found.codes[:, new]
            logps.append(found.logp[:, new])
            continue
        hidden = [
            model.hidden(codes, model.prepare(c), everything)[:, new] for c in (cond, cond.null())
        ]
        if not isinstance(model.head, CategoricalHead | BitwiseHead):
            numbers = SlotNoise(noise, everything.slots[new], by=by)
            chance = Chance(ClassifierFree(scale), numbers, filters, solver)
            found = model.head.sample(torch.cat(hidden), chance)
            codes[:, new], logp = found.codes, found.logp
            logps.append(logp)
            continue
        both = [of_each_value(model, h) for h in hidden]
        filtered = filters(both[1] + scale * (both[0] - both[1]))
        slots, vocab = everything.slots[new], filtered.shape[-1]
        if by and isinstance(model.head, CategoricalHead):
            codes[:, new], logp = race(filtered, -hashed(noise.keys(slots), vocab).log())
        else:
            width = model.spec.channels * max(model.spec.depth, 1)
            codes[:, new], logp = draw(filtered, noise.uniform(slots, width))
        logps.append(logp.flatten(2).sum(2) if logp.dim() == 3 else logp)
    return restore(codes, model.order()), torch.cat(logps, 1)


@pytest.mark.parametrize("name", CASES)
def test_equals_a_slow_loop_without_a_cache(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    guidance, few = Guidance(3.0, "linear"), Solver(steps="4")
    filters = Filters(1.2, top_k=12, top_p=0.9)
    steps = list(stream(model, cond, noise, guidance, filters, solver=few))
    codes, logp = slow_generate(model, cond, noise, guidance, filters, few)
    drawn = torch.cat([s.logp for s in steps], 1)
    if model.spec.discrete:
        assert torch.equal(steps[-1].codes, codes)
        torch.testing.assert_close(drawn, logp, rtol=0, atol=1e-4)
    else:
        rounding = 1e-4 * codes.abs().max().item()
        torch.testing.assert_close(steps[-1].codes, codes, rtol=0, atol=rounding)
        assert drawn.isnan().all()
    again = generate(model, cond, noise, guidance, filters, solver=few)
    assert torch.equal(again, steps[-1].codes)


def test_stream_yields_the_codes_so_far():
    model = build(*CASES["llamagen"])
    cond, noise, total = random_cond(model, 2), Noise.request(5, 2), model.spec.positions
    final = generate(model, cond, noise)
    seen = []
    for step in stream(model, cond, noise):
        assert not torch.is_inference_mode_enabled(), "the caller's mode is its own"
        assert (step.done, step.total) == (len(seen) + 1, total)
        assert step.ready.nonzero()[-1].item() == step.done - 1 == step.ready.sum() - 1
        assert step.logp.shape == (2, 1)
        seen.append(step.codes.clone())
    assert len(seen) == total
    for i, codes in enumerate(seen):
        assert torch.equal(codes[:, : i + 1], final[:, : i + 1])
        assert not codes[:, i + 1 :].any()


@pytest.mark.parametrize("scales", [VAR256, pyramid(1, 2, 3), ((1, 2), (2, 3), (3, 5))])
def test_a_pyramid_takes_a_pass_for_each_scale_and_no_slot_twice(scales):
    model = build(VAR, replace(var.tiny(), scales=scales))
    inputs = {module: [] for module in (*model.layers, model.head.proj)}
    for module, seen in inputs.items():
        module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape))
    quantized = count_calls(model.quantize, "add", "shrink")
    generate(model, random_cond(model, 2), Noise.request(5, 2), Guidance(3.0))
    sizes = [h * w for h, w in scales]
    for seen in inputs.values():
        assert [tuple(shape) for shape in seen] == [(4, n, 32) for n in sizes]
    assert sum(model.blocks()) == model.spec.positions
    read = list(range(len(scales)))
    assert quantized == {"add": read[:-1], "shrink": read[1:]}, "each scale is added once"


def count_calls(quantizer: MultiScaleQuantizer, *names: str) -> dict[str, list[int]]:
    """The scales that methods are called for from here on, their last argument."""
    calls: dict[str, list[int]] = {name: [] for name in names}

    def watched(inner, seen):
        return lambda *args: (seen.append(args[-1]), inner(*args))[1]

    for name, seen in calls.items():
        setattr(quantizer, name, watched(getattr(quantizer, name), seen))
    return calls


class Toy(Generator):
    """A pyramid of residual codes without weights: a code is its uniform number."""

    spec = TokenSpec(((1, 1), (2, 2), (3, 3)), vocab=50, depth=2)
    reads = Reads(5)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[SimpleNamespace] = []

    def prepare(self, cond: Cond, orders=None, spec=None) -> Cond:
        return cond

    def cache(self, batch: int, spec=None) -> SimpleNamespace:
        return SimpleNamespace(batch=batch)

    def draw(self, codes, cond, span, cache, chance) -> Draw:
        call = SimpleNamespace(codes=codes.clone(), cond=cond, cache=cache, guide=chance.guide)
        self.calls.append(call)
        new = (chance.noise.uniform(2).view(len(codes), len(span.slots), 2) * 50).long()
        return Draw(new, torch.zeros(new.shape[:2]), torch.zeros(1))


def test_a_pyramid_of_residual_codes():
    toy, noise = Toy(), Noise.request(5, 3)
    codes = generate(toy, Cond(labels=torch.arange(3)), noise, Guidance(3.0, "linear"))
    expected = (noise.uniform(torch.arange(14), 2) * 50).long()
    assert torch.equal(codes, expected) and codes.shape == (3, 14, 2)
    assert [call.guide.scale for call in toy.calls] == [1.0, 2.0, 3.0]
    for call, end in zip(toy.calls, (0, 1, 5), strict=True):
        assert torch.equal(call.codes[:, :end], expected[:, :end])
        assert not call.codes[:, end:].any()
        assert call.cache is toy.calls[0].cache and call.cache.batch == 6
        assert call.cond.drop.tolist() == [False] * 3 + [True] * 3
    toy = Toy()
    generate(toy, Cond(labels=torch.arange(3)), noise)
    assert toy.calls[0].cache.batch == 3, "without guidance there is one branch"


def test_known_residual_codes_are_seen_by_the_next_blocks():
    toy, noise = Toy(), Noise.request(5, 2)
    cond = Cond(labels=torch.arange(2))
    given, mask = random_codes(toy.spec, 2), torch.rand(2, 14) < 0.5
    codes = generate(toy, cond, noise, known=Known(given, mask))
    free = generate(Toy(), cond, noise)
    assert torch.equal(codes, torch.where(mask[..., None], given, free))
    assert torch.equal(toy.calls[2].codes[:, :5], codes[:, :5])


def test_bad_input():
    model = build(*CASES["llamagen"])
    cond, noise = random_cond(model, 2), Noise.request(0, 2)
    with pytest.raises(ValueError, match="noise has 3 rows for a batch of 2"):
        generate(model, cond, Noise.request(0, 3))
    with pytest.raises(ValueError, match="negative has 3 rows for a batch of 2"):
        generate(model, cond, noise, Guidance(2.0), negative=random_cond(model, 3))
    mask = torch.zeros(2, 16, dtype=torch.bool)
    for shape in ((2, 15), (1, 16), (2, 16, 1)):
        known = Known(torch.zeros(shape).long(), mask)
        with pytest.raises(ValueError, match=r"known codes must be \(2, 16\), got"):
            generate(model, cond, noise, known=known)
    with pytest.raises(ValueError, match="class-conditional: give labels"):
        generate(model, Cond(drop=torch.zeros(2, dtype=torch.bool)), noise)
    texts = build(*CASES["llamagen-text"])
    with pytest.raises(ValueError, match="text-conditional: give text and text_mask"):
        generate(texts, cond, noise)
    with pytest.raises(ValueError, match="has no batch size"):
        generate(model, Cond(), noise)


ORDERED = [
    name for name, (_, config) in CASES.items() if hasattr(config, "order") and config.spec.discrete
]


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("each", [False, True])
def test_an_order_decides_what_is_drawn_when(name, each):
    model = build(*CASES[name])
    cond, noise, total = random_cond(model, 3), Noise.request(5, 3), model.spec.positions
    orders = torch.stack([order("random", model.config.grid, seed) for seed in (1, 2, 3)])
    orders = orders if each else orders[0]
    rows = orders.expand(3, total)
    steps = [(s.codes.clone(), s.logp) for s in stream(model, cond, noise, orders=orders)]
    (last, _), final = steps[-1], arrange(steps[-1][0], rows)
    for i, (codes, _) in enumerate(steps):
        drawn = arrange(codes, rows)
        assert not drawn[:, i + 1 :].any(), "cells to come are zero"
        assert torch.equal(drawn[:, : i + 1], final[:, : i + 1])
    logp = torch.cat([logp for _, logp in steps], 1)
    with torch.no_grad():
        loss = arrange(model.loss(last, cond, orders=orders), orders)
    torch.testing.assert_close(-logp, loss, rtol=0, atol=1e-4)
    guided = generate(model, cond, noise, Guidance(3.0), orders=orders)
    for i in range(3):
        one = orders[i : i + 1] if each else orders
        alone = Noise(noise.seeds[i : i + 1], noise.index[i : i + 1])
        row = generate(model, cond.rows(slice(i, i + 1)), alone, Guidance(3.0), orders=one)
        assert torch.equal(row[0], guided[i])


@pytest.mark.parametrize("name", ORDERED)
def test_known_codes_are_given_row_by_row_whatever_the_order(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    given, mask = random_codes(model.spec, 3), torch.rand(3, model.spec.positions) < 0.5
    orders = torch.stack([order("random", model.config.grid, seed) for seed in (1, 2, 3)])
    codes = generate(model, cond, noise, known=Known(given, mask), orders=orders)
    assert torch.equal(codes[mask], given[mask])
    assert not torch.equal(codes[~mask], given[~mask])


def test_orders_that_are_none_are_refused():
    model = build(*CASES["rar"])
    cond, noise, total = random_cond(model, 2), Noise.request(5, 2), model.spec.positions
    twice = torch.zeros(total, dtype=torch.int64)
    with pytest.raises(ValueError, match="not a permutation: 1 is missing, 0 is there again"):
        generate(model, cond, noise, orders=twice)
    with pytest.raises(ValueError, match=r"orders must be \(N,\) or \(2, N\), got \(3, 16\)"):
        generate(model, cond, noise, orders=torch.arange(total).expand(3, total))
    with pytest.raises(ValueError, match="smooth is for multi-scale models"):
        generate(model, cond, noise, filters=Filters(smooth=True))


@pytest.mark.parametrize("name", CASES)
def test_projected_guidance_serves_every_head(name):
    """Also heads that merge things of several sizes at one step."""
    model = build(*CASES[name])
    guidance = Guidance(3.0, parallel=0.3, rescale=2.0, momentum=-0.5)
    few = {"solver": Solver(steps="3")} if model.solved else {}
    cond, noise = random_cond(model, 2), Noise.request(1, 2)
    drawn = generate(model, cond, noise, guidance, **few)
    assert drawn.shape == model.spec.shape(2)
    assert torch.equal(drawn, generate(model, cond, noise, guidance, **few))

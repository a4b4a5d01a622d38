"""What every registered masked model promises, at its tiny size with random weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import builders
import close
from builders import build, masked_models, random_codes, random_cond
from smalti import modules
from smalti.codes import Cond, Turn
from smalti.engine.step import Known
from smalti.modules import load_module, save_module
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import known_first, shuffled
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver

B = 3
CASES = masked_models()
EASY = Solver(steps="3,2,1,0")
"""Few steps of continuous codes, of which the noisiest are left out: a head with random weights
would blow up what it starts from there."""


def stream(*arguments, **more):
    return builders.stream(*arguments, solver=EASY, **more)


def generate(*arguments, **more) -> Tensor:
    return builders.generate(*arguments, solver=EASY, **more)


@pytest.fixture(params=CASES, scope="module")
def model(request):
    return build(*CASES[request.param])


def same(a: Tensor, b: Tensor) -> bool:
    """Equal codes; continuous ones within rounding."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool((a - b).abs().max() <= 1e-3 * b.abs().max())


def units(model) -> int:
    """What is hidden by itself: positions, or their parts."""
    return model.spec.positions * model.parts


def some(count: int, share: float, rows: int) -> Tensor:
    """The same share of so many in each row, other ones in each, (rows, count) bool."""
    order = shuffled(Noise.request(9, rows), count)
    return torch.zeros(rows, count, dtype=torch.bool).scatter(
        1, order[:, : int(share * count)], True
    )


def some_known(model, share: float = 0.5, rows: int = B) -> Tensor:
    """Which units are known, as many in each row."""
    return some(units(model), share, rows)


@torch.no_grad()
def hidden(model, given: Tensor, cond: Cond, known: Tensor, wanted=None, reach=None) -> Tensor:
    """Of units that are given."""
    reach = int(known.sum(1).max()) if reach is None else reach
    return model.hidden(given, model.prepare(cond), Turn(known, wanted, reach))


def random_units(model, seed: int = 0) -> Tensor:
    return model.split(random_codes(model.spec, B, seed=seed))


def ways(model) -> list[Reveal]:
    """Every way in which the model can be asked to reveal."""
    found = [Reveal(), Reveal(1), Reveal(3, "linear"), Reveal(schedule="0.9,0.4,0.1,0")]
    if model.spec.discrete:
        found += [Reveal(4, confidence=2.0), Reveal(3, "meissonic", confidence=0.0)]
    return found


def test_hidden_reads_known_codes_alone(model):
    codes, cond, known = random_units(model), random_cond(model, B), some_known(model)
    other = random_units(model, seed=1)
    before = hidden(model, codes, cond, known)
    assert before.shape[:2] == (B, units(model))
    shown = known.view(*known.shape, *[1] * (codes.dim() - 2))
    after = hidden(model, torch.where(shown, codes, other), cond, known)
    close.values(after, before, model)
    changed = hidden(model, torch.where(shown, other, codes), cond, known)
    assert ((changed - before)[~known].abs().amax(-1) > 1e-3).all(), "all known ones are read"


def test_wanted_positions_are_rows_of_all(model):
    codes, cond, known = random_units(model), random_cond(model, B), some_known(model)
    everything = hidden(model, codes, cond, known)
    wanted = shuffled(Noise.request(2, B), units(model))[:, :5]
    rows = everything.gather(1, wanted[..., None].expand(-1, -1, everything.shape[-1]))
    found = hidden(model, codes, cond, known, wanted)
    close.values(found, rows, model)


def test_rows_may_know_different_numbers_and_reach_may_be_larger(model):
    codes, cond, n = random_units(model), random_cond(model, B), units(model)
    known = torch.arange(n) < torch.tensor([0, 3, n - 1])[:, None]
    together = hidden(model, codes, cond, known)
    close.values(hidden(model, codes, cond, known, reach=n), together, model)
    for i in range(B):
        row = slice(i, i + 1)
        alone = hidden(model, codes[row], cond.rows(row), known[row])
        close.values(alone, together[row], model)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_row_does_not_depend_on_its_batch(model, scale, every):
    cond = random_cond(model, B)
    noise = Noise(torch.tensor([1, -2, 3]), torch.tensor([0, 7, 0]))
    guidance, filters = Guidance(scale, "linear"), Filters(1.1, top_k=20, top_p=0.95)
    for way, reveal in enumerate(ways(model)):
        codes = generate(model, cond, noise, guidance, filters, reveal=reveal)
        for i in range(B) if every else (way % B,):  # of each way another row, or all
            row = slice(i, i + 1)
            alone = Noise(noise.seeds[row], noise.index[row])
            one = generate(model, cond.rows(row), alone, guidance, filters, reveal=reveal)
            assert same(one, codes[row])


def test_same_noise_same_codes(model):
    cond = random_cond(model, B)
    codes = generate(model, cond, Noise.request(3, B))
    assert codes.shape == model.spec.shape(B) and codes.dtype == model.spec.empty(1).dtype
    assert torch.equal(codes, generate(model, cond, Noise.request(3, B)))
    assert not same(codes, generate(model, cond, Noise.request(4, B)))
    one = cond.rows(slice(0, 1))
    twice = generate(model, Cond.cat([one, one]), Noise.request(3, 2))
    assert not same(twice[0], twice[1]), "two images of a request are different"


def test_guidance_1_equals_no_guidance_and_3_is_something_else(model):
    cond, noise = random_cond(model, B), Noise.request(5, B)
    free = generate(model, cond, noise)
    off = Guidance(2.0, "interval", start=0.0, stop=0.001)  # two branches, without effect
    assert same(generate(model, cond, noise, off), free)
    assert not same(generate(model, cond, noise, Guidance(3.0)), free)
    assert not same(generate(model, cond.null(), noise), free)
    if model.spec.discrete:  # a diffusion head takes its variance from the condition's branch
        none = generate(model, cond, noise, Guidance(0.0))
        assert same(none, generate(model, cond.null(), noise))


def test_every_step_shows_more_and_nothing_changes_again(model):
    cond, noise, n = random_cond(model, B), Noise.request(3, B), model.spec.positions
    for reveal in ways(model):
        left = reveal.left(units(model), reveal.count(units(model)))
        before, ready = model.spec.empty(B), torch.zeros(B, n, dtype=torch.bool)
        for step, hidden_now in zip(stream(model, cond, noise, reveal=reveal), left, strict=True):
            assert not torch.is_inference_mode_enabled(), "the caller's mode is its own"
            left_out = (~step.ready).sum(1)  # of positions that have several parts, some part is
            assert (left_out <= hidden_now).all() and (left_out * model.parts >= hidden_now).all()
            assert step.ready[ready].all() and step.total == len(left)
            assert torch.equal(step.codes[ready], before[ready])
            assert model.parts > 1 or not step.codes[~step.ready].any()
            before, ready = step.codes.clone(), step.ready.clone()
        assert ready.all()


def test_known_codes_come_out_unchanged_and_the_others_react(model):
    cond, noise = random_cond(model, B), Noise.request(3, B)
    free = generate(model, cond, noise)
    mask = some(model.spec.positions, 0.4, B)
    mask[0] = False  # each row has its own mask
    for reveal in ways(model):
        results = []
        for seed in (1, 2):
            given = random_codes(model.spec, B, seed=seed)
            out = generate(model, cond, noise, known=Known(given, mask), reveal=reveal)
            assert torch.equal(out[mask], given[mask])
            results.append(out)
        if reveal == Reveal():
            assert same(results[0][0], free[0])
        assert not torch.equal(results[0][1:][~mask[1:]], results[1][1:][~mask[1:]])
    everything = Known(given, torch.ones_like(mask))
    assert torch.equal(generate(model, cond, noise, known=everything), given)


def test_a_given_order_is_followed(model):
    cond, noise, n = random_cond(model, B), Noise.request(3, B), model.spec.positions
    backwards = torch.arange(n).flip(0)
    reveal = Reveal(n, "linear")
    for i, step in enumerate(stream(model, cond, noise, orders=backwards, reveal=reveal)):
        assert torch.equal(step.ready[0], torch.arange(n) >= n - 1 - i)
    mask = some(n, 0.3, B)
    known, orders = Known(random_codes(model.spec, B), mask), shuffled(noise, n)
    expected = known_first(orders, mask)
    count = int(mask[0].sum())
    reveal = Reveal(n - count, "linear")
    steps = stream(model, cond, noise, known=known, orders=orders, reveal=reveal)
    for i, step in enumerate(steps):
        for row in range(B):
            ready = step.ready[row].nonzero().flatten().tolist()
            assert ready == sorted(expected[row, : count + i + 1].tolist())


@torch.no_grad()
def test_loss_is_0_at_known_positions_and_does_not_depend_on_the_batch(model):
    codes, cond, known = random_codes(model.spec, B), random_cond(model, B), some_known(model)
    loss = model.loss(codes, cond, known=known)
    assert loss.shape == (B, units(model)) and loss.dtype == torch.float32
    assert loss.isfinite().all() and not loss[known].any() and (loss[~known] != 0).all()
    noise = Noise.request(0, B)
    for i in range(B):
        row = slice(i, i + 1)
        alone = model.loss(
            codes[row],
            cond.rows(row),
            known=known[row],
            noise=Noise(noise.seeds[row], noise.index[row]),
        )
        torch.testing.assert_close(alone, loss[row], rtol=1e-4, atol=1e-4)
    nothing = torch.zeros_like(known)
    assert torch.equal(model.loss(codes, cond), model.loss(codes, cond, known=nothing))


@pytest.mark.parametrize("name", [n for n, (_, c) in CASES.items() if getattr(c, "vocab", 0)])
@torch.no_grad()
def test_drawing_agrees_with_the_loss(name):
    """log p of codes that are drawn in one step is what the loss says of them."""
    model = build(*CASES[name])
    cond, noise = random_cond(model, B), Noise.request(3, B)
    (step,) = stream(
        model, cond, noise, reveal=Reveal(1), orders=torch.arange(model.spec.positions)
    )
    loss = model.loss(step.codes, cond)
    close.values(-step.logp, loss, model)


@torch.no_grad()
def test_a_dropped_condition_changes_the_loss_and_hides_what_it_was(model):
    codes, cond, known = random_codes(model.spec, B), random_cond(model, B), some_known(model)
    other = random_cond(model, B, seed=1)
    if cond.text_mask is not None:
        other = replace(other, text_mask=cond.text_mask)
    else:
        other = Cond(labels=(cond.labels + 1) % model.config.classes)
    loss, dropped = (model.loss(codes, c, known=known) for c in (cond, cond.null()))
    assert ((loss - dropped).abs().amax(1) > 1e-3).all()
    hidden_other = model.loss(codes, other.null(), known=known)
    torch.testing.assert_close(dropped, hidden_other, rtol=1e-4, atol=1e-4)
    some = torch.tensor([True, False, True])
    mixed = model.loss(codes, cond.dropped(some), known=known)
    torch.testing.assert_close(mixed[some], dropped[some], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[~some], loss[~some], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_training(name):
    """From its own initialisation: the loss falls within 30 steps and every parameter moves."""
    torch.manual_seed(0)
    module, config = CASES[name]
    model = module(config).train()
    codes, known = random_codes(model.spec, 4), some_known(model, rows=4)
    cond = random_cond(model, 4).dropped(torch.tensor([True, False, False, False]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses, moved = [], set()
    for step in range(30):
        noise = Noise.request(step, 4) if not model.spec.discrete else None
        loss = model.loss(codes, cond, known=known, noise=noise).sum() / (~known).sum()
        optimizer.zero_grad()
        loss.backward()
        for key, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            largest = torch.linalg.vector_norm(parameter.grad, math.inf).item()
            assert math.isfinite(largest), key
            if largest > 1e-9:
                moved.add(key)
        optimizer.step()
        losses.append(loss.item())
    if model.spec.discrete:
        bits = model.spec.bits / model.parts
        assert losses[0] == pytest.approx(bits * math.log(2), abs=0.1)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
    # the query of a key does not see its constant part
    assert moved >= {key for key, _ in model.named_parameters() if not key.endswith("k_norm.bias")}


@torch.no_grad()
def test_save_and_load_give_the_same_outputs(model, tmp_path):
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    mark = save_module(model, tmp_path / "model")
    loaded, info = load_module(tmp_path / "model", modules.MODELS)
    assert info["fingerprint"] == mark and loaded.config == model.config
    close.weights(loaded, model)
    close.values(loaded.loss(codes, cond), model.loss(codes, cond), model)
    noise = Noise.request(3, B)
    assert same(generate(loaded, cond, noise), generate(model, cond, noise))


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(model, tmp_path):
    codes, cond, known = random_codes(model.spec, B), random_cond(model, B), some_known(model)
    save_module(model, tmp_path / "model")
    half, _ = load_module(tmp_path / "model", modules.MODELS, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    loss, exact = (m.loss(codes, cond, known=known) for m in (half, model))
    assert loss.dtype == torch.float32
    assert (loss - exact).abs().mean() < 0.05 * exact[~known].abs().mean()
    drawn = generate(half, cond, Noise.request(3, B), Guidance(2.0))
    assert drawn.dtype == model.spec.empty(1).dtype
    assert drawn.isfinite().all() if drawn.is_floating_point() else drawn.max() < model.spec.vocab


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reveal": Reveal(1000)}, "steps must be at most"),
        ({"refresh": 0}, "refresh must be at least 1, got 0"),
        ({"filters": Filters(smooth=True)}, "smooth is for multi-scale models"),
        ({"orders": torch.arange(2)}, "must be"),
    ],
)
def test_bad_requests(model, more, message):
    with pytest.raises(ValueError, match=message):
        generate(model, random_cond(model, B), Noise.request(0, B), **more)


def test_confidence_is_for_discrete_codes(model):
    ask = {"reveal": Reveal(confidence=1.0)}
    order = torch.arange(model.spec.positions)
    message = "an order is for models" if model.spec.discrete else "confidence 1.0 is for discrete"
    with pytest.raises(ValueError, match=message):
        generate(model, random_cond(model, B), Noise.request(0, B), orders=order, **ask)

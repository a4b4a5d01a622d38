"""What every causal model promises, at its tiny size with random weights."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import close
from builders import (
    build,
    causal_models,
    generate,
    of_each_value,
    random_codes,
    random_cond,
    stream,
)
from smalti import modules
from smalti.codes import Cond, Span
from smalti.engine.causal import spans
from smalti.engine.step import Known
from smalti.heads.bitwise import BitwiseHead
from smalti.heads.categorical import CategoricalHead
from smalti.modules import load_module, save_module
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree, Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, restore
from smalti.sampling.solvers import Solver

B = 3
CASES = causal_models()
FEW = Solver(steps="4")  # continuous codes need no more to be told apart


@pytest.fixture(params=CASES, scope="module")
def model(request):
    return build(*CASES[request.param])


def whole(model) -> Span:
    (span,) = spans([model.spec.positions])
    return span


def ends(model) -> list[tuple[int, int]]:
    """First slot and end of each block."""
    steps = [span.slots.tolist() for span in spans(model.blocks())]
    return [(slots[0], slots[-1] + 1) for slots in steps]


@torch.no_grad()
def full_hidden(model, codes: Tensor, cond: Cond) -> Tensor:
    return model.hidden(codes, model.prepare(cond), whole(model))


def in_order(model, values: Tensor) -> Tensor:
    """Row-major values in the model's own order."""
    return arrange(values, model.order())


def learned(model) -> dict[str, nn.Parameter]:
    """What training moves."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def visible(name: str) -> bool:
    """Softmax does not see a constant in the keys."""
    return not name.endswith("k_norm.bias")


class Constant:
    """Both branches at one scale, even where `Guidance` would compute only one."""

    off = False

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def alone(self, step: int, steps: int) -> bool:
        return False

    def branches(
        self, cond: Cond, negative: Cond | None = None, pictures: Cond | None = None
    ) -> Cond:
        assert pictures is None
        return Cond.cat([cond, cond.null() if negative is None else negative])

    def at(self, step: int, steps: int) -> ClassifierFree:
        return ClassifierFree(self.scale)


def drawn(model, cond, noise, guidance=None, filters=None, known=None) -> tuple[Tensor, Tensor]:
    """Codes and log-probabilities of a whole generation."""
    steps = list(stream(model, cond, noise, guidance, filters, known, solver=FEW))
    return steps[-1].codes, torch.cat([step.logp for step in steps], 1)


def equal(model, codes: Tensor, expected: Tensor) -> bool:
    """Whether drawn codes are the same: ids exactly, continuous ones but for rounding."""
    if model.spec.discrete:
        return torch.equal(codes, expected)
    rounding = 1e-4 * expected.abs().max().item()  # random weights draw large numbers
    return torch.allclose(codes, expected, rtol=0, atol=rounding)


def check_logp(model, logp: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    """Log-probabilities are close, of logits u + s * (c - u) with this s; a diffusion head has
    none."""
    if model.spec.discrete:
        largest = expected.abs().max().item()
        close.values(logp, expected, model, size=largest * max(1, 2 * scale - 1))
    else:
        assert logp.isnan().all() and expected.isnan().all()


def check_codes(model, codes: Tensor) -> None:
    """Codes are some that the spec allows."""
    assert codes.shape == model.spec.shape(len(codes)) and codes.dtype == model.spec.empty(1).dtype
    if model.spec.discrete:
        assert 0 <= codes.min() and codes.max() < model.spec.vocab
    else:
        assert codes.isfinite().all() and codes.std() > 0.1


def head_loss(model, hidden: Tensor, codes: Tensor) -> Tensor:
    """The loss (B, N) of hidden states and codes in the model's own order, at its own noise."""
    if model.spec.discrete:
        return model.head.loss(hidden, codes)
    return model.head.loss(hidden, codes, SlotNoise.of(None, codes, whole(model).slots))


def test_blocks_cover_the_spec(model):
    assert sum(model.blocks()) == model.spec.positions


@torch.no_grad()
def test_cached_hidden_equals_full_and_reads_only_earlier_codes(model):
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    expected = full_hidden(model, codes, cond)
    prepared, cache = model.prepare(cond), model.cache(B)
    seen = random_codes(model.spec, B, seed=1)  # what is not drawn yet is arbitrary
    for span in spans(model.blocks()):
        h = model.hidden(seen, prepared, span, cache)
        close.values(h, expected[:, span.slots], model)
        seen[:, span.slots] = codes[:, span.slots]


def test_no_code_leaks_into_its_own_or_an_earlier_block(model):
    codes, other = random_codes(model.spec, B), random_codes(model.spec, B, seed=1)
    cond = random_cond(model, B)
    before = full_hidden(model, codes, cond)
    for start, end in ends(model):
        changed = other
        if model.spec.discrete:
            changed = torch.where(codes == other, (other + 1) % model.spec.vocab, other)
        after = full_hidden(model, torch.cat((codes[:, :start], changed[:, start:]), 1), cond)
        close.values(after[:, :end], before[:, :end], model)
        if end < model.spec.positions:
            moved = (after[:, end:] - before[:, end:]).abs().amax((0, 2))
            assert (moved > 1e-3).all(), "later slots must read the code"


def test_guidance_1_equals_no_guidance(model):
    cond, noise = random_cond(model, B), Noise.request(5, B)
    codes, logp = drawn(model, cond, noise)
    guided, guided_logp = drawn(model, cond, noise, Constant(1.0))
    assert equal(model, codes, guided)
    check_logp(model, logp, guided_logp)
    off, off_logp = drawn(model, cond, noise, Guidance(1.0))
    assert torch.equal(codes, off)
    assert torch.equal(logp, off_logp) or not model.spec.discrete


def test_guidance_0_equals_no_condition_and_3_is_something_else(model):
    cond, noise = random_cond(model, B), Noise.request(5, B)
    codes, logp = drawn(model, cond.null(), noise)
    guided, guided_logp = drawn(model, cond, noise, Constant(0.0))
    if not hybrid(model):  # its diffusion takes the variance from the condition's branch
        assert equal(model, codes, guided)
        check_logp(model, logp, guided_logp)
    strong, _ = drawn(model, cond, noise, Guidance(3.0))
    same, _ = drawn(model, cond, noise, Constant(3.0))
    assert equal(model, strong, same)
    assert not torch.equal(strong, codes)
    assert not torch.equal(strong, drawn(model, cond, noise)[0])


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_row_does_not_depend_on_its_batch(model, scale):
    cond = random_cond(model, B)
    noise = Noise(torch.tensor([1, -2, 3]), torch.tensor([0, 7, 0]))
    guidance = Guidance(scale)
    filters = Filters(1.1, top_k=20, top_p=0.95)
    codes, logp = drawn(model, cond, noise, guidance, filters)
    for i in range(B):
        row = slice(i, i + 1)
        alone = Noise(noise.seeds[row], noise.index[row])
        one, one_logp = drawn(model, cond.rows(row), alone, guidance, filters)
        assert equal(model, one, codes[row])
        check_logp(model, one_logp, logp[row], scale)


def test_same_noise_same_codes(model):
    cond = random_cond(model, B)

    def drawn(seed: int) -> Tensor:
        return generate(model, cond, Noise.request(seed, B), solver=FEW)

    codes = drawn(3)
    check_codes(model, codes)
    assert torch.equal(codes, drawn(3))
    assert not equal(model, codes, drawn(4))
    one = cond.rows(slice(0, 1))
    twice = generate(model, Cond.cat([one, one]), Noise.request(3, 2), solver=FEW)
    assert not equal(model, twice[0], twice[1]), "two images of a request are different"


def test_known_codes_come_out_unchanged_and_the_others_react(model):
    cond, noise = random_cond(model, B), Noise.request(3, B)
    free = generate(model, cond, noise, solver=FEW)
    starts = ends(model)
    mask = torch.zeros(B, model.spec.positions, dtype=torch.bool)
    first = starts[len(starts) // 3][0]
    mask[:, first::3] = True
    mask = restore(mask, model.order())
    mask[0] = False  # each row has its own mask
    results = []
    for seed in (1, 2):
        given = random_codes(model.spec, B, seed=seed)
        out = generate(model, cond, noise, solver=FEW, known=Known(given, mask))
        assert torch.equal(out[mask], given[mask])
        assert torch.equal(out[0], free[0])
        before = [in_order(model, x)[:, :first] for x in (out, free)]
        assert torch.equal(*before), "the past does not know the future"
        results.append(out)
    assert not torch.equal(results[0][1:][~mask[1:]], results[1][1:][~mask[1:]])


@torch.no_grad()
def test_codes_beside_known_ones_are_drawn_from_them(model):
    """log p of what is drawn is what the loss says of it given the known codes, not what would have
    been drawn in their place."""
    cond, given = random_cond(model, B), random_codes(model.spec, B, seed=1)
    mask = torch.arange(model.spec.positions).expand(B, -1) % 3 != 1
    codes, logp = drawn(model, cond, Noise.request(3, B), known=Known(given, mask))
    assert torch.equal(codes[mask], given[mask])
    new = in_order(model, ~mask)
    loss = in_order(model, model.loss(codes, cond))
    check_logp(model, -logp[new], loss[new] if model.spec.discrete else logp[new])


def test_loss_is_that_of_the_hidden_states(model):
    if model.between:
        pytest.skip("codes are drawn between the layers: see test_drawing_agrees_with_the_loss")
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    with torch.no_grad():
        loss = in_order(model, model.loss(codes, cond))
        codes = in_order(model, codes)
        hidden = full_hidden(model, codes, cond)
        expected = torch.stack([row_loss(model, hidden, codes, b) for b in range(B)])
    assert loss.shape == codes.shape[:2] and loss.dtype == torch.float32
    assert loss.isfinite().all()
    share = close.rounding(model) if model.spec.discrete else 1e-4
    rounding = share * expected.abs().max().item()
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=rounding)
    torch.testing.assert_close(loss.mean().double(), expected.mean(), rtol=0, atol=rounding)


def row_loss(model, hidden: Tensor, codes: Tensor, b: int) -> Tensor:
    """The loss (N,) of row b, position by position, and by definition where the values of a
    position do not depend on each other."""
    if isinstance(model.head, CategoricalHead | BitwiseHead):
        logp = of_each_value(model, hidden).double().log_softmax(-1)  # (B, N, *trailing, V)
        return -torch.stack(
            [logp[b, i].gather(-1, code.unsqueeze(-1)).sum() for i, code in enumerate(codes[b])]
        )
    numbers = Noise.request(0, B)
    return torch.stack(
        [
            model.head.loss(
                h[None, None], code[None, None], SlotNoise(one, torch.tensor([i]))
            ).squeeze()
            for one in [Noise(numbers.seeds[b : b + 1], numbers.index[b : b + 1])]
            for i, (h, code) in enumerate(zip(hidden[b], codes[b], strict=True))
        ]
    ).double()


def test_drawing_agrees_with_the_loss(model):
    """log p of drawn codes, without guidance and filters, is what the loss says of them."""
    cond = random_cond(model, B)
    codes, logp = drawn(model, cond, Noise.request(3, B))
    with torch.no_grad():
        loss = in_order(model, model.loss(codes, cond))
        check_logp(model, -logp, loss if model.spec.discrete else logp)


@torch.no_grad()
def test_a_dropped_condition_changes_the_loss_and_hides_what_it_was(model):
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    other = random_cond(model, B, seed=1)
    if cond.text_mask is not None:
        other = replace(other, text_mask=cond.text_mask)  # upstream keeps it in dropped rows
    elif cond.map is None:
        other = Cond(labels=(cond.labels + 1) % model.reads.classes)
    loss, dropped = model.loss(codes, cond), model.loss(codes, cond.null())
    assert ((loss - dropped).abs().amax(1) > 1e-3).all()
    assert ((loss - model.loss(codes, other)).abs().amax(1) > 1e-3).all()
    close.values(dropped, model.loss(codes, other.null()), model)
    some = torch.tensor([True, False, True])
    mixed = model.loss(codes, cond.dropped(some))
    close.values(mixed[some], dropped[some], model)
    close.values(mixed[~some], loss[~some], model)


@pytest.mark.parametrize(
    "name", [n for n, (m, c) in CASES.items() if m(c).reads.text and not m(c).reads_padding]
)
def test_padding_of_the_text_is_not_read(name):
    model = build(*CASES[name])
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    assert not cond.text_mask.all()
    noise = torch.randn(cond.text.shape)
    if model.reads.text_vocab:
        noise = torch.randint(model.reads.text_vocab, cond.text.shape).float()
    padded = replace(cond, text=torch.where(cond.text_mask[..., None], cond.text, noise))
    read = replace(cond, text=torch.where(cond.text_mask[..., None], noise, cond.text))
    with torch.no_grad():
        loss = model.loss(codes, cond)
        close.values(model.loss(codes, padded), loss, model)
        assert ((model.loss(codes, read) - loss).abs().amax(1) > 1e-3).all()


def first_loss(model, codes: Tensor) -> float:
    """Of a head that knows nothing: any code is as likely, or the noise is 0."""
    if model.spec.discrete:
        return model.spec.bits * math.log(2)
    hidden = full_hidden(model, codes, random_cond(model, len(codes)))
    return head_loss(model, torch.zeros_like(hidden), codes).mean().item()


@pytest.mark.parametrize("name", CASES)
def test_training(name):
    """From its own initialisation: knows nothing, falls in 20 steps (30 of bits, of which each, and
    not each code, has a row to learn), moves every parameter."""
    torch.manual_seed(0)
    module, config = CASES[name]
    model = module(config).train()
    codes = random_codes(model.spec, 4)
    cond = random_cond(model, 4).dropped(torch.tensor([True, False, False, False]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    losses, moved, first = [], set(), first_loss(model, codes)
    for _ in range(30 if model.spec.channels and model.spec.discrete else 20):
        loss = model.loss(codes, cond).mean()
        optimizer.zero_grad()
        loss.backward()
        for key, parameter in learned(model).items():
            assert parameter.grad is not None, key
            largest = torch.linalg.vector_norm(parameter.grad, math.inf).item()
            assert math.isfinite(largest), key
            if largest > 1e-8:
                moved.add(key)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(first, abs=0.1)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.8 * losses[0]
    assert moved >= {key for key in learned(model) if visible(key)}


def test_gradient_reaches_every_parameter(model):
    codes, cond = random_codes(model.spec, 4), random_cond(model, 4)
    cond = cond.dropped(torch.tensor([True, False, False, False]))
    model.train().zero_grad()
    model.loss(codes, cond).mean().backward()
    model.eval()
    weak = [k for k, p in learned(model).items() if p.grad is None or p.grad.abs().max() < 1e-7]
    model.zero_grad()
    assert not [k for k in weak if visible(k)]


def hybrid(model) -> bool:
    """Whether it draws codes and a continuous rest."""
    return model.filtered and model.solved


@torch.no_grad()
def test_save_and_load_give_the_same_outputs(model, tmp_path):
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    mark = save_module(model, tmp_path / "model")
    loaded, info = load_module(tmp_path / "model", modules.MODELS)
    assert info["fingerprint"] == mark and loaded.config == model.config
    close.weights(loaded, model)
    close.values(loaded.loss(codes, cond), model.loss(codes, cond), model)
    noise = Noise.request(3, B)
    drawn_codes = [generate(m, cond, noise, solver=FEW) for m in (loaded, model)]
    assert equal(model, *drawn_codes)
    close.values(loaded.loss(codes, cond.null()), model.loss(codes, cond.null()), model)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(model, tmp_path):
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    save_module(model, tmp_path / "model")
    half, _ = load_module(tmp_path / "model", modules.MODELS, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    loss, exact = half.loss(codes, cond), model.loss(codes, cond)
    assert loss.dtype == torch.float32
    apart = (loss - exact).abs().flatten().sort().values
    if hybrid(model):  # a loss that draws codes may draw some others
        apart = apart[: -len(apart) // 20]
    assert apart.max() <= 0.1
    assert apart.mean() < 0.03 < 0.3 < exact.std()
    drawn_codes, logp = drawn(half, cond, Noise.request(3, B), Guidance(2.0))
    assert logp.dtype == torch.float32 and logp.isfinite().all() == model.spec.discrete
    check_codes(model, drawn_codes)

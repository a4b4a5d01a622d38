"""HART beyond the contract of causal models: what training leaves out, passes over the last scale,
words and padding, vectors that are known, the codebook that it shares with its head."""

from dataclasses import replace

import pytest
import torch

import close
from builders import build, generate, random_codes, random_cond
from smalti.codes import Reads, Span
from smalti.engine.causal import spans
from smalti.engine.step import Known
from smalti.models import hart, infinity, var
from smalti.models.hart import HART, numbers
from smalti.pipeline.sampling import Sampling
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import shuffled
from smalti.sampling.solvers import Solver
from smalti.tokenizers import hart_vae, multiscale_vqvae
from smalti.tokenizers.hart_vae import HARTVAE
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.train.objectives import Likelihood, LikelihoodConfig

TINY = hart.tiny()
FEW = Solver(steps="4")
B = 3


@pytest.fixture(scope="module")
def model() -> HART:
    return build(HART, TINY)


# -- training


@torch.no_grad()
def test_what_training_leaves_out_is_as_if_it_were_not_there(model):
    """Coarse scales do not see the last one; a position of the last one sees those that are there,
    as it does in the first of several passes."""
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    prepared, noise = model.prepare(cond), Noise.request(0, B)
    slots = model.shown(noise, 7)
    assert slots.shape == (B, 12) and (slots.diff(dim=1) > 0).all()
    assert not torch.equal(slots[0], slots[1]), "each image has other positions"
    part = model.partly(codes, prepared, slots)
    full = model.hidden(codes, prepared, Span.whole(21))
    close.values(part[:, :5], full[:, :5], model)
    assert (part[:, 5:] - full[torch.arange(B)[:, None], slots[:, 5:]]).abs().max() > 1e-3
    every = model.partly(codes, prepared, torch.arange(21).expand(B, -1))
    close.values(every, full, model)


def test_the_loss_of_what_is_left_out_is_nothing_and_the_mean_is_as_before():
    model = build(HART, replace(TINY, kept=4)).train()
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    seen, means = set(), []
    for seed in range(40):
        noise = Noise.request(seed, B)
        loss = model.loss(codes, cond, noise=noise)
        count = model.count(noise)
        seen.add(count)
        assert loss.shape == (B, 21) and ((loss > 0).sum(1) == 5 + count).all()
        means.append(loss.mean().item())
        slots = model.shown(noise, count)
        h = model.partly(codes, model.prepare(cond), slots)
        rows = codes[torch.arange(B)[:, None], slots]
        nats, rest = model.head.losses(h, rows, SlotNoise(noise, slots))
        assert loss.mean().item() == pytest.approx(nats.mean().item() + rest.mean().item(), 1e-4)
    assert 4 == min(seen) < max(seen) <= 8, "half of sixteen at least are left out, four stay"
    whole = model.eval().loss(codes, cond).mean().item()
    assert sum(means) / len(means) == pytest.approx(whole, rel=0.2)


@torch.no_grad()
def test_the_loss_of_a_step_is_that_of_its_parts():
    model = build(HART, replace(TINY, kept=4)).train()
    objective = Likelihood(model, LikelihoodConfig(0.0), seed=5)
    cond, chance = random_cond(model, 8), torch.ones(8)
    batch = {"codes": random_codes(model.spec, 8), "text": cond.text, "text_mask": cond.text_mask}
    batch |= {"shuffle": torch.arange(8), "chance": chance}
    for step in range(6):
        halves = [{k: v[i : i + 4] for k, v in batch.items()} for i in (0, 4)]
        whole, *parts = (objective(b, step).totals["model"].item() for b in (batch, *halves))
        assert whole == pytest.approx(sum(parts) / 2, rel=1e-5)


@torch.no_grad()
def test_evaluation_leaves_nothing_out():
    model = build(HART, replace(TINY, kept=4))
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    assert ((model.loss(codes, cond) > 0).sum(1) == 21).all()
    assert ((model.train().loss(codes, cond) > 0).sum(1) < 21).all()


# -- drawing


@torch.no_grad()
def test_passes_over_the_last_scale_see_those_before_them():
    steps = build(HART, replace(TINY, refine_steps=3))
    cond, noise = random_cond(steps, B), Noise.request(5, B)
    codes, prepared, cache = random_codes(steps.spec, B), steps.prepare(cond), steps.cache(B)
    *coarse, span = spans(steps.blocks())
    for one in coarse:
        steps.hidden(codes, prepared, one, cache)
    seen = steps.inputs(steps.read(codes, span, cache), prepared, span.slots)
    place, orders = steps.place(prepared, span, cache), shuffled(noise, 16)
    h = steps.refined(seen, prepared, place, cache, orders)
    left = steps.reveal(16)
    assert left[0] == 16 > left[1] > left[2] > left[3] == 0
    first, rows = orders[:, left[1] :], torch.arange(B)[:, None]
    alone = steps.partly(codes, prepared, torch.cat((torch.arange(5).expand(B, -1), 5 + first), 1))
    close.values(h[rows, first], alone[:, 5:], steps)
    whole = steps.hidden(codes, prepared, Span.whole(21))[:, 5:]
    assert (h - whole).abs().max() > 1e-3


def test_one_pass_or_several_draw_other_pictures_and_the_same_again():
    cond, noise = random_cond(build(HART, TINY), B), Noise.request(2, B)
    drawn = []
    for steps in (1, 2, 2):
        model = build(HART, replace(TINY, refine_steps=steps))
        drawn.append(generate(model, cond, noise, Guidance(2.0), solver=FEW))
    assert torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[0][:, :5], drawn[1][:, :5]), "coarse scales are as they were"
    assert not torch.equal(drawn[0][:, 5:], drawn[1][:, 5:])


def test_known_vectors_keep_their_rest(model):
    cond, noise = random_cond(model, B), Noise.request(2, B)
    given = random_codes(model.spec, B, seed=3)
    mask = torch.zeros(B, 21, dtype=torch.bool)
    mask[:, 12:] = True
    drawn = generate(model, cond, noise, known=Known(given, mask), solver=FEW)
    assert torch.equal(drawn[:, 12:], given[:, 12:])
    book = model.quantize.embedding.weight
    assert (torch.cdist(drawn[:, :5], book[None]).amin(-1) < 1e-4).all(), "rows of the codebook"
    assert (torch.cdist(drawn[:, 5:12], book[None]).amin(-1) > 1e-3).any(), "and rests"


def test_both_kinds_of_settings_decide(model):
    for settings in ({"top_p": 0.9}, {"head_steps": "8"}, {"smooth": True, "top_k": 7}):
        Sampling.of(**settings).check(model)
    with pytest.raises(ValueError, match="a diffusion head is solved by"):
        Sampling.of(solver="euler").check(model)
    cond, noise = random_cond(model, B), Noise.request(2, B)
    plain = generate(model, cond, noise, solver=FEW)
    for filters in (Sampling.of(top_k=1).filters, Sampling.of(smooth=True).filters):
        assert not torch.equal(generate(model, cond, noise, filters=filters, solver=FEW), plain)


# -- words


def test_numbers_of_words():
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    assert numbers(mask).tolist() == [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


@torch.no_grad()
def test_padding_is_read_as_released_weights_expect(model):
    assert model.reads_padding
    codes, cond = random_codes(model.spec, B), random_cond(model, B)
    other = replace(cond, text=torch.where(cond.text_mask[..., None], cond.text, 1.0))
    apart = (model.loss(codes, cond) - model.loss(codes, other)).abs().amax(1)
    assert (apart[~cond.text_mask.all(1)] > 1e-3).all()


def test_texts_of_another_length_are_refused(model):
    cond = random_cond(model, B)
    short = replace(cond, text=cond.text[:, 1:], text_mask=cond.text_mask[:, 1:])
    with pytest.raises(ValueError, match=r"text must be \(B, 6, 12\), got \(3, 5, 12\)"):
        model.prepare(short)


# -- tokenizers


def test_a_hybrid_tokenizer_and_no_other():
    hybrid = build(HARTVAE, hart_vae.tiny())
    plain = build(MultiScaleVQVAE, multiscale_vqvae.tiny())
    reads = Reads(0, 6, 12)
    fitted = TINY.fitted(hybrid, reads)
    assert fitted.scales == hybrid.spec.grids and fitted.spec == hybrid.spec
    model = HART(fitted)
    model.learn_from(hybrid)
    assert torch.equal(model.quantize.embedding.weight, hybrid.quantize.embedding.weight)
    with pytest.raises(ValueError, match="HART predicts scales of codes and a continuous rest, bu"):
        TINY.fitted(plain, reads)
    with pytest.raises(ValueError, match="HART draws from texts"):
        TINY.fitted(hybrid, Reads(3))
    with pytest.raises(ValueError, match="VAR predicts discrete codes, but the .* a HARTVAE, giv"):
        replace(var.tiny(), scales=hybrid.spec.grids).fitted(hybrid, Reads(3))
    with pytest.raises(ValueError, match="Infinity predicts discrete codes, but .* a HARTVAE, giv"):
        infinity.tiny().fitted(hybrid, reads)


def test_the_rest_has_the_scale_that_the_tokenizer_measured():
    model = build(HART, replace(TINY, rest_scale=0.0))
    assert model.head.scale == 1
    model.quantize.rest_std.fill_(0.25)
    assert model.head.scale == 0.25
    assert build(HART, TINY).head.scale == TINY.rest_scale == 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": ((2, 2), (4, 4))}, "scales must be 1x1 and others after it, got"),
        ({"refine_steps": 17}, "refine_steps must be at most 16, the positions of .*, got 17"),
        ({"dim": 36, "heads": 6}, "dim must be a multiple of 4 \\* heads, got 36, 6"),
        ({"rest_scale": -1.0}, "rest_scale must be .*, got -1"),
        ({"pool": "sum"}, "pool must be one of avg, max, got 'sum'"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_the_published_size():
    with torch.device("meta"):
        model = HART(replace(hart.HARTConfig(), **hart.SIZES["700M"]))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(732e6, rel=2e-3)

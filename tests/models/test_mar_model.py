"""MAR beside its plain reference; padded rows, kept features, the loss, and its sizes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mar_plain
from builders import build, generate, random_codes, random_cond
from official_settings import mar_config
from smalti.codes import Cond, Turn
from smalti.models.mar import MAR, SIZES, MARConfig, tiny
from smalti.nn.linear import packed
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.orders import arrange, shuffled
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver, respaced
from smalti.train.optim import OptimConfig, adamw

B = 3
TINY = tiny()
UNEVEN = replace(
    TINY, grid=(2, 5), decoder_dim=48, decoder_heads=3, encoder_layers=1, decoder_layers=3
)
STEPS = "4,2,0"  # ends where random weights draw codes of ordinary size
MILLIONS = {"B": (207.9, 35.7), "L": (478.3, 72.2), "H": (942.4, 151.2)}


@pytest.fixture(params=[TINY, UNEVEN], ids=["tiny", "uneven"], scope="module")
def model(request):
    return build(MAR, request.param)


def some_known(model: MAR, counts: list[int], seed: int = 0) -> Tensor:
    """(B, N) bool with so many True in each row."""
    ranks = shuffled(Noise.request(seed, len(counts)), model.spec.positions).argsort(-1)
    return ranks < torch.tensor(counts)[:, None]


def missing(known: Tensor, count: int) -> Tensor:
    """`count` unknown positions of each row, descending."""
    return known.byte().argsort(stable=True, descending=True)[:, -count:].flip(1)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_as_many_parameters_as_published(size):
    with torch.device("meta"):
        model = MAR(MARConfig(**SIZES[size]))
    total, head = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (model, model.head))
    assert (round(total, 1), round(head, 1)) == MILLIONS[size]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@torch.no_grad()
def test_equals_the_plain_way(model, scale):
    noise, n = Noise.request(5, 2), model.spec.positions
    schedule, reveal, orders = respaced(1000, STEPS), Reveal(4), shuffled(Noise.request(1, 2), n)
    labels = torch.tensor([3, 1])
    cond = Cond(labels)
    ids = labels if scale == 1 else torch.cat((labels, torch.full((2,), 5)))
    codes, known = model.spec.empty(2), torch.zeros(2, n, dtype=torch.bool)
    left = [n, *reveal.left(n, 4)]
    for before, after in zip(left, left[1:], strict=False):
        wanted = orders[:, n - before : n - after]
        draws = len(schedule.kept) + 1
        numbers = noise.normal(wanted, draws * codes.shape[-1]).unflatten(-1, (draws, -1))
        factor = 1 + (scale - 1) * (1 - max(after, 1) / n)
        step = mar_plain.step(model, codes, ids, known, wanted, numbers, schedule, factor, 0.9)
        index = wanted[..., None].expand(step.codes.shape)
        codes, known = codes.scatter(1, index, step.codes), known.scatter(1, wanted, True)
    request = (model, cond, noise, Guidance(scale, "linear"), Filters(0.9))
    more = {"orders": orders, "reveal": reveal, "solver": Solver(steps=STEPS)}
    torch.testing.assert_close(generate(*request, **more), codes, rtol=1e-4, atol=1e-4)
    with packed(model):
        ours = generate(*request, **more)
    torch.testing.assert_close(ours, codes, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_unknown_codes_and_padding_change_nothing(model):
    codes, cond = random_codes(model.spec, B), model.prepare(random_cond(model, B))
    known, n = some_known(model, [0, 3, 7]), model.spec.positions
    expected = model.hidden(codes, cond, Turn(known, None, 7))
    torch.testing.assert_close(model.hidden(codes, cond, Turn(known, None, n)), expected)
    other = torch.where(known[..., None], codes, 100 * random_codes(model.spec, B, seed=1))
    torch.testing.assert_close(model.hidden(other, cond, Turn(known, None, 8)), expected)
    for i, count in enumerate((0, 3, 7)):
        row = slice(i, i + 1)
        one = cond.rows(torch.tensor([i]))
        alone = model.hidden(codes[row], one, Turn(known[row], None, count))
        torch.testing.assert_close(alone, expected[row])
    wanted = missing(known, 3)
    some = model.hidden(codes, cond, Turn(known, wanted, 7))
    torch.testing.assert_close(some, arrange(expected, wanted))


@torch.no_grad()
def test_a_dropped_condition_has_no_label(model):
    codes, known = random_codes(model.spec, B), some_known(model, [4] * B)
    turn, drop = Turn(known, None, 4), torch.tensor([False, True, False])
    cond, other = Cond(torch.tensor([0, 1, 2])), Cond(torch.tensor([1, 2, 2]))
    first, second = (
        model.hidden(codes, model.prepare(c.dropped(drop)), turn) for c in (cond, other)
    )
    null = model.hidden(codes, model.prepare(cond.null()), turn)
    torch.testing.assert_close(first[1:], second[1:])
    torch.testing.assert_close(first[1], null[1])
    assert (first[0] - second[0]).abs().amax() > 1e-3
    assert (first[2] - null[2]).abs().amax() > 1e-3


def drawn(model: MAR, scale: float, refresh: int, **options) -> Tensor:
    request = (model, random_cond(model, 2), Noise.request(5, 2), Guidance(scale))
    options |= {"reveal": Reveal(5), "refresh": refresh, "solver": Solver(steps=STEPS)}
    return generate(*request, **options)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_kept_features_are_exact_where_they_are_fresh(model, scale):
    exact, cond = drawn(model, scale, 1), random_cond(model, 2)
    branches = Guidance(scale).branches(cond)
    prepared, cache = model.prepare(branches), model.cache(branches.batch)
    guide, known = Guidance(scale).at(0, 2), some_known(model, [3, 3])
    wanted = missing(known, 4)
    turn = Turn(known, wanted, 3)
    with torch.inference_mode():
        chance = Chance(guide, SlotNoise(Noise.request(0, 2), wanted), solver=Solver(steps=STEPS))
        codes = random_codes(model.spec, 2)
        first, *others = (
            model.draw(codes, prepared, turn, kept, chance).codes for kept in (None, cache, cache)
        )
    assert all(torch.equal(first, other) for other in others)
    stale = drawn(model, scale, 5)
    assert stale.isfinite().all() and not torch.equal(stale, exact)


@torch.no_grad()
def test_rows_whose_input_is_what_it_was_come_out_as_they_were(model):
    """Some rows among kept keys and values give what all rows give."""
    codes, cond = random_codes(model.spec, B), model.prepare(random_cond(model, B))
    known, cache = some_known(model, [4] * B), model.cache(B)
    wanted = missing(known, 3)
    expected = model.hidden(codes, cond, Turn(known, wanted, 4), cache)
    read = (~known).byte().argsort(stable=True)[:, [1, 3]]  # known, in two rows of each image
    for again in (read, torch.cat((read, wanted[:, :1]), 1)):  # and what was drawn in vain
        cache.wanted = again
        h = model.hidden(codes, cond, Turn(known, wanted[:, 1:], 4, fresh=False), cache)
        torch.testing.assert_close(h, expected[:, 1:])


@torch.no_grad()
def test_new_codes_are_read_among_kept_features(model):
    cond, known = model.prepare(random_cond(model, B)), some_known(model, [4] * B)
    first, second = missing(known, 3)[:, :2], missing(known, 3)[:, 2:]
    later = known.scatter(1, first, True)
    seen = list[Tensor]()
    for seed in (0, 1):
        codes = torch.where(known[..., None], 1.0, random_codes(model.spec, B, seed=seed))
        cache = model.cache(B)
        model.hidden(codes, cond, Turn(known, first, 4), cache)
        seen.append(model.hidden(codes, cond, Turn(later, second, 6, fresh=False), cache))
    assert ((seen[0] - seen[1]).abs().amax((1, 2)) > 1e-3).all()


@torch.no_grad()
def test_the_loss_is_that_of_all_positions_with_known_ones_left_out(model):
    codes, cond, noise = random_codes(model.spec, B), random_cond(model, B), Noise.request(3, B)
    known = some_known(model, [0, 3, 7])
    loss = model.loss(codes, cond, known=known, noise=noise)
    h = model.hidden(codes, model.prepare(cond), Turn(known, None, 7))
    whole = model.head.loss(h, codes, SlotNoise(noise, torch.arange(model.spec.positions)))
    torch.testing.assert_close(loss, whole.masked_fill(known, 0))
    assert (loss[~known] > 0).all()
    nothing = torch.zeros_like(known)
    torch.testing.assert_close(model.loss(codes, cond), model.loss(codes, cond, known=nothing))
    complete = model.loss(codes, cond, known=~nothing)
    assert torch.equal(complete, torch.zeros_like(complete))


@pytest.mark.slow
def test_the_loss_falls():
    torch.manual_seed(0)
    model = MAR(TINY).train()
    codes, cond, n = random_codes(model.spec, 8), random_cond(model, 8), model.spec.positions
    optimizer = adamw(model, OptimConfig(lr=3e-3))

    def mean(seed: int) -> Tensor:
        known = some_known(model, [4] * 8, seed=seed)
        return (
            model.loss(codes, cond, known=known, noise=Noise.request(seed, 8)).sum() / (n - 4) / 8
        )

    before = torch.stack([mean(seed).detach() for seed in range(1000, 1008)]).mean()
    for seed in range(80):
        optimizer.zero_grad()
        mean(seed).backward()
        optimizer.step()
    after = torch.stack([mean(seed).detach() for seed in range(1000, 1008)]).mean()
    assert after < 0.6 * before


def test_the_head_alone_has_no_weight_decay(model):
    decayed = {id(p) for p in adamw(model, OptimConfig()).param_groups[0]["params"]}
    for name, parameter in model.named_parameters():
        spared = name.startswith("head.") or name.endswith("bias") or "norm" in name
        assert (id(parameter) in decayed) != spared, name


def test_a_new_model_predicts_no_noise():
    model: Any = MAR(TINY)
    codes, h = random_codes(model.spec, 1), torch.randn(1, model.spec.positions, TINY.dim)
    assert torch.equal(model.head.predict(codes, torch.tensor(5), h), torch.zeros(1, 16, 12))
    assert 0.015 < model.encoder_pos.std() < 0.025
    assert model.encoder.layers[0].attention.wqkv.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 33}, "dim must be a multiple of heads, got 33, 2"),
        ({"decoder_dim": 31}, "dim must be a multiple of heads, got 31, 2"),
        ({"decoder_heads": -1}, "decoder_heads must be 0 or more, got -1"),
        ({"buffer": 0}, "buffer must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"mlp_ratio": 0.01}, "mlp_ratio 0.01 leaves nothing of 32"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a positive number, got nan"),
        ({"grid": (0, 4)}, r"grid must be two positive integers, got \(0, 4\)"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_a_condition_without_labels_is_refused(model):
    with pytest.raises(ValueError, match="class-conditional"):
        model.prepare(Cond(drop=torch.tensor([True])))


def test_official_settings():
    config = mar_config({"img_size": 512, "patch_size": 2, "vae_embed_dim": 4, "decoder_depth": 2})
    assert (config.grid, config.channels) == ((16, 16), 16)
    assert (config.encoder_layers, config.decoder_layers, config.head.depth) == (16, 2, 3)
    with pytest.raises(ValueError, match="unknown settings class_number"):
        mar_config({"class_number": 10})
    with pytest.raises(ValueError, match=r"multiple of vae_stride \* patch_size, got 250, 16 \* 1"):
        mar_config({"img_size": 250})

"""Infinity beyond the contract of causal models: grids at call time, null texts of the prompt's
length, positions spread over the largest grid, self-correction, guidance of hidden states."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import close
from builders import build, generate, random_codes, random_cond
from smalti.codes import Cond, Reads, TokenSpec
from smalti.engine.causal import spans
from smalti.models import infinity
from smalti.models.infinity import Infinity, InfinityConfig, turns
from smalti.sampling.chance import Chance
from smalti.sampling.guidance import ClassifierFree, Guidance, Unguided
from smalti.sampling.noise import Noise, SlotNoise
from smalti.tokenizers.infinity import BUDGETS, SCHEDULES, InfinityVAE, schedule
from smalti.tokenizers.infinity import tiny as tiny_vae
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN
from smalti.tokenizers.maskgit_vqgan import tiny as tiny_grid
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.tokenizers.multiscale_vqvae import tiny as tiny_scales

TINY = infinity.tiny()


def rows_of(model, draw):
    """The rows of each call of each layer while something is drawn."""
    calls = [[] for _ in model.layers]
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, inputs, rows=rows: rows.append(inputs[0].shape[1])
        )
        for layer, rows in zip(model.layers, calls, strict=True)
    ]
    draw()
    for hook in hooks:
        hook.remove()
    return calls


# -- grids


def test_a_picture_of_six_hundredths_of_a_million_pixels_takes_seven_passes():
    model = build(Infinity, replace(TINY, scales=schedule(1.0, "0.06M")))
    cond, noise = random_cond(model, 2), Noise.request(0, 2)
    for rows in rows_of(model, lambda: generate(model, cond, noise, Guidance(2.0))):
        assert rows == [1, 4, 16, 36, 64, 144, 256]


@pytest.mark.parametrize("ratio", SCHEDULES)
def test_every_aspect_ratio_is_drawn_at_call_time(ratio):
    """As a model of those scales with the same weights draws it; the tokenizer decodes it."""
    model, grids = build(Infinity, TINY), SCHEDULES[ratio][:5]
    other = Infinity(replace(TINY, scales=grids)).eval()
    other.load_state_dict(model.state_dict())
    cond, noise, spec = random_cond(model, 1), Noise.request(3, 1), other.spec
    drawn = generate(model, cond, noise, Guidance(2.0), spec=spec)
    assert torch.equal(drawn, generate(other, cond, noise, Guidance(2.0)))
    assert drawn.shape == (1, sum(h * w for h, w in grids), TINY.bits)
    tokenizer = build(InfinityVAE, tiny_vae())
    with torch.no_grad():
        picture = tokenizer.decode(drawn, spec)
    factor = tokenizer.factor
    assert picture.shape == (1, 3, factor * grids[-1][0], factor * grids[-1][1])


@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_every_number_of_pixels_is_prepared(budget):
    model, grids = build(Infinity, TINY), schedule(0.75, budget)
    spec = replace(model.spec, grids=grids)
    prepared = model.prepare(random_cond(model, 1), spec=spec)
    assert prepared.rotation.shape[1] == spec.positions == sum(model.blocks(spec))
    assert model.cache(1, spec).keys[0].shape[2] == spec.positions


def test_other_codes_and_too_many_scales_are_refused():
    model = build(Infinity, TINY)
    cond, noise = random_cond(model, 1), Noise.request(0, 1)
    for spec, words in (
        (TokenSpec(TINY.scales, 2, channels=7), "this model draws TokenSpec"),
        (TokenSpec(((4, 4),), 32), "this model draws TokenSpec"),
        (replace(model.spec, grids=((2, 2), (1, 4))), "scales must ascend"),
        (
            replace(model.spec, grids=tuple((i, i) for i in range(1, 17))),
            "at most 15 scales, got 16",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            generate(model, cond, noise, spec=spec)


def test_positions_are_those_of_the_largest_grid_of_the_aspect_ratio():
    whole = turns(schedule(1.25, "1M"), 16)
    for budget in BUDGETS:
        grids = schedule(1.25, budget)
        part = turns(grids, 16)
        assert torch.equal(part, whole[: len(part)])
    (*_, last) = SCHEDULES[1.25]
    # the second of the two rows of the second scale is the middle one of the largest grid
    below = whole[1 + 2].angle()
    middle = turns((last,), 16)[last[0] // 2 * last[1]].angle()
    assert torch.equal(below, middle)


def test_other_grids_are_spread_over_their_last_one():
    table = turns(((1, 1), (2, 4), (3, 7)), 8)
    alone = turns(((3, 7),), 8)
    assert torch.equal(table[-21:], alone)
    # row 1 of 2 lies at 1.5, which is rounded to the even 2; column 3 of 4 at 5.25
    assert torch.equal(table[1 + 4 + 3], alone[2 * 7 + 5])


# -- texts


def test_a_null_text_has_as_many_words_as_the_text():
    model = build(Infinity, TINY)
    cond = random_cond(model, 3)
    assert len(set(cond.text_mask.sum(1).tolist())) > 1
    words, mask = model.words(cond.null())
    for row, seen in zip(words, mask.flatten(1), strict=True):
        expected = model.text_norm(model.null[: int(seen.sum())])
        torch.testing.assert_close(row[seen], expected)


@torch.no_grad()
def test_where_the_padding_is_makes_no_difference():
    model = build(Infinity, TINY)
    codes, cond = random_codes(model.spec, 3), random_cond(model, 3)
    turned = Cond(text=cond.text.flip(1), text_mask=cond.text_mask.flip(1))
    loss = model.loss(codes, cond)
    close.values(model.loss(codes, turned), loss, model)  # attention knows no order of words
    both = (cond.null(), turned.null())
    close.values(*(model.loss(codes, c) for c in both), model)


def test_a_negative_prompt_takes_the_place_of_the_null_text():
    model = build(Infinity, TINY)
    cond, noise = random_cond(model, 2), Noise.request(1, 2)
    plain = generate(model, cond, noise, Guidance(3.0))
    away = generate(model, cond, noise, Guidance(3.0), negative=random_cond(model, 2, seed=5))
    same = generate(model, cond, noise, Guidance(3.0), negative=cond.null())
    assert torch.equal(plain, same) and not torch.equal(plain, away)
    itself = generate(model, cond, noise, Guidance(3.0), negative=cond)
    assert torch.equal(itself, generate(model, cond, noise))


# -- guidance of hidden states


@torch.no_grad()
def test_hidden_states_are_mixed_behind_a_block():
    """Against the layers one by one, at the first scale."""
    model = build(Infinity, replace(TINY, layers=3, guide_at=(2,)))
    cond, guide = random_cond(model, 2), ClassifierFree(2.5)
    both = model.prepare(Cond.cat([cond, cond.null()]))
    (first, *_), noise = spans(model.blocks()), Noise.request(0, 2)
    chance = Chance(guide, SlotNoise(noise, first.slots))
    drawn = model.draw(model.spec.empty(2), both, first, model.cache(4), chance)
    x = both.cond + model.start_pos + model.scale_embedding.weight[0]
    place = infinity.place_of(first, model.blocks(), model.cache(4), both.rotation[0])
    for i, layer in enumerate(model.layers):
        x = layer(x, both, place, i, None)
        if i == 1:
            mixed = x[2:] + 2.5 * (x[:2] - x[2:])
            x = torch.cat((mixed, mixed))
    scale, shift = model.adaln(F.silu(both.cond)).chunk(2, -1)
    expected = (F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)[:2]
    close.values(drawn.h, torch.cat((expected, expected)), model)


def test_guidance_of_1_and_no_guidance_are_the_same_wherever_they_are():
    cond = random_cond(build(Infinity, TINY), 2)
    noise, drawn = Noise.request(1, 2), []
    for at_blocks in ((0,), (1,), (1, 2), (0, 1)):
        model = build(Infinity, replace(TINY, guide_at=at_blocks))
        drawn.append(generate(model, cond, noise))
        assert isinstance(Guidance(1.0).at(0, 3), Unguided)
    assert all(torch.equal(codes, drawn[0]) for codes in drawn)


# -- training


def test_without_flips_training_reads_and_predicts_the_codes():
    model = build(Infinity, replace(TINY, flip=0.0))
    codes, cond = random_codes(model.spec, 2), random_cond(model, 2)
    plain = model.loss(codes, cond)
    weighted = model.train().loss(codes, cond)
    torch.testing.assert_close(weighted, plain * model.weights(codes.device))
    assert not model.random_loss and build(Infinity, TINY).random_loss


def test_coarse_scales_weigh_more_in_training():
    model = Infinity(TINY)
    weights, sizes = model.weights(torch.device("cpu")), [1, 4, 16]
    assert weights.mean().item() == pytest.approx(1)
    first = [part[0].item() for part in weights.split(sizes)]
    assert first[0] / first[2] == pytest.approx(4) and first[0] / first[1] == pytest.approx(2)


def test_flipped_bits_are_shown_and_made_good():
    model = build(Infinity, replace(TINY, flip=0.3, flip_scales=2))
    codes, noise = random_codes(model.spec, 64), Noise.request(0, 64)
    wrong = model.corrected(codes, noise)
    again = model.corrected(codes, noise)
    assert all(torch.equal(a, b) for a, b in zip(wrong, again, strict=True))
    flipped = wrong.labels != wrong.shown
    parts = flipped.split(model.blocks(), 1)
    assert not parts[2].any(), "beyond the first two scales no bit is wrong"
    share = torch.cat(parts[:2], 1).float().mean((1, 2))  # of each image
    assert 0.1 < share.mean() < 0.2 and share.std() > 0.05, "of each image another share"
    assert torch.equal(wrong.labels[:, :1], codes[:, :1]), "nothing is wrong before the first scale"
    assert (wrong.labels != codes).any(), "what made a picture wrong is made good"
    inputs = model.quantizer(TINY.scales).inputs(wrong.shown)
    torch.testing.assert_close(wrong.inputs, inputs, rtol=0, atol=1e-5)
    alone = model.corrected(codes[3:4], Noise(noise.seeds[3:4], noise.index[3:4]))
    assert torch.equal(alone.shown, wrong.shown[3:4])


def test_the_loss_is_of_what_is_shown():
    model = build(Infinity, TINY)
    codes, cond, noise = random_codes(model.spec, 3), random_cond(model, 3), Noise.request(7, 3)
    plain = model.loss(codes, cond, noise=noise)
    assert torch.equal(plain, model.loss(codes, cond)), "evaluation draws nothing"
    model.train()
    first = model.loss(codes, cond, noise=noise)
    assert torch.equal(first, model.loss(codes, cond, noise=noise))
    assert not torch.equal(first, model.loss(codes, cond, noise=Noise.request(8, 3)))
    assert (first - plain * model.weights(codes.device)).abs().max() > 1e-3


# -- settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bits": -1}, "bits must be 0 or more, got -1"),
        ({"bits": 0, "vocab": 1}, "vocab must be at least 2 and dim at least 1, got 1, 32"),
        ({"vocab": 32}, "codes of bits have vocab 2 .*, got vocab 32, channels 6, latent 6"),
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"heads": 3}, "dim must be a multiple of heads, got 32, 3"),
        ({"dim": 36, "heads": 6}, r"dim must be a multiple of 4 \* heads, got 36, 6"),
        ({"text_dim": 640}, "dim must be a multiple of 5, the heads that read 640 features"),
        ({"text_length": 0}, "text_length must be at least 1, got 0"),
        ({"scales": ((2, 2), (1, 1))}, r"scales must ascend, got \(1, 1\) behind \(2, 2\)"),
        ({"most_scales": 2}, "scales must be at most most_scales 2, got 3"),
        ({"flip": 1.5}, r"flip must be in \[0, 1\], got 1.5"),
        ({"flip_scales": -1}, "flip_scales must be 0 or more, got -1"),
        ({"guide_at": (3,)}, r"guide_at must be blocks from 0 to 2, got \(3,\)"),
        ({"guide_at": ()}, r"guide_at must be blocks from 0 to 2, got \(\)"),
    ],
)
def test_settings_out_of_range(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **bad)


def test_what_the_codes_and_the_text_decide():
    tokenizer = InfinityVAE(replace(tiny_vae(), size=(16, 24), cells=2, scales=((1, 1), (2, 3))))
    config = TINY.fitted(tokenizer, Reads(0, 9, 24))
    assert (config.scales, config.bits, config.cells) == (((1, 1), (2, 3)), 6, 2)
    assert (config.text_length, config.text_dim) == (9, 24)
    assert config.spec == tokenizer.spec
    with pytest.raises(ValueError, match="Infinity draws from texts"):
        TINY.fitted(tokenizer, Reads(5))
    text = Reads(0, 9, 24)
    with pytest.raises(ValueError, match="a MaskGITVQGAN, gives 1 grid$"):
        TINY.fitted(MaskGITVQGAN(tiny_grid()), text)
    numbers = TINY.fitted(MultiScaleVQVAE(tiny_scales()), text)
    assert (numbers.bits, numbers.vocab, numbers.latent, numbers.phis) == (0, 32, 4, 4)
    assert numbers.fitted(tokenizer, text) == replace(config, latent=4)


# -- numbers


def numbers_and_codes(batch=64):
    """A model of numbers that has taken over a tokenizer's table, and codes of pictures."""
    tokenizer = build(MultiScaleVQVAE, tiny_scales())
    model = build(Infinity, replace(TINY, flip_scales=2).fitted(tokenizer, Reads(0, 6, 12)))
    model.learn_from(tokenizer)
    images = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return model, tokenizer.encode(images)


@torch.no_grad()
def test_wrong_numbers_are_shown_and_made_good():
    model, codes = numbers_and_codes()
    wrong = model.corrected(codes, Noise.request(0, 64))
    shown, labels = (x.split(model.blocks(), 1) for x in (wrong.shown, wrong.labels))
    flipped = [a != b for a, b in zip(shown, labels, strict=True)]
    assert not flipped[2].any() and not flipped[3].any(), "beyond the first two none is wrong"
    share = torch.cat(flipped[:2], 1).float()
    assert 0.08 < share.mean() < 0.22
    assert torch.equal(labels[0], codes[:, :1]), "nothing is wrong before the first scale"
    assert wrong.shown.min() >= 0 and wrong.shown.max() < 32
    right = ~share.bool().any(1)
    assert right.any() and torch.equal(wrong.labels[right], codes[right])
    assert (wrong.labels[~right] != codes[~right]).any(), "what is wrong is made good"
    close.values(wrong.inputs, model.quantize.inputs(wrong.shown), model)


@torch.no_grad()
def test_what_is_made_good_is_nearer_to_the_picture():
    """Than the picture's own codes behind the wrong ones."""
    model, codes = numbers_and_codes()
    wrong, first = model.corrected(codes, Noise.request(0, 64)), 1 + 4
    picture = model.quantize.decode(codes)
    kept = torch.cat((wrong.shown[:, :first], codes[:, first:]), 1)
    good = torch.cat((wrong.shown[:, :first], wrong.labels[:, first:]), 1)
    far, near = ((model.quantize.decode(c) - picture).square().mean() for c in (kept, good))
    assert near < 0.9 * far


def test_other_grids_of_numbers_are_refused():
    model, _ = numbers_and_codes(1)
    spec = replace(model.spec, grids=((1, 1), (2, 4)))
    with pytest.raises(ValueError, match="this model draws TokenSpec"):
        generate(model, random_cond(model, 1), Noise.request(0, 1), spec=spec)


@pytest.mark.parametrize(
    ("size", "count"),
    [("125M", 125.1e6), ("361M", 361.6e6), ("940M", 940.9e6), ("2B", 2.204e9), ("8B", 8.376e9)],
)
def test_published_sizes(size, count):
    bits = {"125M": {"bits": 16}, "8B": {"bits": 14, "cells": 2}}.get(size, {})
    with torch.device("meta"):
        model = Infinity(InfinityConfig(**infinity.SIZES[size], **bits))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=1e-3)

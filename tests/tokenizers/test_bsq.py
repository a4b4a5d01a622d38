"""Multi-scale binary spherical quantization against a slow one that loops over scales and cells."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.tokenizers.quantize.bsq import MultiScaleBSQ

SQUARE = ((1, 1), (2, 2), (3, 3), (5, 5))
WIDE = ((1, 1), (1, 2), (2, 3), (4, 7))
CASES = {
    "square": dict(grids=SQUARE, bits=4),
    "wide": dict(grids=WIDE, bits=5),
    "one bit": dict(grids=WIDE, bits=1),
    "of 2 x 2 cells": dict(grids=WIDE, bits=3, cells=2),
    "one scale": dict(grids=((3, 4),), bits=6),
}
case = pytest.mark.parametrize("case", CASES)


def latents(quantizer, batch=2, seed=1, grids=None):
    generator = torch.Generator().manual_seed(seed)
    size = quantizer.cell_grid((grids or quantizer.grids)[-1])
    return torch.randn(batch, quantizer.bits, *size, generator=generator)


def bilinear(x, size):
    """A map (C, h, w) at the points of a grid, point by point."""
    (h, w), found = x.shape[1:], torch.empty(len(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            z = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            above = x[:, top, left] * (1 - z + left) + x[:, top, right] * (z - left)
            below = x[:, bottom, left] * (1 - z + left) + x[:, bottom, right] * (z - left)
            found[:, i, j] = above * (1 - y + top) + below * (y - top)
    return found


def area(x, size):
    """The mean of every cell's area, (C, *size)."""
    (h, w), found = x.shape[1:], torch.empty(len(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            top, bottom = i * h // size[0], -(-(i + 1) * h // size[0])
            left, right = j * w // size[1], -(-(j + 1) * w // size[1])
            found[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return found


def positions(x, cells):
    """A map of cells (K, c h, c w) as its positions, each channel by channel: (h w, K c c)."""
    rows = []
    for i in range(0, x.shape[1], cells):
        for j in range(0, x.shape[2], cells):
            rows.append(x[:, i : i + cells, j : j + cells].flatten())
    return torch.stack(rows)


def slow(quantizer, z, grids, flips=None):
    """Labels, inputs and latents after each scale, of one image's (K, H, W); bits are flipped where
    `flips` has True, scale by scale (K, c h_k, c w_k)."""
    sofar, labels, inputs, after = torch.zeros_like(z), [], [], []
    for k, grid in enumerate(grids):
        left = area(z - sofar, quantizer.cell_grid(grid))
        labels.append(positions((left > 0).long(), quantizer.cells))
        signs = torch.where(left > 0, 1.0, -1.0)
        if flips is not None:
            signs = torch.where(flips[k], -signs, signs)
        sofar = sofar + bilinear(signs / math.sqrt(quantizer.bits), z.shape[1:])
        after.append(sofar)
        if k + 1 < len(grids):
            size = quantizer.cell_grid(grids[k + 1])
            inputs.append(positions(bilinear(sofar, size), quantizer.cells))
    return torch.cat(labels), torch.cat([*inputs, labels[0][:0].float()]), torch.stack(after)


def agree(quantizer, z, grids=None):
    used = grids or quantizer.grids
    codes = quantizer.encode(z, grids)
    decoded = [quantizer.decode(codes, k + 1, grids) for k in range(len(used))]
    inputs = quantizer.inputs(codes, grids)
    for b in range(len(z)):
        labels, read, after = slow(quantizer, z[b], used)
        assert torch.equal(codes[b], labels)
        torch.testing.assert_close(inputs[b], read, rtol=0, atol=1e-5)
        for latent, wanted in zip(decoded, after, strict=True):
            torch.testing.assert_close(latent[b], wanted, rtol=0, atol=1e-5)
    assert torch.equal(quantizer.decode(codes, grids=grids), decoded[-1])
    assert torch.equal(quantizer.decode(quantizer.embed(codes), grids=grids), decoded[-1])
    assert not quantizer.decode(codes, 0, grids).any()
    return codes


@case
def test_codes_latents_and_inputs_are_those_of_the_loop(case):
    quantizer = MultiScaleBSQ(**CASES[case])
    codes = agree(quantizer, latents(quantizer))
    spec = sum(h * w for h, w in quantizer.grids), quantizer.bits * quantizer.cells**2
    assert codes.shape == (2, *spec) and set(codes.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("grids", [((1, 1), (2, 4), (3, 5), (4, 6)), ((2, 2), (6, 3))])
@pytest.mark.parametrize("cells", [1, 2])
def test_other_scales_are_those_of_a_quantizer_of_them(cells, grids):
    quantizer = MultiScaleBSQ(SQUARE, 4, cells)
    z = latents(quantizer, grids=grids)
    codes = agree(quantizer, z, grids)
    own = MultiScaleBSQ(grids, 4, cells)
    assert torch.equal(codes, own.encode(z))
    with pytest.raises(ValueError, match=r"latents must be \(B, 4, .*\), got \(2, 4, "):
        quantizer.encode(z)


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=0, max_size=4),
    first=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bits=st.integers(1, 9),
    cells=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_any_schedule(steps, first, bits, cells, seed):
    grids = [first]
    for dh, dw in steps:
        if dh or dw:
            grids.append((grids[-1][0] + dh, grids[-1][1] + dw))
    quantizer = MultiScaleBSQ(tuple(grids), bits, cells)
    agree(quantizer, latents(quantizer, 1, seed))


def cellwise(quantizer, rows):
    """Rows (N, C) of one image as maps of cells (K, c h_k, c w_k), scale by scale."""
    parts = rows[None].float().split(quantizer.sizes, 1)
    maps = [quantizer.as_map(p, g)[0] for p, g in zip(parts, quantizer.grids, strict=True)]
    return [x.bool() for x in maps]


@case
@pytest.mark.parametrize("rates", [[0.3, 0.0, 0.9, 0.5], [0.5, 1.0], [1.0]])
def test_correction_flips_what_is_read_and_asks_for_what_makes_it_good(case, rates):
    quantizer = MultiScaleBSQ(**CASES[case])
    z, generator = latents(quantizer), torch.Generator().manual_seed(3)
    uniform = torch.rand(quantizer.encode(z).shape, generator=generator)
    found = quantizer.correct(z, uniform, torch.tensor(rates))
    rate = torch.zeros(len(quantizer.grids))
    rate[: len(rates)] = torch.tensor(rates[: len(rate)])
    limits = rate.repeat_interleave(torch.tensor(quantizer.sizes))[:, None]
    for b in range(len(z)):
        flips = uniform[b] < limits
        labels, read, _ = slow(quantizer, z[b], quantizer.grids, cellwise(quantizer, flips))
        assert torch.equal(found.labels[b], labels)
        assert torch.equal(found.shown[b] != labels, flips)
        torch.testing.assert_close(found.inputs[b], read, rtol=0, atol=1e-5)
    assert torch.equal(found.inputs, quantizer.inputs(found.shown))


def test_each_image_has_strengths_of_its_own():
    quantizer = MultiScaleBSQ(SQUARE, 4)
    z = latents(quantizer)
    uniform = torch.rand(2, 39, 4, generator=torch.Generator().manual_seed(0))
    strength = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.2, 0.1]])
    both = quantizer.correct(z, uniform, strength)
    for b in range(2):
        one = quantizer.correct(z[b : b + 1], uniform[b : b + 1], strength[b])
        assert torch.equal(both.labels[b], one.labels[0])
        assert torch.equal(both.inputs[b], one.inputs[0])
    assert torch.equal(both.labels[0], quantizer.encode(z)[0])
    assert torch.equal(both.shown[0], both.labels[0])


def test_wrong_bits_are_made_good_by_the_labels_behind_them():
    quantizer = MultiScaleBSQ(((1, 1), (2, 2), (4, 4), (8, 8)), 8)
    z = quantizer.decode(quantizer.encode(0.3 * latents(quantizer, 4)))
    uniform = torch.rand(4, 85, 8, generator=torch.Generator().manual_seed(5))
    found = quantizer.correct(z, uniform, torch.tensor([0.3, 0.3]))
    repaired = quantizer.decode(found.shown)  # wrong bits, and what is asked for behind them
    blind = quantizer.encode(z)  # the same wrong bits, and the codes as they were
    begin = sum(quantizer.sizes[:2])
    blind[:, :begin] = found.shown[:, :begin]
    apart = [(latent - z).square().mean() for latent in (repaired, quantizer.decode(blind))]
    assert apart[0] < 0.6 * apart[1]


def slow_of_codes(quantizer, codes, flips):
    """Labels and inputs of one image's codes (N, C) of which no latent is known."""
    maps = [2.0 * x - 1 for x in cellwise(quantizer, codes)]
    size = quantizer.cell_grid(quantizer.grids[-1])
    added = [bilinear(x / math.sqrt(quantizer.bits), size) for x in maps]
    sofar, labels, inputs = torch.zeros_like(added[0]), [], []
    for k, grid in enumerate(quantizer.grids):
        here = quantizer.cell_grid(grid)
        size_of_true = area(torch.stack(added[k:]).sum(0), here).abs()
        true = maps[k] * (size_of_true + 1e-6)
        missed = area(torch.stack(added)[:k].sum(0) - sofar, here)
        bits = true + missed > 0
        labels.append(positions(bits.long(), quantizer.cells))
        shown = torch.where(bits ^ flips[k], 1.0, -1.0)
        sofar = sofar + bilinear(shown / math.sqrt(quantizer.bits), size)
        if k + 1 < len(quantizer.grids):
            after = quantizer.cell_grid(quantizer.grids[k + 1])
            inputs.append(positions(bilinear(sofar, after), quantizer.cells))
    return torch.cat(labels), torch.cat([*inputs, labels[0][:0].float()])


@case
@pytest.mark.parametrize("rates", [[0.3, 0.0, 0.9, 0.5], [0.2, 0.2]])
def test_codes_alone_are_corrected_as_the_loop_does(case, rates):
    quantizer = MultiScaleBSQ(**CASES[case])
    codes, generator = quantizer.encode(latents(quantizer)), torch.Generator().manual_seed(3)
    uniform = torch.rand(codes.shape, generator=generator)
    found = quantizer.correct_codes(codes, uniform, torch.tensor(rates))
    rate = torch.zeros(len(quantizer.grids))
    rate[: len(rates)] = torch.tensor(rates[: len(rate)])
    limits = rate.repeat_interleave(torch.tensor(quantizer.sizes))[:, None]
    for b in range(len(codes)):
        flips = uniform[b] < limits
        labels, read = slow_of_codes(quantizer, codes[b], cellwise(quantizer, flips))
        sure = (found.labels[b] == labels).float().mean()
        assert sure > 0.99, "but for sums that round to nothing"
        if sure == 1:
            assert torch.equal(found.shown[b] != labels, flips)
            torch.testing.assert_close(found.inputs[b], read, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.inputs, quantizer.inputs(found.shown), rtol=0, atol=1e-5)


@case
def test_codes_without_a_wrong_bit_are_their_own_labels(case):
    """Also of codes that no latent has: their sum alone would give others."""
    quantizer = MultiScaleBSQ(**CASES[case])
    shape = (3, sum(quantizer.sizes), quantizer.bits * quantizer.cells**2)
    codes = torch.randint(2, shape, generator=torch.Generator().manual_seed(2))
    found = quantizer.correct_codes(codes, torch.zeros(shape), torch.zeros(2))
    assert torch.equal(found.labels, codes) and torch.equal(found.shown, codes)
    torch.testing.assert_close(found.inputs, quantizer.inputs(codes), rtol=0, atol=1e-5)


def test_codes_alone_tell_nearly_what_the_latent_tells():
    """Better than the sum of the codes in place of the latent."""
    quantizer = MultiScaleBSQ(((1, 1), (2, 2), (4, 4), (6, 6), (8, 8)), 8)
    z = latents(quantizer, 16)
    codes, strength = quantizer.encode(z), torch.full((5,), 0.2)
    uniform = torch.rand(codes.shape, generator=torch.Generator().manual_seed(5))
    wanted = quantizer.correct(z, uniform, strength).labels
    found = quantizer.correct_codes(codes, uniform, strength).labels
    summed = quantizer.correct(quantizer.decode(codes), uniform, strength).labels
    shares = [(labels == wanted).float().mean().item() for labels in (found, summed, codes)]
    assert shares[0] > 0.88 > shares[2] > shares[1]


def entropy(p):
    return -(p * p.clamp_min(1e-30).log()).sum()


def test_losses_are_means_over_scales_of_directions():
    quantizer = MultiScaleBSQ(WIDE, 3, cells=2)
    z = 0.2 * latents(quantizer)
    out = quantizer(z, entropy=True)
    commitment, spread, left = [], [], z
    for k, grid in enumerate(quantizer.grids):
        size = quantizer.cell_grid(grid)
        cells = torch.stack([area(one, size) for one in left]).movedim(1, -1).reshape(-1, 3)
        unit = cells / cells.norm(dim=1, keepdim=True)
        signs = torch.where(unit > 0, 1.0, -1.0) / math.sqrt(3)
        commitment.append((unit - signs).square().mean())
        ones = (4 * 100 / math.sqrt(3) * unit.double()).sigmoid()  # upstream's temperature
        each = torch.stack([entropy(torch.stack((p, 1 - p))) for p in ones.flatten()])
        even = sum(entropy(torch.stack((p, 1 - p))) for p in ones.mean(0))
        spread.append(each.view(-1, 3).sum(1).mean() - even)
        left = z - quantizer.decode(out.codes, k + 1)
    torch.testing.assert_close(out.losses["commitment"], torch.stack(commitment).mean())
    wanted = torch.stack(spread).mean().float()
    torch.testing.assert_close(out.losses["entropy"], wanted, rtol=0, atol=2e-4)
    assert set(quantizer(z).losses) == {"commitment"}
    assert torch.equal(out.codes, quantizer.encode(z))


def test_gradients_pass_through_the_directions_of_what_each_scale_codes():
    quantizer = MultiScaleBSQ(WIDE, 5)
    z = latents(quantizer).requires_grad_()
    out, weights = quantizer(z), torch.randn(z.shape, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(out.latent, quantizer.decode(out.codes), rtol=0, atol=1e-6)
    (found,) = torch.autograd.grad((out.latent * weights).sum(), z)
    total = z.new_zeros(())
    for k in range(len(WIDE)):
        left = z - quantizer.decode(out.codes, k)
        cells = quantizer.remains(left, k)
        unit = cells / cells.norm(dim=1, keepdim=True)
        total = total + (quantizer.spread(unit, WIDE) * weights).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, z)[0])


@torch.no_grad()
def test_autocast_changes_nothing():
    quantizer = MultiScaleBSQ(WIDE, 5)
    z = latents(quantizer)
    uniform = torch.rand(2, 37, 5, generator=torch.Generator().manual_seed(0))
    codes, found = quantizer.encode(z), quantizer.correct(z, uniform, torch.full((4,), 0.2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z), codes)
        assert quantizer(z).latent.dtype == torch.float32
        again = quantizer.correct(z, uniform, torch.full((4,), 0.2))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert quantizer.encode(z.bfloat16()).shape == codes.shape


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(grids=((1, 1), (3, 3), (2, 2))), r"ascend, got \(2, 2\) behind \(3, 3\)"),
        (dict(grids=()), r"pairs of positive integers, got \(\)"),
        (dict(bits=0), "bits and cells must be at least 1, got 0, 1"),
        (dict(cells=0), "bits and cells must be at least 1, got 4, 0"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleBSQ(**{"grids": SQUARE, "bits": 4} | bad)


def test_a_number_of_scales_that_there_is_not():
    quantizer = MultiScaleBSQ(SQUARE, 4)
    codes = quantizer.encode(latents(quantizer))
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=f"scales must be from 0 to 4, got {wrong}"):
            quantizer.decode(codes, wrong)

"""The multi-scale quantizer against a slow one that loops over scales, images and cells."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from builders import build
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, phi_choice, pyramid

SQUARE = ((1, 1), (2, 2), (3, 3), (5, 5))
WIDE = ((1, 1), (1, 2), (2, 3), (4, 7))
CASES = {
    "square": dict(grids=SQUARE),
    "wide": dict(grids=WIDE, phis=0, phi_ratio=0.3),
    "one phi, directions": dict(grids=WIDE, phis=1, l2_norm=True),
    "from 2 x 3": dict(grids=((2, 3), (4, 6)), phis=2, phi_ratio=1.0),
    "one scale": dict(grids=((3, 4),)),
}


def make(vocab: int = 24, dim: int = 4, **settings) -> MultiScaleQuantizer:
    settings = {"phis": 4, "phi_ratio": 0.5, "l2_norm": False} | settings
    return build(lambda s: MultiScaleQuantizer(vocab=vocab, dim=dim, **s), settings)


def latents(quantizer: MultiScaleQuantizer, batch: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dim = quantizer.embedding.embedding_dim
    return torch.randn(batch, dim, *quantizer.grids[-1], generator=generator)


def added(quantizer: MultiScaleQuantizer, small: torch.Tensor, k: int) -> torch.Tensor:
    """What a map (C, h_k, w_k) adds to the latent, (C, h, w)."""
    large = F.interpolate(small[None], quantizer.grids[-1], mode="bicubic")
    phi = quantizer.phi[quantizer.phi_of[k]]
    mixed = F.conv2d(large, phi.weight, phi.bias, padding=1)
    return (large * (1 - phi.ratio) + mixed * phi.ratio)[0]


def area(latent: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The mean of every cell's area, cell by cell: (C, h_k, w_k)."""
    (h, w), (rows, columns) = latent.shape[1:], grid
    small = torch.empty(len(latent), rows, columns)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * h // rows, -(-(i + 1) * h // rows)
            left, right = j * w // columns, -(-(j + 1) * w // columns)
            small[:, i, j] = latent[:, top:bottom, left:right].mean((1, 2))
    return small


def slow(quantizer: MultiScaleQuantizer, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (N,) and the latents (K, C, h, w) after each scale, of one image's (C, h, w)."""
    book = quantizer.embedding.weight
    latent, codes, after = torch.zeros_like(z), [], []
    for k, grid in enumerate(quantizer.grids):
        small = area(z - latent, grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                cell = small[:, i, j].clone()
                if quantizer.l2_norm:
                    code = F.cosine_similarity(book, cell[None]).argmax()
                else:
                    code = (book - cell).square().sum(1).argmin()
                codes.append(code)
                small[:, i, j] = book[code]
        latent = latent + added(quantizer, small, k)
        after.append(latent)
    return torch.stack(codes), torch.stack(after)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_codes_and_latents_are_those_of_the_loop(case):
    quantizer = make(**CASES[case])
    z = latents(quantizer)
    codes = quantizer.encode(z)
    assert codes.shape == (3, sum(h * w for h, w in quantizer.grids))
    decoded = {k: quantizer.decode(codes, k) for k in range(1, len(quantizer.grids) + 1)}
    for b in range(3):
        wanted, after = slow(quantizer, z[b])
        assert torch.equal(codes[b], wanted)
        for k, latent in decoded.items():
            torch.testing.assert_close(latent[b], after[k - 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(quantizer.decode(codes), decoded[len(quantizer.grids)])
    torch.testing.assert_close(quantizer.decode(quantizer.embed(codes)), quantizer.decode(codes))
    assert not quantizer.decode(codes, 0).any()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_what_predicts_a_scale_is_the_latent_before_it_shrunk(case):
    quantizer = make(**CASES[case])
    codes = quantizer.encode(latents(quantizer))
    read = quantizer.inputs(codes)
    first = quantizer.sizes[0]
    assert read.shape == (3, codes.shape[1] - first, 4)
    parts = read.split(quantizer.sizes[1:], 1)
    for k, part in enumerate(parts, 1):
        latent = quantizer.decode(codes, k)
        for b in range(3):
            wanted = area(latent[b], quantizer.grids[k]).flatten(1).T
            torch.testing.assert_close(part[b], wanted, rtol=0, atol=1e-5)
    later = codes.clone()
    later[:, -quantizer.sizes[-1] :] = 0
    assert torch.equal(quantizer.inputs(later), read), "the last scale predicts nothing"


@pytest.mark.parametrize("case", CASES)
def test_losses_are_means_over_scales_and_where_their_gradients_go(case):
    quantizer = make(**CASES[case])
    z = latents(quantizer).requires_grad_()
    out = quantizer(z)
    after = torch.stack([slow(quantizer, one.detach())[1] for one in z], 1)  # (K, B, C, h, w)
    expected = (after - z).square().flatten(1).mean(1).mean()
    torch.testing.assert_close(out.losses["codebook"], expected)
    torch.testing.assert_close(out.losses["commitment"], expected)
    assert torch.equal(out.codes, quantizer.encode(z))
    weights = list(quantizer.parameters())
    served = {id(p) for i in set(quantizer.phi_of) for p in quantizer.phi[i].parameters()}
    served.add(id(quantizer.embedding.weight))

    def gradients(loss):
        return torch.autograd.grad(loss, [z, *weights], retain_graph=True, allow_unused=True)

    slow_ones = gradients(expected)
    on_z, *others = gradients(out.losses["commitment"])
    torch.testing.assert_close(on_z, slow_ones[0])
    assert all(g is None for g in others)
    on_z, *others = gradients(out.losses["codebook"])
    assert on_z is None
    for weight, found, wanted in zip(weights, others, slow_ones[1:], strict=True):
        assert (found is not None) == (id(weight) in served)
        if found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_straight_through():
    quantizer = make(grids=WIDE)
    z = latents(quantizer).requires_grad_()
    out, weights = quantizer(z), torch.randn(z.shape)
    torch.testing.assert_close(out.latent, quantizer.decode(out.codes), rtol=0, atol=1e-5)
    (grad,) = torch.autograd.grad((out.latent * weights).sum(), z)
    assert torch.equal(grad, weights)
    assert set(out.losses) == {"codebook", "commitment"}


def test_the_entropy_loss_trains_both_sides_and_changes_no_code():
    quantizer = make(grids=WIDE)
    z = latents(quantizer).requires_grad_()
    plain, out = quantizer(z), quantizer(z, entropy=True)
    assert torch.equal(out.codes, plain.codes)
    for name in plain.losses:
        torch.testing.assert_close(out.losses[name], plain.losses[name])
    grads = torch.autograd.grad(out.losses["entropy"], [z, quantizer.embedding.weight])
    assert all(g.abs().max() > 0 for g in grads)


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=0, max_size=4),
    first=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    phis=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_any_schedule(steps, first, phis, seed):
    grids = [first]
    for dh, dw in steps:
        if dh or dw:
            grids.append((grids[-1][0] + dh, grids[-1][1] + dw))
    quantizer = make(grids=tuple(grids), phis=phis)
    z = latents(quantizer, 1, seed)
    codes, after = slow(quantizer, z[0])
    assert torch.equal(quantizer.encode(z)[0], codes)
    torch.testing.assert_close(quantizer.decode(codes[None])[0], after[-1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_each_scale_repairs_what_the_ones_before_left():
    """With the identity for phi and a rich codebook, every scale brings the latent nearer."""
    quantizer = make(vocab=2048, grids=pyramid(1, 2, 4, 8), phi_ratio=0.0)
    z = latents(quantizer)
    codes = quantizer.encode(z)
    errors = [(quantizer.decode(codes, k) - z).square().mean().item() for k in range(5)]
    assert errors == sorted(errors, reverse=True) and errors[4] < 0.3 * errors[0]
    wrong = codes.clone()
    wrong[:, 0] = (wrong[:, 0] + 7) % 2048  # the first scale errs, the later ones make it good
    begun = quantizer.decode(wrong, 1)
    fixed, latent = [], begun
    for k in range(1, 4):
        fixed.append(quantizer.nearest(quantizer.shrink(z - latent, k)))
        latent = quantizer.add(latent, quantizer.embed(fixed[-1]), k)
    after = (latent - z).square().mean()
    assert after < 0.5 * (begun - z).square().mean()
    assert after < (quantizer.decode(wrong) - z).square().mean(), "other codes than before"


@torch.no_grad()
def test_a_lower_precision_of_weights_and_autocast():
    quantizer = make(grids=WIDE)
    z = latents(quantizer)
    codes, decoded = quantizer.encode(z), quantizer.decode(quantizer.encode(z))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z), codes)
        assert quantizer(z).latent.dtype == torch.float32
        parts = quantizer.compared(z)
        torch.testing.assert_close(quantizer.decode(codes).float(), decoded, rtol=0.05, atol=0.1)
    assert all(torch.equal(a, b) for a, b in zip(parts, quantizer.compared(z), strict=True))
    small = make(grids=WIDE).bfloat16()
    assert small.encode(z).shape == codes.shape
    assert small.inputs(codes).dtype == torch.bfloat16
    torch.testing.assert_close(small.decode(codes).float(), decoded, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("scales", "phis", "wanted"),
    [
        (10, 4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),  # as published: rounding decides 2/9 and 7/9
        (4, 4, [0, 1, 2, 3]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 2, [0, 0, 1]),  # the middle lies between both: the first
        (10, 1, [0] * 10),
        (1, 4, [0]),
    ],
)
def test_which_phi_serves_a_scale(scales, phis, wanted):
    assert phi_choice(scales, phis) == wanted


def test_schedules():
    assert pyramid(1, 2, 4) == ((1, 1), (2, 2), (4, 4))
    assert pyramid(1, 2, 3, 8, grid=(8, 16 // 4)) == ((1, 1), (2, 1), (3, 2), (8, 4))
    with pytest.raises(ValueError, match=r"longer side of \(8, 4\) must be the last of \(1, 4\)"):
        pyramid(1, 4, grid=(8, 4))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(grids=((1, 1), (3, 3), (2, 2))), r"ascend, got \(2, 2\) behind \(3, 3\)"),
        (dict(grids=((1, 1), (3, 2), (2, 3))), r"ascend, got \(2, 3\) behind \(3, 2\)"),
        (dict(grids=((2, 2), (2, 2))), r"ascend, got \(2, 2\) behind \(2, 2\)"),
        (dict(grids=()), r"pairs of positive integers, got \(\)"),
        (dict(grids=((0, 1),)), r"pairs of positive integers, got \(\(0, 1\),\)"),
        (dict(grids=SQUARE, vocab=1), "vocab must be at least 2 .* got 1, 4"),
        (dict(grids=SQUARE, dim=0), "dim at least 1, got 24, 0"),
        (dict(grids=SQUARE, phis=-1), "got -1"),
        (dict(grids=SQUARE, phi_ratio=1.5), r"in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleQuantizer(**{"vocab": 24, "dim": 4} | bad)

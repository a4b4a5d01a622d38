"""Residual quantization against a plain search; sums, soft and drawn codes, cells of a position."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import build
from smalti.tokenizers.quantize.residual import ResidualQuantizer
from smalti.tokenizers.quantize.vq import entropy_loss
from smalti.tokenizers.rq_vae import RQVAE, RQVAEConfig, f16, f32, fold, tiny, unfold

DEPTH = 3
SHARED = pytest.mark.parametrize("shared", [True, False])


def made(shared: bool, vocab: int = 20, dim: int = 5) -> ResidualQuantizer:
    return build(lambda v: ResidualQuantizer(v, dim, DEPTH, shared), vocab)


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(seed))


@SHARED
def test_codes_are_those_of_a_plain_search(shared):
    quantizer, z = made(shared), latents()
    codes = quantizer.encode(z)
    assert codes.shape == (2, 3, 4, DEPTH) and quantizer.embedding.weight.shape[0] == (
        20 if shared else 60
    )
    for b in range(2):
        for i in range(3):
            for j in range(4):
                left = z[b, :, i, j].double()
                for d in range(DEPTH):
                    first = 0 if shared else 20 * d
                    book = quantizer.embedding.weight[first : first + 20].double()
                    nearest = (book - left).square().sum(1).argmin()
                    assert codes[b, i, j, d] == nearest
                    left = left - book[nearest]


@SHARED
def test_sums_and_parts_of_codes(shared):
    quantizer, codes = made(shared), made(shared).encode(latents())
    rows, sums = quantizer.embed(codes), quantizer.sums(codes)
    assert rows.shape == sums.shape == (2, 3, 4, DEPTH, 5)
    for d in range(1, DEPTH + 1):
        part = quantizer.partial(codes, d)
        torch.testing.assert_close(part.permute(0, 2, 3, 1), rows[..., :d, :].sum(-2))
        torch.testing.assert_close(part.permute(0, 2, 3, 1), sums[..., d - 1, :])
    assert torch.equal(quantizer.partial(codes, DEPTH), quantizer.decode(codes))
    for wrong in (0, DEPTH + 1):
        with pytest.raises(ValueError, match=f"depth must be from 1 to 3, got {wrong}"):
            quantizer.partial(codes, wrong)


@SHARED
def test_what_is_left_shrinks_and_losses_are_its_mean_square(shared):
    quantizer, z = made(shared, vocab=400), latents()
    out, left = quantizer(z), []
    for d in range(1, DEPTH + 1):
        left.append((z - quantizer.partial(out.codes, d)).square().mean())
    assert left[0] > left[1] > left[2]
    for name in ("codebook", "commitment"):
        torch.testing.assert_close(out.losses[name], torch.stack(left).mean())


def test_losses_move_what_they_are_to_move():
    quantizer, z = made(False), latents().requires_grad_()
    out, table = quantizer(z), quantizer.embedding.weight
    (on_latents,) = torch.autograd.grad(out.losses["commitment"], [z], retain_graph=True)
    sums = torch.stack([quantizer.partial(out.codes, d) for d in range(1, DEPTH + 1)]).detach()
    torch.testing.assert_close(on_latents, 2 * (z - sums).mean(0).detach() / z.numel())
    unused = torch.autograd.grad(out.losses["commitment"], [table], allow_unused=True)
    assert unused == (None,)
    (on_codes,) = torch.autograd.grad(out.losses["codebook"], [table])
    used = torch.zeros(60, dtype=torch.bool)
    used[(out.codes + 20 * torch.arange(DEPTH)).flatten()] = True
    assert torch.equal(on_codes.abs().amax(1) > 0, used)


def test_entropy_is_the_mean_over_depths():
    quantizer, z = made(False), latents()
    loss = quantizer(z, entropy=True).losses["entropy"]
    each = [
        entropy_loss(-quantizer.distances(rows, d)) for d, rows in enumerate(quantizer.compared(z))
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())


@SHARED
def test_soft_codes_are_sure_when_cold_and_drawn_by_their_shares(shared):
    quantizer, z = made(shared), latents()
    soft, codes = quantizer.soft(z, 1e-4)
    assert torch.equal(codes, quantizer.encode(z)) and torch.equal(soft.argmax(-1), codes)
    torch.testing.assert_close(soft.sum(-1), torch.ones(codes.shape))
    # one latent many times: how often a code is drawn is its share of the soft code
    many = z[:1, :, :1, :1].expand(4000, 5, 1, 1)
    uniform = torch.rand(4000, 1, 1, DEPTH, generator=torch.Generator().manual_seed(1))
    soft, codes = quantizer.soft(many, 2.0, uniform)
    found = torch.bincount(codes[..., 0].flatten(), minlength=20) / 4000
    torch.testing.assert_close(found, soft[0, 0, 0, 0], rtol=0, atol=0.03)
    again = quantizer.soft(many, 2.0, uniform)[1]
    assert torch.equal(again, codes) and len(codes.unique()) > 3
    # the next depth softens what the drawn code left over
    rest = many[:5].flatten(1) - quantizer.embed(codes)[:5, 0, 0, 0]
    wanted = (-quantizer.distances(rest, 1) / 2).softmax(-1)
    torch.testing.assert_close(soft[:5, 0, 0, 1], wanted)
    with pytest.raises(ValueError, match="temperature must be a positive number, got 0"):
        quantizer.soft(z, 0)


@pytest.mark.parametrize("numbers", [(1, 4, 2), (8, 0, 2), (8, 4, 0)])
def test_numbers_that_make_no_quantizer(numbers):
    with pytest.raises(ValueError, match=f"got {', '.join(map(str, numbers))}"):
        ResidualQuantizer(*numbers)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_cells_are_folded_row_by_row_and_unfolded(cells, height, width, channels):
    x = torch.arange(2 * channels * cells**2 * height * width)
    x = x.view(2, channels, cells * height, cells * width)
    folded = fold(x, cells)
    assert folded.shape == (2, channels * cells**2, height, width)
    assert torch.equal(unfold(folded, cells), x)
    corner = x[0, :, :cells, :cells]  # (C, r, r), of the first position
    assert torch.equal(folded[0, :, 0, 0], corner.permute(1, 2, 0).flatten())


@torch.no_grad()
def test_a_position_may_cover_several_cells():
    model = build(RQVAE, replace(tiny(), cells=2, size=(16, 24)))
    assert model.spec.grids == ((2, 3),) and model.factor == 8
    assert model.quantize.embedding.weight.shape == (32, 16)
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.encode(images)
    assert codes.shape == (2, 6, 3)
    torch.testing.assert_close(model(images).images, model.decode(codes), rtol=0, atol=1e-5)
    soft, same = model.soft_codes(images, 0.01)
    assert torch.equal(same, codes) and soft.shape == (2, 6, 3, 32)
    uniform = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(model.soft_codes(images, 9.0, uniform)[1], codes)


def test_published_sizes():
    assert f32().spec.grids == ((8, 8),) and f32().spec.trailing == (4,)
    assert f16(4, 512).spec.grids == ((32, 32),) and not f16().shared
    assert f32().attends == [5] and f16().attends == [4]
    with torch.device("meta"):
        tables = RQVAE(f16(2)).quantize.embedding.weight
    assert tables.shape == (2 * 16384, 256)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depth": 0}, "depth must be"),
        ({"cells": 3}, r"size must be multiples of 12 pixels, got \(16, 16\)"),
        ({"vocab": 1}, "vocab must be"),
    ],
)
def test_settings_out_of_range(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(tiny(), **changes)
    assert RQVAEConfig().factor == 32

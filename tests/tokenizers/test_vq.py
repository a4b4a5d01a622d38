import math

import pytest
import torch
from torch.nn import functional as F

from smalti.tokenizers.quantize.vq import VectorQuantizer, entropy_loss


def setup(l2_norm: bool, vocab: int = 20, dim: int = 4) -> tuple[VectorQuantizer, torch.Tensor]:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(vocab, dim, l2_norm)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.randn(vocab, dim))
    return quantizer, torch.randn(2, dim, 3, 5)


def unit(x: torch.Tensor, l2_norm: bool, axis: int) -> torch.Tensor:
    return F.normalize(x, dim=axis) if l2_norm else x


@pytest.mark.parametrize("l2_norm", [False, True])
def test_nearest_code_and_its_vector(l2_norm):
    quantizer, z = setup(l2_norm)
    codes = quantizer.encode(z)
    book = unit(quantizer.embedding.weight.detach(), l2_norm, 1)
    rows = unit(z, l2_norm, 1).movedim(1, -1)
    assert codes.shape == (2, 3, 5)
    assert torch.equal(codes, torch.cdist(rows, book).argmin(-1))
    decoded = quantizer.decode(codes)
    torch.testing.assert_close(decoded, book[codes].movedim(-1, 1))
    assert torch.equal(quantizer.encode(decoded), codes), "a codebook vector is its own code"


def test_the_first_of_equal_codes_wins():
    quantizer, z = setup(False)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(quantizer.embedding.weight[:1].expand(20, -1).clone())
    assert not quantizer.encode(z).any()


@pytest.mark.parametrize("l2_norm", [False, True])
def test_losses_and_where_their_gradients_go(l2_norm):
    quantizer, z = setup(l2_norm)
    z.requires_grad_()
    out = quantizer(z, entropy=True)
    book = unit(quantizer.embedding.weight, l2_norm, 1)[out.codes].movedim(-1, 1)
    expected = (unit(z, l2_norm, 1) - book).square().mean()
    weight = quantizer.embedding.weight
    torch.testing.assert_close(out.losses["codebook"], expected)
    torch.testing.assert_close(out.losses["commitment"], expected)

    def gradients(loss):
        return torch.autograd.grad(loss, [z, weight], retain_graph=True, allow_unused=True)

    slow_z, slow_weight = gradients(expected)
    on_z, on_weight = gradients(out.losses["codebook"])
    assert on_z is None
    torch.testing.assert_close(on_weight, slow_weight)
    on_z, on_weight = gradients(out.losses["commitment"])
    assert on_weight is None
    torch.testing.assert_close(on_z, slow_z)
    assert all(g.abs().max() > 0 for g in gradients(out.losses["entropy"])), "it trains both"
    assert set(quantizer(z).losses) == {"codebook", "commitment"}


@pytest.mark.parametrize("l2_norm", [False, True])
def test_straight_through(l2_norm):
    """The value is the code's vector, the gradient that of the latent it replaces."""
    quantizer, z = setup(l2_norm)
    z.requires_grad_()
    out, weights = quantizer(z), torch.randn(z.shape)
    torch.testing.assert_close(out.latent, quantizer.decode(out.codes), rtol=0, atol=1e-6)
    grad, none = torch.autograd.grad(
        (out.latent * weights).sum(), [z, quantizer.embedding.weight], allow_unused=True
    )
    (expected,) = torch.autograd.grad((unit(z, l2_norm, 1) * weights).sum(), z)
    torch.testing.assert_close(grad, expected)
    assert none is None


def test_entropy_is_low_for_sure_and_varied_codes():
    count = 8
    sure_and_varied = entropy_loss(-100 * (1 - torch.eye(count)))
    sure_and_same = entropy_loss(-100 * (1 - torch.eye(count)[:1].expand(count, -1)))
    unsure = entropy_loss(torch.zeros(count, count))
    assert sure_and_varied.item() == pytest.approx(-math.log(count), abs=1e-3)
    assert sure_and_same.item() == pytest.approx(0, abs=1e-3)
    assert unsure.item() == pytest.approx(0, abs=1e-3)


def test_l2_rows_start_with_length_1():
    rows = VectorQuantizer(64, 8).embedding.weight
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(64))
    assert VectorQuantizer(64, 8, l2_norm=False).embedding.weight.abs().max() <= 1 / 64


@pytest.mark.parametrize(("vocab", "dim"), [(1, 4), (0, 4), (16, 0)])
def test_bad_sizes(vocab, dim):
    with pytest.raises(ValueError, match=f"got {vocab}, {dim}"):
        VectorQuantizer(vocab, dim)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_autocast_computes_codes_in_float32(l2_norm):
    torch.manual_seed(0)
    quantizer = VectorQuantizer(512, 16, l2_norm)
    z = quantizer.codebook()[torch.arange(512)].T.reshape(1, 16, 16, 32)
    z = z + 1e-3 * torch.randn_like(z)
    expected = quantizer.encode(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z), expected)
        assert torch.equal(quantizer(z).codes, expected)

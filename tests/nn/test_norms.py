import pytest
import torch

from smalti.nn.norms import RMSNorm


def norm(dim: int = 12, eps: float = 1e-5) -> RMSNorm:
    module = RMSNorm(dim, eps)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 2, dim))
    return module


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("drawn", [False, True])
def test_formula(eps, scale, drawn):
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)) * scale
    y = x.double()
    expected = y / (y.square().mean(-1, keepdim=True) + eps).sqrt() * torch.linspace(0.5, 2, 12)
    kept = x.clone()
    with torch.inference_mode(drawn):
        torch.testing.assert_close(norm(eps=eps)(x), expected.float(), rtol=1e-5, atol=1e-7)
    assert torch.equal(x, kept)


def test_what_is_drawn_is_normed_in_fewer_operations_to_the_same_numbers():
    torch.manual_seed(0)
    module, x = norm(768), torch.randn(64, 768)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), module(x.double()).float(), rtol=1e-6, atol=1e-7)


def test_a_fresh_norm_gives_rows_of_length_sqrt_dim():
    y = RMSNorm(64)(torch.randn(3, 64) * 7)
    torch.testing.assert_close(y.norm(dim=-1), torch.full((3,), 8.0))


def test_casts_back_before_the_weight():
    """Llama's order: normalise in float32, round to bfloat16, then multiply."""
    module, x = norm(256).bfloat16(), torch.randn(8, 256).bfloat16() * 3
    y = x.float()
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    out = module(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, y.bfloat16() * module.weight)
    other = (y * module.weight.float()).bfloat16()
    assert not torch.equal(out, other), "the test must tell the two orders apart"


def test_squares_are_taken_in_float32():
    x = torch.full((1, 12), 1000.0).half()  # whose square is beyond float16
    assert torch.equal(RMSNorm(12).half()(x), torch.ones(1, 12).half())

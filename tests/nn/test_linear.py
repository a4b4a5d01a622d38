"""`smalti.nn.linear` against `F.linear`: values, shapes, gradients, packed weights, compile."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smalti.nn.linear import Linear, fused, linear, packed
from smalti.train.lora import LoraLinear

ROWS = (0, 1, 2, 3, 4, 5, 8, 16, 33, 128)
DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def layer(dtype: torch.dtype = torch.float32, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    return Linear(96, 80, bias=bias, dtype=dtype)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE[b.dtype], rtol=TOLERANCE[b.dtype])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("pack", (False, True))
def test_values_equal_f_linear(rows: int, dtype: torch.dtype, bias: bool, pack: bool) -> None:
    m = layer(dtype, bias)
    x = torch.randn(rows, 96).to(dtype)
    with torch.inference_mode(), packed(m) if pack else nullcontext():
        out = m(x)
        close(out, F.linear(x, m.weight, m.bias))
    assert out.is_contiguous()


@pytest.mark.parametrize("rows", (1, 2, 16, 128))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gelu", ("", "none", "tanh"))
@pytest.mark.parametrize("pack", (False, True))
def test_bias_and_gelu_in_one_operation_equal_those_behind_it(rows, dtype, gelu, pack) -> None:
    m, x = layer(dtype, bias=False), torch.randn(rows, 96).to(dtype)
    own, bias = layer(dtype), torch.randn(80).to(dtype)
    for one, more in ((m, bias), (m, None), (own, None)):
        expected = F.linear(x.float(), one.weight.float())
        add = one.bias if more is None else more
        expected = expected if add is None else expected + add.float()
        expected = F.gelu(expected, approximate=gelu) if gelu else expected
        with torch.inference_mode(), packed(one) if pack else nullcontext():
            found = fused(one, x, more, gelu)
            close(found, expected.to(dtype))
    if dtype == torch.float32:
        wrong = {"": "none", "none": "tanh", "tanh": "none"}[gelu]
        assert not torch.allclose(found, F.gelu(own(x), approximate=wrong), atol=1e-5, rtol=1e-5)


def test_layers_of_lora_and_training_are_fused_with_nothing() -> None:
    m, x = LoraLinear(layer(), 4, 2.0), torch.randn(3, 96)
    nn.init.normal_(m.up)
    with torch.no_grad(), packed(m):
        close(fused(m, x, gelu="tanh"), F.gelu(m(x), approximate="tanh"))
    plain = layer()
    with packed(plain):
        fused(plain, x, gelu="none").sum().backward()
    assert plain.weight.grad is not None


@pytest.mark.parametrize(
    "shape", ((96,), (1, 96), (2, 1, 96), (1, 2, 96), (2, 7, 96), (2, 1, 2, 96))
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pack", (False, True))
def test_leading_shape_is_kept(shape: tuple[int, ...], dtype: torch.dtype, pack: bool) -> None:
    m = layer(dtype)
    x = torch.randn(shape).to(dtype)
    with torch.no_grad(), packed(m) if pack else nullcontext():
        out = m(x)
        close(out, F.linear(x, m.weight, m.bias))
    assert out.shape == (*shape[:-1], 80)


@pytest.mark.parametrize("pack", (False, True))
def test_input_may_be_a_transposed_view(pack: bool) -> None:
    m = layer()
    x = torch.randn(96, 2).t()
    with torch.no_grad(), packed(m) if pack else nullcontext():
        close(m(x), F.linear(x, m.weight, m.bias))


@pytest.mark.parametrize("rows", (1, 2, 16))
@pytest.mark.parametrize("pack", (False, True))
def test_gradients_equal_f_linear(rows: int, pack: bool) -> None:
    m = layer()
    x = torch.randn(rows, 96, requires_grad=True)
    with packed(m) if pack else nullcontext():
        got = torch.autograd.grad(m(x).square().sum(), [x, m.weight, m.bias])
    want = torch.autograd.grad(F.linear(x, m.weight, m.bias).square().sum(), [x, m.weight, m.bias])
    for a, b in zip(got, want, strict=True):
        close(a, b)


def test_gradient_reaches_input_of_frozen_weights() -> None:
    m = layer().requires_grad_(False)
    x = torch.randn(2, 96, requires_grad=True)
    (grad,) = torch.autograd.grad(m(x).sum(), x)
    close(grad, m.weight.sum(0).expand(2, 96))


def test_packed_ends_with_the_block() -> None:
    m = layer()
    x = torch.randn(2, 96)
    with torch.no_grad():
        with packed(m):
            pass
        m.weight.zero_()
        close(m(x), m.bias.expand(2, 80))
    assert list(m.state_dict()) == ["weight", "bias"]


def test_packed_of_another_dtype_falls_back() -> None:
    m = layer(torch.float16)
    x = torch.randn(2, 96).half()
    with torch.no_grad(), packed(m):
        assert torch.equal(m(x), F.linear(x, m.weight, m.bias))


@pytest.mark.parametrize("rows", (1, 2, 16))
@pytest.mark.parametrize("pack", (False, True))
def test_compiles_without_graph_breaks(rows: int, pack: bool) -> None:
    torch.compiler.reset()
    m = layer()
    x = torch.randn(rows, 96)
    with torch.no_grad(), packed(m) if pack else nullcontext():
        close(torch.compile(m, backend="aot_eager", fullgraph=True)(x), m(x))


def test_wrong_width_raises() -> None:
    with pytest.raises(RuntimeError), torch.no_grad():
        linear(torch.randn(2, 95), torch.randn(80, 96))

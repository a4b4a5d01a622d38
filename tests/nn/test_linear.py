"""`smalti.nn.linear` against `F.linear`: values, shapes, gradients, packed weights, compile."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from builders import build, models
from smalti.devices.named import cast
from smalti.nn.linear import Linear, copied_bytes, fused, linear, packed
from smalti.nn.products import FEW, LARGE, SMALL, ByRows, Halved, Halves, Ordered, copied
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


def kept(m: Linear) -> bool:
    return m._copy is not None


def test_copies_are_kept_from_one_block_to_the_next() -> None:
    m = layer()
    with packed(m):
        first = m._copy
    with packed(m), torch.no_grad():
        assert m._copy is first is not None
        m(torch.randn(FEW + 1, 96))
    assert copied_bytes(m) == m.weight.nbytes


CHANGES = {
    "in place": lambda m: m.weight.mul_(2),
    "behind its back": lambda m: m.weight.data.mul_(2),
    "loaded": lambda m: m.load_state_dict({k: 2 * v for k, v in m.state_dict().items()}),
    "assigned": lambda m: m.load_state_dict(
        {k: 2 * v for k, v in m.state_dict().items()}, assign=True
    ),
    "replaced": lambda m: setattr(m, "weight", torch.nn.Parameter(2 * m.weight)),
    "other data": lambda m: setattr(m.weight, "data", 2 * m.weight.data),
    "cast": lambda m: cast(m, torch.bfloat16),
    "an optimizer": lambda m: torch.optim.SGD(m.parameters(), lr=0.5).step(),
}
"""Ways in which weights change."""


@pytest.mark.parametrize("change", CHANGES)
def test_no_block_draws_from_weights_that_were(change: str) -> None:
    m = layer()
    m.weight.grad = m.weight.detach().clone()
    with torch.no_grad():
        with packed(m):
            m(torch.randn(4, 96))
        CHANGES[change](m)
        x = torch.randn(4, 96, dtype=m.weight.dtype)
        with packed(m):
            close(m(x), F.linear(x, m.weight, m.bias))


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "behind its back"])
def test_nor_goes_on_with_them(change: str) -> None:
    m = layer()
    m.weight.grad = m.weight.detach().clone()
    with torch.no_grad(), packed(m):
        CHANGES[change](m)
        x = torch.randn(4, 96, dtype=m.weight.dtype)
        close(m(x), F.linear(x, m.weight, m.bias))


def test_two_blocks_may_be_open_and_end_in_any_order() -> None:
    m, x = layer(), torch.randn(4, 96)
    with torch.no_grad():
        first, second = packed(m), packed(m)
        first.__enter__()
        second.__enter__()
        inside = m(x)
        first.__exit__(None, None, None)
        assert torch.equal(m(x), inside)
        second.__exit__(None, None, None)
        assert torch.equal(m(x), linear(x, m.weight, m.bias)), "no copy is used outside"


def test_a_copy_is_not_carried_along() -> None:
    m = layer()
    with packed(m):
        other = copy.deepcopy(m)
        again = pickle.loads(pickle.dumps(m))
    assert kept(m) and not kept(other) and not kept(again)
    assert not other._blocks and not again._blocks
    with packed(m):
        pass
    assert not kept(m.to("cpu")), "nor when it is moved"
    with packed(m):
        pass
    assert kept(m.eval()) and not kept(m.train()), "nor when it goes on learning"


def test_weights_made_in_inference_mode_are_copied_too() -> None:
    with torch.inference_mode():
        m, x = layer(), torch.randn(4, 96)
        with packed(m):
            close(m(x), F.linear(x, m.weight, m.bias))
            assert kept(m)
        m.weight.mul_(2)
        with packed(m):
            close(m(x), F.linear(x, m.weight, m.bias))


PROCESSORS = {
    "Intel with AVX-512": {"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True},
    "AMD with AVX-512": {"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_bf16": True},
    "AVX2": {"cpu_name": "AMD EPYC", "avx2": True},
}


@pytest.mark.parametrize("rows", (1, 2, 3, 16))
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float16))
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_processors_copy_gives_the_product(
    processor: str, dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS[processor])
    m, x = layer(dtype), torch.randn(rows, 96).to(dtype)
    want = F.linear(x.float(), m.weight.float(), m.bias.float())
    with torch.no_grad(), packed(m):
        got = m(x)
    assert kept(m) and got.dtype == dtype
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(got.float(), want, atol=rounding, rtol=rounding)


def test_few_float32_rows_have_the_copy_that_is_fast_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    weight, size = torch.randn(LARGE // 4096, 4096) / 64, 4 * LARGE
    few, many = torch.randn(2, 4096), torch.randn(FEW + 1, 4096)
    for processor, bytes_of_few in (("AVX2", size), ("Intel with AVX-512", 0)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda p=processor: PROCESSORS[p])
        product = copied(weight)
        assert product.nbytes == 0, "none is made before it is needed"
        close(product(few, None), F.linear(few, weight))
        assert product.nbytes == bytes_of_few
        close(product(many, None), F.linear(many, weight))
        assert product.nbytes == bytes_of_few + size


@pytest.mark.parametrize("processor", ("AVX2", "Intel with AVX-512"))
def test_a_small_weight_is_copied_for_many_rows_alone(
    processor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS[processor])
    weight = torch.randn(SMALL // 256, 256) / 16
    product = copied(weight)
    for rows, nbytes in ((FEW, 0), (FEW + 1, weight.nbytes)):
        x = torch.randn(rows, 256)
        close(product(x, None), F.linear(x, weight))
        assert product.nbytes == nbytes


def test_where_a_small_weight_lies_in_memory_changes_no_digit() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(50, 96), torch.randn(FEW, 96)
    want = copied(weight)(x, None)
    for numbers in (1, 2, 4, 8):
        elsewhere = torch.empty(numbers + weight.numel())[numbers:].view_as(weight).copy_(weight)
        product = copied(elsewhere)
        assert torch.equal(product(x, None), want) and product.nbytes == weight.nbytes


def test_a_weight_between_small_and_large_has_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS["AVX2"])
    assert isinstance(copied(torch.randn(SMALL // 256 + 1, 256)), Ordered)


def test_no_rows_are_multiplied_by_any_copy() -> None:
    for make in (Ordered, Halved, Halves):
        assert make(torch.randn(64, 96))(torch.empty(0, 96), None).shape == (0, 64)


@pytest.mark.parametrize("scale", (1e-30, 1e-6, 1e-3, 0.02, 1.0, 6e4))
def test_two_halves_are_as_exact_as_float32(scale: float) -> None:
    torch.manual_seed(0)
    weight = scale * (2 * torch.rand(64, 1024) - 1)
    x = torch.randn(4, 1024)
    want = x.double() @ weight.double().t()
    sizes = x.abs().double() @ weight.abs().double().t()  # of what is summed up
    errors = {make: (make(weight)(x, None) - want).abs() for make in (Halves, Ordered)}
    smallest = 1024 * x.abs().max() * 2.0**-36  # half of the last digit of 2,048 times a remainder
    assert (errors[Halves] <= 4e-7 * sizes + smallest).all()
    assert (errors[Ordered] <= 4e-7 * sizes).all(), "what it is compared with"


@pytest.mark.parametrize("number", (7e4, -7e4, float("nan"), float("inf")))
def test_a_weight_beyond_float16_is_kept_as_it_is(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS["AVX2"])
    weight = torch.ones(LARGE // 1024, 1024)
    assert isinstance(copied(weight), ByRows)
    weight[0, 0] = number
    assert isinstance(copied(weight), Ordered)


def test_half_precision_without_instructions_is_multiplied_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 4096).bfloat16(), torch.randn(8, 4096).bfloat16()
    want = F.linear(x.float(), weight.float()).bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS["AVX2"])
    product = copied(weight)
    assert isinstance(product, Halved) and product.nbytes == 2 * weight.numel()
    assert (product(x, None) == want).float().mean() > 0.99
    large = copied(weight * 2.0**20)
    assert isinstance(large, Ordered) and large.nbytes == 4 * weight.numel()
    assert (large(x, None) == 2.0**20 * want).float().mean() > 0.99
    torch.testing.assert_close(large(x, None), 2.0**20 * want, rtol=2**-7, atol=2**20 * 1e-3)
    monkeypatch.setattr("smalti.nn.products._fbgemm", lambda: False)
    without = copied(weight)
    assert isinstance(without, Ordered) and (without(x, None) == want).float().mean() > 0.99
    torch.testing.assert_close(without(x, None), want, rtol=2**-7, atol=1e-3)


def test_packed_ends_with_the_block() -> None:
    m = layer()
    x = torch.randn(2, 96)
    with torch.no_grad():
        with packed(m):
            pass
        m.weight.zero_()
        close(m(x), m.bias.expand(2, 80))
    assert list(m.state_dict()) == ["weight", "bias"]


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_rar_is_modulated_by_copies(dtype: torch.dtype) -> None:
    """Of half precision, whose many rows a processor without instructions multiplies several times
    slower; float32 has none, which would cost memory for nothing."""
    model = build(*models()["rar"]).to(dtype)
    layers = [m for name, m in model.named_modules() if name.endswith("adaln")]
    x = torch.randn(64, model.config.dim).to(dtype)
    with torch.inference_mode():
        expected = [m(x) for m in layers]
        with packed(model):
            found = [m.copied(x, m.bias) is not None for m in layers]
            assert found == [dtype != torch.float32] * 3
            for m, values in zip(layers, expected, strict=True):
                close(m(x), values)

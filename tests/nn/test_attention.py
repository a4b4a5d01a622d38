import pytest
import torch
from torch import Tensor

from smalti.nn import attention
from smalti.nn.attention import KVCache, attend


def qkv(heads: int, kv_heads: int, n: int, m: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, n, 8), (2, kv_heads, m, 8), (2, kv_heads, m, 8)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def slow(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """One query at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = k[b, h // group] @ q[b, h, i] / q.shape[-1] ** 0.5
                if mask is not None:
                    seen = mask.expand(*q.shape[:3], k.shape[2])[b, h, i]
                    scores = scores.masked_fill(~seen, -torch.inf)
                out[b, h, i] = scores.softmax(0) @ v[b, h // group]
    return out


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 5])
def test_every_query_sees_every_key(kv_heads, n):
    q, k, v = qkv(4, kv_heads, n, 7)
    close(attend(q, k, v), slow(q, k, v))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_causal(kv_heads):
    q, k, v = qkv(4, kv_heads, 6, 6)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    close(attend(q, k, v, causal=True), slow(q, k, v, mask))
    close(attend(q, k, v, mask), slow(q, k, v, mask))


@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 5, 7), (2, 1, 1, 7)])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_mask(shape, kv_heads):
    q, k, v = qkv(4, kv_heads, 5, 7)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    close(attend(q, k, v, mask), slow(q, k, v, mask))


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("native", [False, True])
def test_bfloat16(kv_heads, masked, n, native, monkeypatch):
    monkeypatch.setattr(attention, "fast_bf16_attention", lambda device: native)
    q, k, v = (x.bfloat16() for x in qkv(4, kv_heads, n, 7))
    mask = (torch.arange(7) < 4)[None] if masked else None
    out = attend(q, k, v, mask)
    assert out.dtype == torch.bfloat16
    close(out, slow(q, k, v, mask), 2e-2)
    once = attend(q.float(), k.float(), v.float(), mask).bfloat16()
    if n == 1:  # where keys are converted, it is computed in float32 and rounded once
        assert torch.equal(out, once) or native


@pytest.mark.parametrize("kind", ["plain", "mask", "causal"])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [0, 1 << 40])
def test_training(kind, kv_heads, dtype, fused, monkeypatch):
    """With gradients, which a CPU computes in another way for few scores than for many."""
    monkeypatch.setattr(attention, "FUSED", fused)
    leaves = [x.to(dtype).requires_grad_() for x in qkv(4, kv_heads, 6, 6)]
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    padding = torch.arange(6) < torch.tensor([6, 3])[:, None]
    some = causal & padding[:, None, None] | torch.eye(6, dtype=torch.bool)  # (B, 1, 6, 6)
    mask = {"plain": None, "mask": some, "causal": causal}[kind]
    out = attend(*leaves, mask=some if kind == "mask" else None, causal=kind == "causal")
    assert out.dtype == dtype
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected, weights = slow(*exact, mask), torch.randn(2, 4, 6, 8)
    tight = dtype == torch.float32
    close(out, expected, 1e-6 if tight else 2e-2)
    ours = torch.autograd.grad((out * weights).sum(), leaves)
    for got, want in zip(ours, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        close(got, want, 1e-5 if tight else 0.1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_many_scores_are_trained_by_the_fused_kernel(dropout, monkeypatch):
    plain = list[Tensor]()
    explicit = attention._explicit
    monkeypatch.setattr(
        attention, "_explicit", lambda *args: plain.append(args[0]) or explicit(*args)
    )
    few, many = (torch.randn(1, 2, n, 8).requires_grad_() for n in (8, 1024))
    attend(few, few, few)
    attend(many, many, many, dropout=dropout)
    assert len(plain) == 1 + (dropout > 0)


def test_a_masked_key_has_no_influence():
    q, k, v = qkv(2, 2, 3, 5)
    mask = (torch.arange(5) < 3)[None]
    before = attend(q, k, v, mask)
    k[:, :, 3:], v[:, :, 3:] = 1e4, -1e4
    assert torch.equal(attend(q, k, v, mask), before)


def test_cache_writes_in_place_and_returns_what_is_within_reach():
    cache = KVCache(2, 3, 4, 10, 8, torch.float32, "cpu")
    assert cache.nbytes == 2 * 2 * 3 * 4 * 10 * 8 * 4
    first = torch.randn(2, 3, 4, 3, 8)
    k, v = cache.update(1, torch.arange(3), 5, *first)
    assert k.shape == v.shape == (3, 4, 5, 8)
    assert torch.equal(k[:, :, :3], first[0]) and torch.equal(v[:, :, :3], first[1])
    assert not k[:, :, 3:].any() and not v[:, :, 3:].any(), "empty positions are 0, not NaN"
    second = torch.randn(2, 3, 4, 1, 8)
    k, v = cache.update(1, torch.tensor([3]), 4, *second)
    assert torch.equal(k, torch.cat((first[0], second[0]), 2))
    assert torch.equal(v, torch.cat((first[1], second[1]), 2))
    assert k.data_ptr() == cache.keys[1].data_ptr(), "a view, not a copy"
    assert not cache.keys[0].any() and not cache.values[0].any(), "the other layer is untouched"


def test_cache_writes_where_it_is_told():
    cache = KVCache(1, 1, 1, 6, 2, torch.bfloat16, "cpu")
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16().view(1, 1, 2, 2)
    k, v = cache.update(0, torch.tensor([4, 1]), 6, rows, -rows)
    assert k[0, 0, :, 0].tolist() == [0, 3, 0, 0, 1, 0]
    assert v[0, 0, :, 1].tolist() == [0, -4, 0, 0, -2, 0]
    cache.update(0, torch.tensor([4]), 6, 9 * rows[:, :, :1], rows[:, :, :1])
    assert cache.keys[0][0, 0, :, 0].tolist() == [0, 3, 0, 0, 9, 0], "the last write stands"


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("queries", (1, 3))
def test_a_cache_of_half_precision_is_read_in_float32(dtype, queries, monkeypatch):
    monkeypatch.setattr("smalti.devices.named.fast_bf16_attention", lambda device: False)
    cache = KVCache(1, 2, 4, 8, 16, dtype, "cpu")
    k, v, q = (torch.randn(2, 4, n, 16).to(dtype) for n in (8, 8, queries))
    keys, values = cache.update(0, torch.arange(8), 8, k, v)
    assert keys.dtype == torch.float32 and torch.equal(keys, k.float())
    got = attend(q, keys, values)
    assert got.dtype == dtype and torch.equal(got, attend(q.float(), keys, values).to(dtype))


def test_a_cache_that_the_machine_cannot_hold_is_refused_before_it_is_made():
    """The system would lend the memory, and end whoever writes to it."""
    kept = (
        r"keys and values of 512 rows of 1,000,000 positions need 37,748\.7 GB of memory, and this"
    )
    with pytest.raises(ValueError, match=kept):
        KVCache(12, 512, 12, 1_000_000, 64, torch.float32, "cpu")
    assert KVCache(12, 512, 12, 1_000_000, 64, torch.float32, "meta").keys[11].device.type == "meta"

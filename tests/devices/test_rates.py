"""What a device can do is measured, and what work asks of it is counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smalti.devices import rates
from smalti.nn.linear import Linear, packed
from smalti.nn.products import Halved, Halves

CPU = torch.device("cpu")


@pytest.fixture
def ticks(monkeypatch):
    """A clock that is a second further each time, and work that is cheap."""
    now = iter(range(10**6))
    monkeypatch.setattr(rates, "clock", lambda: float(next(now)))
    monkeypatch.setattr(rates, "READ", 1000)
    monkeypatch.setattr(rates, "SIDE", {"cpu": 8})
    for function in (rates.bandwidth, rates.product_rate):
        function.cache_clear()
    yield
    for function in (rates.bandwidth, rates.product_rate):
        function.cache_clear()


def test_rates_are_work_by_seconds(ticks):
    assert rates.bandwidth(CPU) == 4000
    assert rates.product_rate(CPU) == rates.product_rate(CPU, torch.bfloat16) == 2 * 8**3


def test_the_shortest_call_counts(monkeypatch):
    now = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(rates, "clock", lambda: next(now))
    calls = []
    assert rates.shortest(lambda: calls.append(1), rounds=3) == 2
    assert len(calls) == 4  # one is not counted


def test_operations_of_products_attention_and_convolutions():
    x, layer = torch.randn(2, 5, 16), Linear(16, 24)
    conv, picture = nn.Conv2d(4, 5, 3, padding=1), torch.randn(2, 4, 6, 7)
    with torch.no_grad():
        assert rates.counted(lambda: layer(x)) == 2 * 10 * 16 * 24
        with packed(layer):
            assert rates.counted(lambda: layer(x)) == 2 * 10 * 16 * 24
        halved, halves = Halved(layer.weight), Halves(layer.weight)
        assert rates.counted(lambda: halved(x, None)) == 2 * 10 * 16 * 24
        assert rates.counted(lambda: halves(x, None)) == 2 * 2 * 10 * 16 * 24
        assert rates.counted(lambda: conv(picture)) == 2 * 2 * 5 * 4 * 9 * 42
    q, k = torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(2, 3, 9, 8)
    attend = 2 * 2 * 2 * 3 * 5 * 9 * 8  # two products
    assert rates.counted(lambda: F.scaled_dot_product_attention(q, k, k)) == attend

    def learn():
        F.scaled_dot_product_attention(q, k, k).sum().backward()

    assert rates.counted(learn) == attend * 3.5  # scores again, and two products for each of both


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_learns_in_three_times_its_operations(kind, groups):
    """Of each group by itself: the gradients of its input and of its weight."""
    conv, picture = kind(4, 8, 3, stride=2, groups=groups), torch.randn(2, 4, 7, 7)
    forward = rates.counted(lambda: conv(picture))
    assert forward == 2 * 2 * (9 if kind is nn.Conv2d else 49) * 9 * 4 * 8 / groups
    assert rates.counted(lambda: conv(picture).sum().backward()) == 2 * forward, "without input's"
    picture.requires_grad_()
    assert rates.counted(lambda: conv(picture).sum().backward()) == 3 * forward


def test_tables_are_not_read_whole():
    module = nn.ModuleList([nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)])
    assert rates.weight_bytes(module) == 160
    module[1].weight = module[0].weight
    assert rates.weight_bytes(module) == 0


def test_the_most_memory_is_forgotten():
    rates.forget_peak(CPU)
    before = rates.peak_memory(CPU)
    block = torch.ones(100_000_000)  # 400 MB, of which others that end may hide some
    assert rates.peak_memory(CPU) - before > 200e6
    del block
    assert rates.hardware() and rates.hardware(CPU) == rates.hardware()


def test_what_a_device_is_asked_for_is_waited_for(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(str(device)))
    for name in ("cpu", "mps", "cuda:1"):
        rates.wait(torch.device(name))
    assert calls == ["mps", "cuda:1"]

"""What a machine is fast in."""

import pytest
import torch

from smalti.devices.named import fast_bf16, fast_bf16_attention, fast_bf16_products

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "drawing", "training"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, True, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True, True),
        ({"cpu_name": "AMD EPYC", "avx2": True}, False, False),
        ({"avx512_bf16": True}, True, True),
        ({}, False, False),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(capabilities, drawing, training, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_bf16(CPU) is drawing and fast_bf16_products(CPU) is training


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel Core", "avx2": True}, False),
        ({}, False),
    ],
)
def test_keys_are_read_in_bfloat16_where_it_is_faster(capabilities, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_bf16_attention(CPU) is native


def test_other_devices_and_older_versions_have_none(monkeypatch):
    meta = torch.device("meta")
    assert not fast_bf16(meta) and not fast_bf16_products(meta)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not fast_bf16(CPU) and not fast_bf16_products(CPU)

"""What a machine says of itself, and why it takes a dtype."""

import pytest
import torch

from smalti.devices import machine, named
from smalti.devices.machine import choices, facts

CPU = torch.device("cpu")
INTEL = {"cpu_name": "Intel Xeon", "avx2": True, "avx512_f": True, "avx512_bf16": True}


def test_facts(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: INTEL)
    monkeypatch.setattr(named, "best_device", lambda: CPU)
    monkeypatch.setattr(machine, "bandwidth", lambda device: 21e9)
    monkeypatch.setattr(
        machine, "product_rate", lambda device, dtype: 8e10 if dtype == torch.float32 else 5e10
    )
    monkeypatch.setattr(machine.threads, "cpu_quota", lambda: 1.5)
    found = facts()
    assert found["quota"] == "1.5 cores" and found["threads"] == torch.get_num_threads()
    assert found["instructions"] == ["avx2", "avx512_f", "avx512_bf16"]
    assert found["reads_GB_per_s"] == 21.0 and found["memory_GB"] > 0.1
    assert (found["float32_GFLOP_per_s"], found["bfloat16_GFLOP_per_s"]) == (80, 50)


@pytest.mark.parametrize(
    ("capabilities", "drawing", "training", "keys"),
    [
        (
            INTEL,
            "bfloat16, as this processor has bfloat16 instructions",
            "float32, as products of many rows are slower in bfloat16",
            "bfloat16, as weights are",
        ),
        (
            {"cpu_name": "AMD EPYC", "avx512_bf16": True},
            "bfloat16, as this processor has bfloat16 instructions",
            "bfloat16, as this processor has bfloat16 instructions",
            "float32, as attention would convert bfloat16 ones anew",
        ),
        (
            {"cpu_name": "AMD EPYC", "avx2": True},
            "float32, as this processor has no bfloat16 instructions",
            "float32, as this processor has no bfloat16 instructions",
            "float32, as weights are",
        ),
    ],
)
def test_each_choice_has_its_reason(capabilities, drawing, training, keys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    found = choices(CPU)
    assert found["draws_in"] == drawing and found["trains_in"] == training
    assert found["keeps_keys_in"] == keys
    assert found["decodes_in"] == "float32, as every tokenizer on cpu"


def test_a_gpu_decodes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(named, "drawing_dtype", lambda device: (torch.bfloat16, "it is fast"))
    found = choices(torch.device("cuda"))
    assert found["decodes_in"] == "bfloat16, as every tokenizer on cuda"
    assert found["keeps_keys_in"] == "bfloat16, as weights are"


def test_instructions_that_torch_does_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: INTEL)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert named.capabilities() == {"cpu_name": "Intel Xeon", "avx2": True}
    assert named.drawing_dtype(CPU)[0] == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("intel", [True, False])
def test_a_cache_on_a_cpu_is_float32_but_where_bfloat16_keys_are_read_fast(
    dtype, intel, monkeypatch
):
    found = INTEL | ({} if intel else {"cpu_name": "AMD EPYC"})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    kept = dtype == torch.bfloat16 and intel
    assert named.cache_dtype(dtype, CPU) == (dtype if kept else torch.float32)
    assert named.cache_dtype(dtype, torch.device("cuda")) == dtype

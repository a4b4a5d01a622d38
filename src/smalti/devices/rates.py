"""What a device can do, measured, how fast it reads and multiplies, and what work asks of it.

A step can be no faster than reading its weights once and doing its products at these rates. The
share of that limit says how much there is left to gain.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

READ = 100_000_000
"""Float32 numbers that are summed to measure the memory: far more than caches hold."""
SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product is measured."""
ROUNDS = 5


clock = time.perf_counter
"""What all of this is measured by: seconds of the wall, or of the processor."""


def seconds(run: Callable[[], object], device: torch.device | None = None) -> float:
    """How long a call takes, with all that it starts on the device."""
    wait(device)
    start = clock()
    run()
    wait(device)
    return clock() - start


def wait(device: torch.device | None) -> None:
    """Wait until the device has done all that was asked for."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()


def shortest(
    run: Callable[[], object], device: torch.device | None = None, rounds: int = ROUNDS
) -> float:
    """The shortest of some calls, after one that is not counted."""
    run()
    return min(seconds(run, device) for _ in range(rounds))


@functools.cache
def bandwidth(device: torch.device) -> float:
    """Bytes a second at which the device reads its memory: a plain sum of 400 MB."""
    memory = torch.ones(READ, device=device)
    return memory.numel() * memory.element_size() / shortest(memory.sum, device)


@functools.cache
def product_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a product of two square matrices, a multiplication and an addition as
    two: what no large product exceeds by much."""
    side = SIDE.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / shortest(lambda: a @ b, device)


def counted(run: Callable[[], object]) -> float:
    """Operations of a call in products, convolutions and attention, a multiplication and an
    addition as two: `torch.utils.flop_counter`, and what it does not know, attention on a CPU,
    weights that are packed, and that channels in groups do not meet in the backward pass either. A
    weight that is multiplied as two halves counts twice."""
    from torch.utils import flop_counter as torch_counts  # slow to import

    def attention(q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        return torch_counts.sdpa_flop_count(q, k, v)

    def attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: object, **__: object) -> int:
        return torch_counts.sdpa_backward_flop_count(grad, q, k, v)

    def convolution_backward(grad: Any, x: Any, w: Any, *rest: Any, **__: object) -> int:
        *_, transposed, _, _, wanted = rest  # gradients of the input and of the weight
        return sum(wanted[:2]) * torch_counts.conv_flop_count(x, w, grad, transposed)

    aten, mkldnn, quantized = torch.ops.aten, torch.ops.mkldnn, torch.ops.quantized
    known: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        aten.convolution_backward: convolution_backward,
    }
    if hasattr(mkldnn, "_linear_pointwise"):
        known[mkldnn._linear_pointwise] = _of_packed
    if hasattr(quantized, "linear_dynamic_fp16"):
        known[quantized.linear_dynamic_fp16] = _of_packed
    with torch_counts.FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return float(counter.get_total_flops())


def _of_packed(x: torch.Size, *_: object, out_shape: torch.Size, **__: object) -> int:
    return 2 * out_shape.numel() * x[-1]


def weight_bytes(module: nn.Module, seldom: str | None = None) -> int:
    """Of the weights that each step reads: all but embedding tables, and those with `seldom` in
    their name."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    weights: dict[int, Tensor] = {
        id(p): p
        for name, p in module.named_parameters()
        if id(p) not in tables and (seldom is None or seldom not in name)
    }
    return sum(p.numel() * p.element_size() for p in weights.values())


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process has held, on CUDA of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def hardware(device: torch.device | None = None) -> str:
    """The name of the processor, or of the CUDA device."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.split(":", 1)[1] for line in _lines("/proc/cpuinfo") if "model name" in line]
    return names[0].strip() if names else "unknown"


def _lines(path: str) -> list[str]:
    """Of a file of the system; none where there is no such file."""
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []

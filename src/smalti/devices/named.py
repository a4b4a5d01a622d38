"""Devices and dtypes by name, and what this machine is fast in."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OTHER_DTYPES = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What else they are called."""


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def named_device(device: torch.device | str | int | None) -> torch.device:
    """The device of a name such as cpu, cuda or cuda:1, of a number among those of CUDA, or, of
    auto and None, the best there is. Raises ValueError if there is no such device."""
    if device is None or device == "auto":
        return best_device()
    name = f"cuda:{device}" if isinstance(device, int) else device
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        why = f": {why}" if len(why) < 80 else ""  # else it is of torch's insides
        raise ValueError(
            f"device {str(device)!r} cannot be used{why}; a device is auto, cpu, cuda, cuda:1 or "
            f"mps, and the best one here is {best_device()}"
        ) from None
    if found.type == "meta":
        raise ValueError("device 'meta' cannot be used: it holds no numbers")
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return found


def is_dtype(name: Any) -> bool:
    """Whether this is a dtype, or the name of one, rather than a device."""
    text = name.removeprefix("torch.") if isinstance(name, str) else ""
    return isinstance(name, torch.dtype) or text in DTYPES or text in OTHER_DTYPES


def named_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of weights of a name such as bfloat16 or bf16; None for None and auto. Raises
    ValueError if weights cannot have it."""
    name = str(dtype).removeprefix("torch.")
    if dtype is None or name == "auto":
        return None
    name = OTHER_DTYPES.get(name, name)
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


@torch.no_grad()
def cast(module: nn.Module, dtype: torch.dtype, exact: tuple[str, ...] = ()) -> None:
    """Bring a module's floating-point weights to `dtype`, but those whose names begin with one of
    `exact`."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not name.startswith(exact):
            tensor.data = tensor.data.to(dtype)


def fast_bf16(device: torch.device) -> bool:
    """True where models of bfloat16 weights draw faster than of float32: CUDA, and CPUs with the
    instructions, as few rows cost what reading the weights does.

    Emulated bfloat16 is several times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        found = _capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def fast_bf16_products(device: torch.device) -> bool:
    """True where products of many rows are faster in bfloat16, as in training.

    Intel's AVX-512 starts half as many of its bfloat16 instructions in a cycle as of float32 ones:
    without AMX, as virtual machines often are, products of many rows take up to twice as long
    (`benchmarks/products.py`).
    """
    found = _capabilities() if device.type == "cpu" else {}
    intel = "intel" in str(found.get("cpu_name", "")).lower()
    return fast_bf16(device) and (bool(found.get("amx_bf16")) or not intel)


def fast_bf16_attention(device: torch.device) -> bool:
    """True where attention of one query is fastest on bfloat16 keys as they are.

    That is MKL's product of a row, whose bfloat16 instructions Intel's processors alone are given:
    5 to 7 times as fast there as converting the keys, and half as fast where it is denied them.
    """
    found = _capabilities() if device.type == "cpu" else {}
    intel = "intel" in str(found.get("cpu_name", "")).lower()
    return fast_bf16(device) and (intel or device.type != "cpu")


def _capabilities() -> dict[str, Any]:
    """What torch knows of the processor; older versions know nothing."""
    return getattr(torch.cpu, "get_capabilities", dict)()

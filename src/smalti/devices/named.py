"""Devices and dtypes by name, and what this machine is fast in."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OTHER_DTYPES = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What else they are called."""
HALF_DECODERS = ("cuda",)
"""Kinds of devices on which decoders compute in bfloat16."""


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
        found = capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


def fast_bf16_products(device: torch.device) -> bool:
    """True where products of many rows are faster in bfloat16, as in training.

    Intel's AVX-512 starts half as many of its bfloat16 instructions in a cycle as of float32 ones:
    without AMX, as virtual machines often are, products of many rows take up to twice as long
    (`benchmarks/products.py`).
    """
    found = capabilities() if device.type == "cpu" else {}
    return fast_bf16(device) and (bool(found.get("amx_bf16")) or not _intel(found))


def fast_bf16_attention(device: torch.device) -> bool:
    """True where attention of one query is fastest on bfloat16 keys as they are.

    That is MKL's product of a row, whose bfloat16 instructions Intel's processors alone are given:
    5 to 7 times as fast there as converting the keys, and half as fast where it is denied them.
    """
    found = capabilities() if device.type == "cpu" else {}
    return fast_bf16(device) and (device.type != "cpu" or _intel(found))


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What keys and values of a model of this dtype are kept in: float32 on a CPU that would have
    to convert half precision anew at each step."""
    as_it_is = dtype.itemsize >= 4 or device.type != "cpu"
    fast = dtype == torch.bfloat16 and fast_bf16_attention(device)
    return dtype if as_it_is or fast else torch.float32


def decoding_dtype(device: torch.device) -> torch.dtype:
    """The dtype that a tokenizer, whose weights stay in float32, decodes in."""
    return torch.bfloat16 if device.type in HALF_DECODERS else torch.float32


def fast_two_rows(device: torch.device) -> bool:
    """True where torch's own product of one or two float32 rows reads weights faster than any copy
    of them: MKL's, on Intel's processors with AVX-512. On others it reads at a third of that."""
    found = capabilities() if device.type == "cpu" else {}
    return _intel(found) and bool(found.get("avx512_f"))


def fast_fused_gelu(device: torch.device) -> bool:
    """True where GELU by oneDNN, in one operation with the product before it, is faster than by
    torch: with AVX-512 (docs/performance.md). With AVX2 alone the codes of a picture of VAR-d16
    took 6.5 s instead of 6.1."""
    return bool(capabilities().get("avx512_f")) if device.type == "cpu" else False


def fast_halves(device: torch.device) -> bool:
    """True where a few float32 rows are multiplied sooner by two float16 copies, which add up to
    the weight, than by one in oneDNN's order: on AMD's processors with AVX2 only, 1.07 to 1.25
    times by two rows, as the memory was busy. On Intel's with AVX2 imitated oneDNN is faster."""
    found = capabilities() if device.type == "cpu" else {}
    return "amd" in str(found.get("cpu_name", "")).lower() and not found.get("avx512_f")


def drawing_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype that models draw in where none is asked for, and why."""
    fast = fast_bf16(device)
    has = "has" if fast else "has no"
    what = "this processor" if device.type == "cpu" else f"device {device}"
    return torch.bfloat16 if fast else torch.float32, f"{what} {has} bfloat16 instructions"


def capabilities() -> dict[str, Any]:
    """What torch knows of the processor, but instructions that torch is told not to use; older
    versions know nothing."""
    found = getattr(torch.cpu, "get_capabilities", dict)()
    if os.environ.get("ATEN_CPU_CAPABILITY") in ("avx2", "default"):
        return {k: v for k, v in found.items() if not k.startswith(("avx512", "amx"))}
    return found


def _intel(found: dict[str, Any]) -> bool:
    return "intel" in str(found.get("cpu_name", "")).lower()

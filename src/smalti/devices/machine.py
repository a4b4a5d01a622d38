"""What this machine is, how fast it is, and what follows from it for drawing and training."""

from __future__ import annotations

import os
from typing import Any

import torch

from smalti.devices import named, threads
from smalti.devices.rates import bandwidth, hardware, product_rate

INSTRUCTIONS = ("avx2", "avx512_f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""Those that decide which products are fast."""


def facts() -> dict[str, Any]:
    """The processor, the device that is computed on, its measured rates, and dtypes with reasons.

    Takes about a second. Rates are of the threads that torch has now, beside whatever else runs.
    """
    device = named.best_device()
    known, quota = named.capabilities(), threads.cpu_quota()
    return {
        "kind": "machine",
        "processor": hardware(),
        "cores": threads.usable_cores(),
        "quota": "none" if quota is None else f"{quota:g} cores",
        "threads": torch.get_num_threads(),
        "busy": f"other work keeps {threads.load():.1f} cores busy",
        "instructions": [name for name in INSTRUCTIONS if known.get(name)],
        "memory_GB": round(memory() / 1e9, 1),
        "torch": torch.__version__,
        "device": str(device) if device.type == "cpu" else f"{device}, {hardware(device)}",
        "reads_GB_per_s": round(bandwidth(device) / 1e9, 1),
        "float32_GFLOP_per_s": round(product_rate(device, torch.float32) / 1e9),
        "bfloat16_GFLOP_per_s": round(product_rate(device, torch.bfloat16) / 1e9),
        **choices(device),
    }


def choices(device: torch.device) -> dict[str, str]:
    """The dtypes that a device takes for each kind of work unless another is asked for, and why."""
    drawing, why = named.drawing_dtype(device)
    many = "products of many rows are slower in bfloat16" if named.fast_bf16(device) else why
    fast = named.fast_bf16_products(device)
    cached, decoding = named.cache_dtype(drawing, device), named.decoding_dtype(device)
    return {
        "draws_in": f"{_short(drawing)}, as {why}",
        "trains_in": f"bfloat16, as {why}" if fast else f"float32, as {many}",
        "keeps_keys_in": f"{_short(cached)}, as "
        + ("weights are" if cached == drawing else "attention would convert bfloat16 ones anew"),
        "decodes_in": f"{_short(decoding)}, as every tokenizer on {device.type}",
    }


def memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def require_memory(size: int, what: str, device: torch.device | str) -> None:
    """Raise ValueError if `what` needs more bytes than the machine has, on a CPU: its system lends
    more than there is, and ends whoever uses it. GPUs refuse by themselves."""
    if torch.device(device).type == "cpu" and 0 < (there := memory()) < size:
        raise ValueError(
            f"{what} need {size / 1e9:,.1f} GB of memory, and this machine has {there / 1e9:.1f}: "
            "ask for less at a time, or for smaller pictures"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

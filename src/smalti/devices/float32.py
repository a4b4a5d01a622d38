"""How exact products and convolutions of float32 numbers are on a GPU."""

from __future__ import annotations

import torch


def set_products(device: torch.device, exact: bool = False) -> None:
    """Let a GPU multiply and convolve float32 numbers in TF32, which keeps 10 of 23 bits behind the
    point and is several times as fast, or exactly. It holds for the whole process, as torch has it;
    on other devices nothing changes."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact  # of convolutions

"""Blocks that are compiled for training: their norms, activations and sums run as few kernels.

A block is compiled once for all that are alike. Only training runs compiled: previews and
evaluation read caches of all lengths, each of which would be compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from smalti.train.parallel import blocks

Compile = Literal["auto", "on", "off"]
BACKEND: Any = "inductor"
"""What torch.compile compiles with."""


def compiles(wanted: Compile, device: torch.device, sharded: bool) -> bool:
    """Whether blocks are to be compiled: auto does on CUDA, where Triton is installed.

    Raises ValueError for shards, whose weights are there only while a block runs.
    """
    if wanted == "on" and sharded:
        raise ValueError("train.compile is for train.parallel ddp, got on with fsdp")
    if wanted == "auto":
        return device.type == "cuda" and not sharded and find_spec("triton") is not None
    return wanted == "on"


def compile_blocks(model: nn.Module, wanted: Compile = "auto") -> int:
    """Compile the forward and backward pass of each block in training; how many there are. Raises
    ValueError if there are none and they are wanted "on"."""
    found = blocks(model)
    if not found and wanted == "on":
        raise ValueError(
            "train.compile compiles a generator's layers; for others it must be auto or off, got on"
        )
    config: Any = torch._dynamo.config
    # blocks may differ by a rate of dropped paths, each of which is a compilation
    config.recompile_limit = max(config.recompile_limit, 2 * len(found))
    for block in found:
        block.forward = _compiled(block, block.forward)
    return len(found)


def _compiled(block: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
    fast = torch.compile(plain, backend=BACKEND)

    def run(*args: Any, **kwargs: Any) -> Any:
        learns = block.training and torch.is_grad_enabled()
        return (fast if learns else plain)(*args, **kwargs)

    return run

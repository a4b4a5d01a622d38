"""What does the entropy loss of look-up-free codes cost beside a table of positions x codes?

    python benchmarks/lfq_entropy.py [--quick] [--device cuda]

Each case is a forward and backward pass of the loss on a batch of 16 pictures of 256 positions, in
a process of its own, after one on a single position. A JSON line per case: `largest` is the largest
tensor that any operation of both passes gives, in numbers, and `bound` what it may be: positions x
2^(group / 2), or 2^group; `table` is positions x codes, which the plain way computes at least four
times (logits, their softmax and log-softmax, a gradient), `table_MB` the float32 bytes of one of
them, on paper. `peak_MB` is how much memory both passes add: of the process, on CUDA of the
allocator. `plain` is true where the plain way itself was run.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common import report
from smalti.tokenizers.quantize.lfq import LookupFree

BATCH, POSITIONS = 16, 256
CASES = [(18, 18, False), (18, 9, False), (36, 18, False), (12, 12, False), (12, 12, True)]
"""Bits, group, and whether the plain way is run."""
MB = 1e6


class Largest(TorchDispatchMode):
    """Notes the numbers of the largest tensor that an operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.numel())
        return out


def plain(z: Tensor, temperature: float = 0.01) -> Tensor:
    """The loss with a table of all codes."""
    rows = z.movedim(1, -1).flatten(0, 2)
    codes = torch.arange(2 ** z.shape[1], device=z.device)[:, None]
    table = 2.0 * (codes >> torch.arange(z.shape[1], device=z.device) & 1) - 1
    logits = 2 * rows @ table.T / temperature
    share = logits.softmax(-1).mean(0)
    each = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    return each + (share * (share + 1e-5).log()).sum()


def latents(batch: int, side: int, bits: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = 0.02 * torch.randn(batch, bits, side, side, generator=generator)
    return z.to(device).requires_grad_()


def loss(z: Tensor, group: int, slow: bool) -> Tensor:
    if slow:
        return plain(z)
    return LookupFree(z.shape[1], group)(z, entropy=True).losses["entropy"]


def memory(device: str) -> float:
    """The most that was in use so far, in MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def measured(bits: int, group: int, slow: bool, device: str) -> dict[str, Any]:
    """One case, in this process."""
    loss(latents(1, 1, bits if not slow else 2, device), group, slow).backward()
    before = memory(device)
    z = latents(BATCH, math.isqrt(POSITIONS), bits, device)
    loss(z, group, slow).backward()
    peak = memory(device) - before
    seconds = []
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        loss(z, group, slow).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    with Largest() as seen:
        loss(z, group, slow).backward()
    return {"largest": seen.numbers, "peak_MB": peak, "ms": 1000 * sorted(seconds)[2]}


def main() -> None:
    parser = argparse.ArgumentParser(description="the entropy loss of look-up-free codes")
    parser.add_argument("--quick", action="store_true", help="the first case alone")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measured(*CASES[options.case], options.device)))
        return
    for i, (bits, group, slow) in enumerate(CASES[: 1 if options.quick else None]):
        words = [sys.executable, __file__, "--case", str(i), "--device", options.device]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows, size = BATCH * POSITIONS, min(group, bits)
        case = {"case": "lfq_entropy", "bits": bits, "group": group, "plain": slow}
        case |= {"positions": rows, "bound": max(rows * 2 ** math.ceil(size / 2), 2**size)}
        case |= {"table": rows * 2**bits, "table_MB": 4 * rows * 2**bits / MB}
        report(case | json.loads(done.stdout), options.device)


if __name__ == "__main__":
    main()

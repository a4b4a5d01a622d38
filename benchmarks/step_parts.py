"""Parts of a step beside what they were: filters, GELU, bias, norms, products of small weights,
attention of one query and of training.

    python benchmarks/step_parts.py [--rounds 15] [--only NAME]

Old and new alternate in one process on one thread; a JSON line for each case has the median and the
least CPU time in ms of either, so that it can be run on a busy machine.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from common import report
from smalti.nn import products
from smalti.nn.attention import _explicit
from smalti.nn.linear import Linear, fused, packed
from smalti.nn.norms import RMSNorm
from smalti.sampling.filters import keep

Run = Callable[[], Tensor]
PACKED = ExitStack()


def by_indices(logits: Tensor, k: int, p: float) -> Tensor:
    """Top-k by `topk`, top-p by a sort whose indices lead back."""
    least = logits.topk(k).values[..., -1:]
    logits = logits.masked_fill(logits < least, -math.inf)
    ordered, index = logits.sort(descending=True)
    mass = ordered.softmax(-1).cumsum(-1)
    drop = torch.zeros_like(mass, dtype=torch.bool)
    drop[..., 1:] = mass[..., :-1] > p
    return logits.masked_fill(drop.gather(-1, index.argsort()), -math.inf)


def converted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def filters(rows: int, vocab: int, k: int) -> tuple[Run, Run]:
    logits = 2 * torch.randn(rows, vocab)
    return (lambda: by_indices(logits, k, 0.95)), (lambda: keep(logits, k, 0.95))


def attention(rows: int, reach: int) -> tuple[Run, Run]:
    q = torch.randn(rows, 12, 1, 64, dtype=torch.bfloat16)
    k, v = torch.randn(2, rows, 12, reach, 64, dtype=torch.bfloat16)
    return (lambda: converted(q, k, v)), (lambda: F.scaled_dot_product_attention(q, k, v))


def gelu(rows: int, dim: int, kind: Any) -> tuple[Run, Run]:
    layer, x = Linear(dim, 4 * dim), torch.randn(rows, dim)
    PACKED.enter_context(packed(layer))
    return (lambda: F.gelu(layer(x), approximate=kind)), (lambda: fused(layer, x, gelu=kind))


def bias(rows: int, dim: int) -> tuple[Run, Run]:
    layer, x, more = Linear(dim, 3 * dim, bias=False), torch.randn(rows, dim), torch.randn(3 * dim)
    PACKED.enter_context(packed(layer))
    return (lambda: layer(x) + more), (lambda: fused(layer, x, more))


def small(rows: int, dim: int, out: int) -> tuple[Run, Run]:
    """A product of a weight that was copied as large ones are."""
    weight, x = torch.randn(out, dim), torch.randn(rows, 1, dim)
    with patch.multiple(products, SMALL=0, LARGE=0):
        old = products.copied(weight)
    new = products.copied(weight)
    assert old is not None and new is not None
    return (lambda: old(x, None)), (lambda: new(x, None))


def norm(rows: int, dim: int) -> tuple[Run, Run]:
    """A norm by torch's own operation, and as it is drawn."""
    module, x = RMSNorm(dim), torch.randn(rows, 1, dim)
    old = lambda: F.rms_norm(x, (dim,), eps=module.eps) * module.weight  # noqa: E731
    return old, (lambda: module(x))


def training(*shape: int) -> tuple[Run, Run]:
    """Attention forward and backward, of (B, H, n, head_dim): two products and a softmax, fused."""
    with torch.inference_mode(False):
        q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))

    def run(attended: Run) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(attended().sum(), (q, k, v))[0]

    def old() -> Tensor:
        return _explicit(q, k, v, None, True, None, 0.0)

    def new() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return (lambda: run(old)), (lambda: run(new))


CASES: dict[str, Callable[[], tuple[Run, Run]]] = {
    "top-k 2000, top-p 0.95 of 8 x 16384": lambda: filters(8, 16384, 2000),
    "top-k 900, top-p 0.95 of 256 x 4096": lambda: filters(256, 4096, 900),
    "bfloat16 attention, 2 rows, 128 keys": lambda: attention(2, 128),
    "bfloat16 attention, 2 rows, 256 keys": lambda: attention(2, 256),
    "bfloat16 attention, 16 rows, 256 keys": lambda: attention(16, 256),
    "bfloat16 attention, 16 rows, 1024 keys": lambda: attention(16, 1024),
    "product and tanh GELU, 512 x 1024 x 4096": lambda: gelu(512, 1024, "tanh"),
    "product and GELU, 128 x 768 x 3072": lambda: gelu(128, 768, "none"),
    "product and bias, 512 x 1024 x 3072": lambda: bias(512, 1024),
    "product of 2 x 200 x 600": lambda: small(2, 200, 600),
    "product of 2 x 256 x 256": lambda: small(2, 256, 256),
    "norm of 2 x 200": lambda: norm(2, 200),
    "norm of 2 x 768": lambda: norm(2, 768),
    "norm of 16 x 768": lambda: norm(16, 768),
    "training's attention, 16 x 8 x 65 x 64": lambda: training(16, 8, 65, 64),
    "training's attention, 16 x 4 x 130 x 40": lambda: training(16, 4, 130, 40),
    "training's attention, 8 x 6 x 300 x 32": lambda: training(8, 6, 300, 32),
    "training's attention, 16 x 8 x 256 x 64": lambda: training(16, 8, 256, 64),
    "training's attention, 4 x 12 x 576 x 64": lambda: training(4, 12, 576, 64),
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="parts of a decode step, old and new")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="a part of the names of cases")
    options = parser.parse_args()
    rounds = options.rounds
    torch.set_num_threads(1)
    for name, make in CASES.items():
        if options.only not in name:
            continue
        pair = make()
        times: dict[str, list[float]] = {"old": [], "new": []}
        for i in range(rounds + 1):
            for way, run in zip(times, pair, strict=True):
                start = time.thread_time()
                run()
                times[way] += [1e3 * (time.thread_time() - start)] * bool(i)
        row: dict[str, Any] = {"case": name, "rounds": rounds}
        for way, values in times.items():
            row |= {f"{way}_ms": statistics.median(values), f"{way}_least_ms": min(values)}
        report(row | {"gain": row["old_ms"] / row["new_ms"]})


if __name__ == "__main__":
    main()

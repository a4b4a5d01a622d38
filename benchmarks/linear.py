"""How fast each product reads the weights of LlamaGen-B, beside a plain sum over memory.

    python benchmarks/linear.py [--quick]

Cycles through all weights of the model (390 MB in float32, twice the model in bfloat16), so that
caches do not help, and prints one JSON line per case. `ratio_to_sum` is the sum's GB/s divided by
the product's: 1 is memory speed, lower is better. The sum is measured anew beside every case.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import report, seconds
from smalti.nn.linear import Linear, linear, packed

LAYER = ((2304, 768), (768, 768), (2048, 768), (2048, 768), (768, 2048))
SHAPES = LAYER * 12 + ((16384, 768),)  # (out, in)
Product = Callable[[Linear, Tensor], Tensor]

PRODUCTS: dict[str, Product] = {
    "F.linear": lambda m, x: F.linear(x, m.weight),
    "(W @ x.T).T": lambda m, x: (m.weight @ x.t()).t().contiguous(),
    "smalti linear": lambda m, x: linear(x, m.weight),
    "smalti packed": lambda m, x: m(x),  # run within `packed`
}


def multiply(layers: nn.ModuleList, product: Product, x: dict[int, Tensor]) -> None:
    for m in layers:
        assert isinstance(m, Linear)
        product(m, x[m.in_features])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="GB/s of weights per product, row count, dtype")
    parser.add_argument("--quick", action="store_true", help="fewer row counts and repeats")
    quick = parser.parse_args().quick
    row_counts = (1, 2, 8) if quick else (1, 2, 3, 4, 6, 8, 16, 64)
    repeats = 2 if quick else 5
    memory = torch.ones(100_000_000)  # 400 MB
    for dtype, copies in ((torch.float32, 1), (torch.bfloat16, 2)):
        layers = nn.ModuleList(Linear(i, o, bias=False, dtype=dtype) for o, i in SHAPES * copies)
        size = sum(p.numel() * p.element_size() for p in layers.parameters())
        for name, product in PRODUCTS.items():
            with ExitStack() as stack:
                if name == "smalti packed":
                    stack.enter_context(packed(layers))
                for rows in row_counts:
                    x = {i: torch.randn(rows, i).to(dtype) for i in (768, 2048)}
                    cycle = partial(multiply, layers, product, x)
                    cycle()
                    pairs = [(seconds(memory.sum), seconds(cycle)) for _ in range(repeats)]
                    sums, products = (statistics.median(t) for t in zip(*pairs, strict=True))
                    speed, limit = size / products / 1e9, 4 * memory.numel() / sums / 1e9
                    case = {
                        "dtype": str(dtype).removeprefix("torch."),
                        "rows": rows,
                        "product": name,
                        "GB_per_s": round(speed, 1),
                        "ratio_to_sum": round(limit / speed, 2),
                    }
                    report(case)


if __name__ == "__main__":
    main()

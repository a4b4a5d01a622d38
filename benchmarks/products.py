"""How fast does this machine multiply, in float32 and in bfloat16?

    python benchmarks/products.py [--rounds N]

`F.linear` of rows (M, K) and weights (N, K), of small and large models, in training and in drawing,
both dtypes in turn; the medians of the rounds. `ratio` is the rate of bfloat16 beside that of
float32: where it is below 1 for many rows, `devices.named.fast_bf16_products` should say no.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch.nn import functional as F

from common import report, seconds

SHAPES = (
    (4800, 192, 576),
    (1024, 1024, 1024),
    (2048, 768, 3072),
    (256, 768, 2304),
    (64, 768, 2304),
    (16, 768, 2304),
    (2, 768, 2304),
)


def product(rows: int, inner: int, out: int, dtype: torch.dtype) -> Callable[[], object]:
    """A product of random numbers, repeated until it takes some milliseconds."""
    x, weight = torch.randn(rows, inner).to(dtype), torch.randn(out, inner).to(dtype)
    again = range(repeats(rows, inner, out))
    return lambda: [F.linear(x, weight) for _ in again]


def repeats(rows: int, inner: int, out: int) -> int:
    return max(1, round(3e8 / (rows * inner * out)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for shape in SHAPES:
        operations = 2 * shape[0] * shape[1] * shape[2] * repeats(*shape)
        both = {dtype: product(*shape, dtype) for dtype in (torch.float32, torch.bfloat16)}
        taken = {dtype: list[float]() for dtype in both}
        for _ in range(rounds + 1):
            for dtype, run in both.items():
                taken[dtype].append(seconds(run))
        rates = [operations / statistics.median(times[1:]) / 1e9 for times in taken.values()]
        case = {"case": "x".join(map(str, shape)), "float32_gflops": rates[0]}
        report(case | {"bfloat16_gflops": rates[1], "ratio": rates[1] / rates[0]})


if __name__ == "__main__":
    main()

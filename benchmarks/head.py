"""How fast the diffusion head of MAR-B draws, beside doing everything at every step.

    python benchmarks/head.py [--quick]

100 steps of ancestral sampling with guidance, in float32; rows are codes, each in two branches. The
plain way is the structure of the official code with `F.linear` (tests/plain_head.py). Runs
alternate; one JSON line per case gives medians in ms, `ratio` (plain to ours) and `apart`, the
greatest difference of the drawn codes relative to their size.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

from common import report, seconds
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.nn.linear import packed
from smalti.sampling.guidance import ClassifierFree
from smalti.sampling.solvers import Solver, path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from plain_head import plain_sample  # noqa: E402


@torch.inference_mode()
def case(head: DiffusionHead, dim: int, rows: int, steps: str, repeats: int) -> None:
    z, scale = torch.randn(2, rows, dim), 2.9
    way = path(Solver(steps=steps), "diffusion")
    noise = torch.randn(way.draws, rows, head.channels)
    plain, ours, packing = [], [], []
    for _ in range(repeats):
        drawn = []
        plain.append(
            seconds(
                lambda: drawn.append(plain_sample(head, z.flatten(0, 1), scale, noise, steps, 1.0))
            )
        )
        ours.append(
            seconds(lambda: drawn.append(head.solve(z, ClassifierFree(scale), noise, way)))
        )
        with packed(head):
            packing.append(seconds(lambda: head.solve(z, ClassifierFree(scale), noise, way)))
    times = [1000 * statistics.median(t) for t in (plain, ours, packing)]
    report(
        {
            "rows": rows,
            "steps": steps,
            "plain_ms": times[0],
            "ours_ms": times[1],
            "packed_ms": times[2],
            "ratio": times[0] / times[1],
            "packed_ratio": times[0] / times[2],
            "apart": ((drawn[0] - drawn[1]).abs().max() / drawn[0].abs().max()).item(),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="the diffusion head beside the plain way")
    parser.add_argument("--quick", action="store_true", help="few rows and steps, one repeat")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    dim = 768
    head = DiffusionHead(dim, 16, DiffusionConfig()).eval()
    for layer in (*head.adalns, head.out):
        nn.init.normal_(layer.weight, std=0.02)
    for rows in (2, 8) if quick else (2, 8, 32, 128):
        case(head, dim, rows, "10" if quick else "100", 1 if quick else 3)


if __name__ == "__main__":
    main()

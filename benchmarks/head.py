"""How fast the diffusion head of MAR-B draws, beside doing everything at every step.

    python benchmarks/head.py [--quick]

100 steps of ancestral sampling with guidance, in float32; rows are codes, each in two branches. The
plain way is the structure of the official code with `F.linear` (tests/plain_head.py). Runs
alternate; one JSON line per case gives medians in ms (`packed_ms` is ours within `packed`, as a
pipeline draws), the ratios of the plain way's to them, and `apart`, the greatest difference of the
drawn codes relative to the largest.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.nn.linear import packed
from smalti.sampling.guidance import ClassifierFree
from smalti.sampling.solvers import Solver, path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from plain_head import plain_sample  # noqa: E402


@torch.inference_mode()
def case(head: DiffusionHead, dim: int, rows: int, steps: str, repeats: int) -> None:
    z, guide = torch.randn(2, rows, dim), ClassifierFree(2.9)
    way = path(Solver(steps=steps), "diffusion")
    noise = torch.randn(way.draws, rows, head.channels)
    flat, drawn = z.flatten(0, 1), dict[str, Tensor]()

    def plain() -> None:
        drawn["plain"] = plain_sample(head, flat, guide.scale, noise, steps, 1.0)

    def ours() -> None:
        drawn["ours"] = head.solve(z, guide, noise, way)

    times: list[tuple[float, ...]] = []
    for _ in range(repeats):
        free = seconds(plain), seconds(ours)
        with packed(head):
            times.append((*free, seconds(ours)))
    base, loose, fast = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    apart = (drawn["plain"] - drawn["ours"]).abs().max() / drawn["plain"].abs().max()
    figures = {"plain_ms": base, "ours_ms": loose, "packed_ms": fast, "apart": apart.item()}
    ratios = {"ratio": base / loose, "packed_ratio": base / fast}
    report({"rows": rows, "steps": steps} | figures | ratios)


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
        case(head, dim, rows, "10" if quick else "100", 1 if quick or rows > 8 else 3)


if __name__ == "__main__":
    main()

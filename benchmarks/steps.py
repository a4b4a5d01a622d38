"""What do more steps buy a MAR? Its in-painting error over reveal steps and steps of the head.

    python benchmarks/steps.py PIPELINE [--out docs/steps.png] [--images 64]

Held-out pictures of the pipeline's source lose a random half of their patches and are painted anew,
once with each number of reveal steps and of steps of the diffusion head. One JSON line per case:
`psnr` inside the mask, in dB of the mean squared error, `seconds` for a picture. The plot has a
line for each number of head steps. An error says nothing of how natural a picture is.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import smalti
from common import report, seconds
from comparison_edit import half, spread
from comparison_edit import painted as draw
from comparison_edit import told as error
from smalti.data.loader import Images
from smalti.data.source import open_source, split
from smalti.data.transforms import Transform
from smalti.editing import known_positions
from smalti.engine.step import Known

REVEAL, HEAD = (1, 2, 4, 8, 16, 32), (4, 8, 16, 32, 100)


def measured(pipe: Any, count: int, reveal: tuple[int, ...], head: tuple[int, ...]) -> list[Any]:
    """A row for each number of reveal steps and of head steps."""
    source = open_source(pipe.info["source"])
    _, held = split(source, 0.1)
    size = pipe.tokenizer.config.size[0]
    batch = spread(next(Images(source, held, Transform(size), 1).evaluation(len(held))), count)
    images, labels = batch["images"], batch["labels"]
    masks = torch.stack([half(*pipe.model.spec.grids[0], i) for i in range(len(images))])
    known = Known(pipe.encode(images), known_positions(pipe.model.spec, ~masks))
    rows: list[Any] = []
    for head_steps in head:
        for steps in reveal:
            settings = {"steps": steps, "head_steps": str(head_steps)}
            found: dict[str, torch.Tensor] = {}

            def run(settings: dict[str, Any] = settings, found: Any = found) -> None:
                found["drawn"] = draw(pipe, known, labels, seed=0, **settings)

            took = seconds(run) / len(images)
            psnr = error("half", found["drawn"][None], images, masks)["psnr_half"]
            row = {"case": "steps", "steps": steps, "head_steps": head_steps, "psnr": psnr}
            rows.append(row | {"seconds": took, "images": len(images)})
            report(rows[-1])
    return rows


def plot(rows: list[Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for head in sorted({row["head_steps"] for row in rows}):
        some = [row for row in rows if row["head_steps"] == head]
        for axis, x in zip(axes, ("steps", "seconds"), strict=True):
            line = [row[x] for row in some], [row["psnr"] for row in some]
            axis.plot(*line, marker="o", label=f"{head} steps of the head")
    axes[0].set(xscale="log", xlabel="reveal steps", ylabel="PSNR inside the mask, dB")
    axes[0].set_xticks(sorted({row["steps"] for row in rows}))
    axes[0].xaxis.set_major_formatter("{x:.0f}")
    axes[0].minorticks_off()
    axes[1].set(xscale="log", xlabel="seconds for a picture")
    axes[0].legend()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="what more steps buy a MAR")
    parser.add_argument("pipeline")
    parser.add_argument("--out", type=Path, default=Path("docs/steps.png"))
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    pipe = smalti.load(options.pipeline)
    plot(measured(pipe, options.images, REVEAL, HEAD), options.out)


if __name__ == "__main__":
    main()

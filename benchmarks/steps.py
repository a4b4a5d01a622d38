"""What do more steps buy a MAR? Fréchet wavelet distance over reveal steps and steps of the head.

    python benchmarks/steps.py PIPELINE [--out docs/steps.png] [--images 256] [--level 3]

The pipeline draws as many pictures with each number of reveal steps and of steps of the diffusion
head, under the classes of the held-out pictures of its source, in turn, and is measured against
those. One JSON line per case: `fwd`, its interval, `seconds` for a picture. The plot has a line for
each number of head steps.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import smalti
from common import report, seconds
from smalti.cli.search import Drawn
from smalti.eval.measure import measure
from smalti.eval.metrics import How
from smalti.eval.pipelines import asked
from smalti.eval.sets import open_set

REVEAL, HEAD = (1, 2, 4, 8, 16, 32, 64), (4, 8, 16, 32)


def measured(pipe: Any, count: int, level: int) -> list[Any]:
    """A row for each number of reveal steps and of head steps."""
    real = open_set(f"{pipe.info['source']}@held", pipe.tokenizer.config.size[0])
    how, request, rows = How(level=level), asked(pipe, real), list[Any]()
    for head_steps in HEAD:
        for steps in REVEAL:
            settings = {"steps": steps, "head_steps": str(head_steps)}
            found: list[Any] = []

            def run(settings: dict[str, Any] = settings, found: list[Any] = found) -> None:
                found += measure(Drawn(pipe, count, 0, request, settings), real, how)

            took = seconds(run) / count
            fwd = asdict(found[0])
            row = {"case": "steps", "steps": steps, "head_steps": head_steps, "seconds": took}
            rows.append(row | {"fwd": fwd["value"], "interval": fwd["interval"], "images": count})
            report(rows[-1] | {"definition": fwd["definition"]})
    return rows


def plot(rows: list[Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for head in sorted({row["head_steps"] for row in rows}):
        some = [row for row in rows if row["head_steps"] == head]
        for axis, x in zip(axes, ("steps", "seconds"), strict=True):
            line = [row[x] for row in some], [row["fwd"] for row in some]
            axis.plot(*line, marker="o", label=f"{head} steps of the head")
    axes[0].set(xscale="log", xlabel="reveal steps", ylabel="Fréchet wavelet distance")
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
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--level", type=int, default=3)
    options = parser.parse_args()
    rows = measured(smalti.load(options.pipeline), options.images, options.level)
    plot(rows, options.out)


if __name__ == "__main__":
    main()

"""Does `--parallel exact` draw the pictures that are drawn one code after another?

    python benchmarks/same_pictures.py PIPELINE --out FILE [--images 1000] [--batch 8]
        [--windows 8 0] [--guidance 2] [--top-p 1]

Both draw the same requests, classes in turn or captions of pictures that the pipeline never saw, on
one thread in float32. FILE gets a JSON line for
each batch and window when it is done; run again, the command goes on where it ended. The last line
that it prints says for each window how many pictures were drawn, in how many passes of how many
codes, and how many of them are others: none, or the command ends with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import smalti
from common import earlier, machine, report
from parallel import conditions, drawn, wanted
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.request import Asked
from smalti.progress import track
from smalti.sampling.noise import Noise


def compared(pipe: Pipeline, every: list[Asked], first: int, count: int, options: Any) -> list[Any]:
    """Of one batch, for each window: passes, and how many pictures are others."""
    cond, noise = conditions(pipe, every, first, count), Noise.request(0, count, first)
    plain = pipe.sampling.changed(guidance=options.guidance, top_p=options.top_p)
    in_turn = drawn(pipe.model, plain.request(pipe.model, cond, noise))[0]
    rows = list[Any]()
    for window in options.windows:
        ahead = plain.changed(parallel="exact", window=window)
        codes, passes, _ = drawn(pipe.model, ahead.request(pipe.model, cond, noise))
        others = int((codes != in_turn).flatten(1).any(1).sum())
        rows.append({"window": window, "images": count, "passes": passes, "others": others})
    return rows


def finished(pipe: Pipeline, options: argparse.Namespace) -> list[Any]:
    """The rows of all batches, those that FILE holds among them."""
    known = earlier([options.out]) if options.out.exists() else {}
    settings = f"{pipe.fingerprint} guidance {options.guidance:g} top-p {options.top_p:g}"
    rows, every = list[Any](), wanted(pipe)
    starts = range(0, options.images, options.batch)
    for first in track(starts, "pictures drawn twice"):
        count = min(options.batch, options.images - first)
        cases = [f"{settings} window {w} from {first} on, {count}" for w in options.windows]
        if any(case not in known for case in cases):
            found = compared(pipe, every, first, count, options)
            known |= {case: row for case, row in zip(cases, found, strict=True)}
            with options.out.open("a", encoding="utf-8") as file:
                for case, row in zip(cases, found, strict=True):
                    file.write(json.dumps({"case": case} | row | machine()) + "\n")
        rows += [known[case] for case in cases]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="exact parallel drawing beside one code a pass")
    parser.add_argument("pipeline")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--windows", nargs="+", type=int, default=[8, 0], help="0 follows")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = smalti.load(options.pipeline, "cpu", torch.float32)
    rows, others = finished(pipe, options), 0
    case: dict[str, Any] = {"script": "same_pictures", "pipeline": pipe.fingerprint}
    case |= {"guidance": options.guidance, "top_p": options.top_p, "images": options.images}
    case |= {"batch": options.batch, "codes": pipe.model.spec.positions}
    for window in options.windows:
        mine = [row for row in rows if row["window"] == window]
        passes = sum(row["passes"] for row in mine) / len(mine)
        differ = sum(row["others"] for row in mine)
        case |= {f"window_{window}_passes": passes, f"window_{window}_others": differ}
        others += differ
    report(case)
    sys.exit(others > 0)


if __name__ == "__main__":
    main()

"""What does every metric say of the pipelines that `comparison.py` trained? A table.

    python benchmarks/metrics.py RUNS [--n 1000] [--level 3] [--metrics fwd]

RUNS is the folder that was --out there. Each pipeline is drawn from under the classes of the
held-out pictures, in turn, and measured as `smalti eval` does, with conditioning; each tokenizer by
what it gives back of them. Real training pictures are measured too: nothing here can be expected to
do better. Metrics that need the Inception network are left out unless they are named: its weights
have to be downloaded. Prints JSON lines, and the table on standard error.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import report
from comparison_page import TITLES, rows_of
from smalti.cli.evaluate import Options
from smalti.cli.subjects import report_of
from smalti.recipes import DEMOS

SOURCE = "emoji"


def numbers(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics by their names without the number of pictures."""
    found = {}
    for metric in told["metrics"]:
        count = f"_{metric['images']}"
        thousands = f"_{metric['images'] // 1000}k"
        name = metric["metric"].removesuffix(count).removesuffix(thousands)
        found[name] = metric
    return found


def shown(metric: dict[str, Any] | None) -> str:
    """A value with half of its interval."""
    if metric is None:
        return ""
    text = f"{metric['value']:.4g}"
    if metric["interval"]:
        low, high = metric["interval"]
        text += f" ± {float(f'{(high - low) / 2:.1g}'):g}"
    return text


def table(columns: dict[str, dict[str, dict[str, Any]]]) -> str:
    rows = dict.fromkeys(name for column in columns.values() for name in column)
    cells = [[name, *(shown(c.get(name)) for c in columns.values())] for name in rows]
    return rows_of(["", *columns], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description="every metric of every system")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--metrics", default="fwd")
    args = parser.parse_args()
    metrics = tuple(args.metrics.split(","))
    options = Options(reference=f"{SOURCE}@held", metrics=metrics, level=args.level)
    pipe_options = replace(options, n=args.n, conditioning=True)
    drawn = {"real": numbers(report_of(f"{SOURCE}@train", replace(options, size=32), {}))}
    back: dict[str, dict[str, dict[str, Any]]] = {}
    compared = {name: demo for name, demo in DEMOS.items() if name in TITLES}
    for name, demo in compared.items():
        tokenizer, generator = demo.tokenizer, demo.generator
        folder = args.runs / generator.__name__ / "pipeline"
        drawn[TITLES[name]] = numbers(report_of(str(folder), pipe_options, {}))
        if tokenizer.__name__ not in back:
            folder = args.runs / tokenizer.__name__ / "tokenizer"
            back[tokenizer.__name__] = numbers(report_of(str(folder), options, {}))
    for name, column in (drawn | back).items():
        values = {k: m["value"] for k, m in column.items()}
        intervals = {k: m["interval"] for k, m in column.items() if m["interval"]}
        report({"case": name, **values, "intervals": intervals})
    print(table(drawn) + "\n\n" + table(back), file=sys.stderr)


if __name__ == "__main__":
    main()

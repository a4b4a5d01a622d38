"""The page that `unified_comparison.py` writes, every number from the runs, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comparison_page import rows_of, told, wrapped

Rows = list[dict[str, Any]]
TITLES = {
    "chameleon": "ids of one vocabulary (Chameleon)",
    "transfusion": "a flow of the whole span (Transfusion)",
    "transfusion-wide": "the same, a decoder as wide as the others'",
    "show-o": "codes revealed (Show-o)",
    "janus": "seen as features, drawn as ids (Janus)",
    "metamorph": "regressed features (MetaMorph)",
    "illume": "ids of two levels (ILLUME+)",
    "unifluid": "seen as features, drawn as vectors in any order (UniFluid)",
    "vila-u": "stacks of refinements (VILA-U)",
    "unitok": "stacks of sub-codes (UniTok)",
}
ASKED = {
    "draw": "draw",
    "caption": "caption",
    "describe": "describe several",
    "ask": "answer",
    "edit": "change",
    "riddle": "riddles",
    "withheld riddle": "riddles of facts only told",
    "fact": "facts",
}
GROUPS = ("drawing", "reading", "telling")


def share(row: dict[str, Any], task: str) -> str:
    """How often a task was done rightly, with the half of its interval."""
    if task not in row["right"]:
        return ""
    right, low, high = row["right"][task]
    return f"{100 * right:.1f} ± {50 * (high - low):.0f} %"


def ways(rows: Rows) -> str:
    """A row for each way of writing a picture, at equal operations."""
    cells = [
        [
            title,
            f"{row['parameters']:,}",
            f"{row['steps']:,}",
            f"{row['operations'] / 1e12:.0f} T",
            *(share(row, task) for task in ASKED),
            told(row["facts_bits_per_byte"], ".3f"),
            f"{row['draw_gflop']:.2f} G",
            f"{row['draw_seconds']:.2f}",
        ]
        for name, title in TITLES.items()
        for row in rows
        if row["case"] == name
    ]
    names = ["a picture is", "parameters", "steps", "operations", *ASKED.values()]
    return rows_of([*names, "facts, bits per byte", "operations to draw", "seconds"], cells)


def family(rows: Rows, size: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model of all tasks at a size, and the row that its tasks' own models make together."""
    mine = {row["group"]: row for row in rows if row["size"] == size and row["case"] not in OTHERS}
    alone: dict[str, Any] = {"right": {}, "facts_bits_per_byte": None}
    for group in GROUPS:
        alone["right"] |= mine[group]["right"]
        alone["facts_bits_per_byte"] = mine[group]["facts_bits_per_byte"]
    alone["operations"] = sum(mine[group]["operations"] for group in GROUPS)
    return mine["all"], alone


OTHERS = [name for name in TITLES if name != "chameleon"]
"""Ways that are trained at one size, with all tasks."""


def sizes(rows: Rows) -> list[str]:
    """Those of which the models of all groups are measured, from the smallest."""
    ours = sorted((r for r in rows if r["case"] not in OTHERS), key=lambda r: r["parameters"])
    found = {
        size: {r["group"] for r in ours if r["size"] == size} for size in (r["size"] for r in ours)
    }
    return [size for size, groups in found.items() if groups == {"all", *GROUPS}]


def missing(rows: Rows) -> str:
    """The ways that are not measured."""
    there = {row["case"] for row in rows}
    left = [title for name, title in TITLES.items() if name not in there]
    return f"Not measured yet: {'; '.join(left)}." if left else ""


def together(rows: Rows) -> str:
    """Two rows for each size: one model of all tasks, and one for each kind of them."""
    cells = list[list[str]]()
    for size in sizes(rows):
        both, alone = family(rows, size)
        for what, row in (("one model", both), ("one each", alone)):
            cells.append(
                [
                    f"{both['parameters']:,}",
                    what,
                    f"{row['operations'] / 1e12:.1f} T",
                    *(share(row, task) for task in ASKED),
                    told(row["facts_bits_per_byte"], ".3f"),
                ]
            )
    names = ["parameters", "tasks", "operations", *ASKED.values(), "facts, bits per byte"]
    return rows_of(names, cells)


def gain(rows: Rows, size: str) -> dict[str, float]:
    """By how much one model of all is righter than those of some, of each task in both."""
    both, alone = family(rows, size)
    return {t: both["right"][t][0] - alone["right"][t][0] for t in alone["right"]}


def said(rows: Rows) -> str:
    """What follows from the numbers."""
    lines = list[str]()
    for size in sizes(rows):
        each, (both, alone) = gain(rows, size), family(rows, size)
        mean = 100 * sum(each.values()) / len(each)
        best, worst = max(each, key=each.__getitem__), min(each, key=each.__getitem__)
        lines.append(
            f"- **{both['parameters']:,} parameters**: learned together, tasks are right "
            f"{abs(mean):.1f} points {'more' if mean > 0 else 'less'} often on average; most gains "
            f"*{ASKED[best]}* ({100 * each[best]:+.1f}), least *{ASKED[worst]}* "
            f"({100 * each[worst]:+.1f}). A byte of a fact takes "
            f"{both['facts_bits_per_byte']:.3f} bits, {alone['facts_bits_per_byte']:.3f} by the "
            "model of facts alone."
        )
    return "\n".join(lines)


def plot(rows: Rows, out: Path) -> None:
    """How often each task is done rightly over size, together and alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    families = [family(rows, size) for size in sizes(rows)]
    numbers = [both["parameters"] for both, _ in families]
    for i, task in enumerate(families[0][1]["right"]):
        for row, line in ((0, "-"), (1, ":")):
            values = [pair[row]["right"][task][0] for pair in families]
            name = ASKED[task] if row == 0 else None
            panels[0].plot(numbers, values, f"C{i}{line}", marker="o", label=name)
    for row, line, name in ((0, "-", "one model of all"), (1, ":", "a model of facts alone")):
        values = [pair[row]["facts_bits_per_byte"] for pair in families]
        panels[1].plot(numbers, values, f"k{line}", marker="o", label=name)
    panels[0].set(xlabel="parameters", ylabel="right (dotted: one model each)", xscale="log")
    panels[1].set(xlabel="parameters", ylabel="facts, bits per byte", xscale="log")
    for panel in panels:
        panel.set_xticks(numbers, [f"{n / 1e6:.1f} M" for n in numbers])
        panel.minorticks_off()
        panel.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(out)


def page(rows: Rows, about: dict[str, Any]) -> str:
    """The whole page."""
    text = Path(__file__).with_name("unified_measured.md").read_text()
    ones = {row["count"] for row in rows}
    return wrapped(
        text.format(
            about=about,
            count=", ".join(map(str, ones)),
            ways=ways(rows),
            missing=missing(rows),
            together=together(rows),
            said=said(rows),
        )
    )

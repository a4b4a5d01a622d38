"""The page that `rate_distortion.py` writes, every number from the runs, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comparison_page import rows_of, told, wrapped

Rows = list[dict[str, Any]]
MARKS = "osD^vP*X<>"


def within(value: tuple[float, list[float]]) -> str:
    """A value with half of its interval."""
    number, interval = value
    return f"{number:.4g}" + (f" ± {(interval[1] - interval[0]) / 2:.1g}" if interval else "")


def from_names(row: dict[str, Any]) -> str:
    """Whether a row draws from names, and, of before recipes decided it, learned mirrored pictures
    under them."""
    if not row["text"]:
        return ""
    return " (from names, also of mirrored pictures)" if row.get("flip", True) else " (from names)"


def table(rows: Rows) -> str:
    """A row for each tokenizer, by what a position holds."""
    cells = [
        [
            row["holds"],
            row["title"],
            row["codes"],
            told(row["raw_bits"], ",.0f"),
            told(row["bits"], ".0f", "≤ " if row["bound"] else ""),
            f"{row['psnr']:.2f}",
            within(row["fwd_back"]),
            within(row["fwd_drawn"]) + from_names(row),
            f"{row['parameters'][0]:,}; {row['parameters'][1]:,}",
        ]
        for row in rows
    ]
    names = ["a position holds", "tokenizer", "codes of a picture", "bits as stored"]
    names += ["the generator's bits", "PSNR, dB", "FWD of reconstructions", "FWD of drawn pictures"]
    return rows_of([*names, "parameters: tokenizer; generator"], cells)


def best(rows: Rows, key: str, lowest: bool = True) -> dict[str, Any]:
    """The row that is best by a number."""

    def number(row: dict[str, Any]) -> float:
        value = row[key] if isinstance(row[key], float) else row[key][0]
        return value if lowest else -value

    return min(rows, key=number)


def said(rows: Rows) -> str:
    """What follows from the numbers, a sentence for each tokenizer beside the best of one code, and
    the best ones."""
    plain = best([row for row in rows if row["holds"] == "one code"], "psnr", lowest=False)
    lines = list[str]()
    for row in rows:
        if row is plain:
            continue
        change = row["psnr"] - plain["psnr"]
        way = "better" if change > 0 else "worse"
        line = f"- **{row['holds']}** ({row['title']}): pictures come back {abs(change):.2f} dB "
        line += f"{way} than by {plain['title']}"
        if row["bits"] and plain["bits"]:
            most = "at most " if row["bound"] else ""
            line += f", and the generator pays {most}{row['bits']:.0f} bits instead of "
            line += f"{plain['bits']:.0f}"
        ratio = row["fwd_drawn"][0] / plain["fwd_drawn"][0]
        line += f"; what is drawn is {ratio:.2f} times as far from real pictures."
        lines.append(line)
    near, back = best(rows, "fwd_drawn"), best(rows, "psnr", lowest=False)
    keeps = f"most of a picture keeps {back['title']}"
    lines.append(f"- Nearest to real pictures draws {near['title']}; {keeps}.")
    return "\n".join(lines)


def plot(rows: Rows, out: Path) -> None:
    """PSNR and FWD over bits: those of the generator filled, those stored hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for row, mark, i in zip(rows, MARKS * 3, range(len(rows)), strict=False):
        drawn = row["fwd_drawn"][0]
        style = {"marker": mark, "color": f"C{i % 10}", "linestyle": "none"}
        for panel, y in ((panels[0], row["psnr"]), (panels[1], drawn)):
            if row["raw_bits"] is None:
                panel.axhline(y, color=f"C{i % 10}", linestyle=":", label=row["title"])
                continue
            panel.plot([row["raw_bits"]], [y], fillstyle="none", **style)
            panel.plot([row["bits"] or row["raw_bits"]], [y], label=row["title"], **style)
    panels[0].set(xlabel="bits per picture", ylabel="PSNR, dB", xscale="log")
    panels[1].set(xlabel="bits per picture", ylabel="FWD of drawn pictures", xscale="log")
    for panel in panels:
        panel.set_xticks([300, 500, 1000, 2000], ["300", "500", "1,000", "2,000"])
        panel.tick_params(axis="x", which="minor", labelbottom=False)
    handles, labels = panels[0].get_legend_handles_labels()
    note = "filled: the generator's bits; hollow: as stored; lines: numbers, which have no bits"
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, title=note)
    figure.savefig(out)


def page(rows: Rows, about: dict[str, Any]) -> str:
    """The whole page."""
    sizes = [row["encoder"] for row in rows]
    return wrapped(
        Path(__file__)
        .with_name("rate_distortion.md")
        .read_text()
        .format(
            about=about,
            least=min(sizes),
            most=max(sizes),
            tokenizer=max(row["operations"][0] for row in rows) / 1e12,
            generator=max(row["operations"][1] for row in rows) / 1e12,
            table=table(rows),
            floor=about["real"]["fwd"],
            said=said(rows),
        )
    )

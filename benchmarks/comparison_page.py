"""The page that `comparison.py` writes: the text of comparison.md, every number from the runs."""

from __future__ import annotations

import re
import statistics
import textwrap
from pathlib import Path
from typing import Any

from comparison_edit import WAYS

TITLES: dict[str, str] = {
    "llamagen": "LlamaGen",
    "rar": "RAR",
    "var": "VAR",
    "maskgit": "MaskGIT",
    "mar": "MAR",
    "fluid": "Fluid",
    "magvit2": "Open-MAGVIT2",
    "ibq": "IBQ",
    "maskbit": "MaskBit",
    "infinity": "Infinity",
}
Facts = dict[str, dict[str, Any]]
Painted = dict[str, dict[str, Any]]


def rows_of(names: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def apart(x: float, unit: str, more: str = "more", fewer: str = "fewer") -> str:
    """A difference in words."""
    return f"{abs(x):.3g} {unit} {more if x > 0 else fewer}"


def told(value: float | None, form: str, before: str = "", after: str = "") -> str:
    """A number, or nothing where a system has none."""
    return "" if value is None else f"{before}{value:{form}}{after}"


def measured(facts: Facts) -> str:
    """The table, a column for each system."""

    def codes(f: dict[str, Any]) -> str:
        return f"{f['codes']} {f['words']}"

    def passes(f: dict[str, Any]) -> str:
        return f"{f['passes']}" + told(f["head_passes"], "d", ", of the head ")

    lines = {
        "parameters": lambda f: f"{f['parameters']:,}",
        "operations of a training step": lambda f: f"{f['operations_per_step'] / 1e9:.2f} G",
        "steps, pictures in a step": lambda f: f"{f['steps']:,}, {f['batch']}",
        "operations of the training": lambda f: f"{f['operations'] / 1e12:.2f} T",
        "seconds of the training": lambda f: f"{f['train_s']:.0f}",
        "tokenizer": lambda f: f"{f['tokenizer']}, {f['tokenizer_parameters']:,} parameters",
        "its training: steps, seconds": lambda f: (
            f"{f['tokenizer_steps']}, {f['tokenizer_train_s']:.0f}"
        ),
        "codes of a picture": codes,
        "bits of them, as they are stored": lambda f: told(f["raw_bits"], ",.0f"),
        "held-out bits per code": lambda f: told(
            f["bits_per_code"], ".3f", "≤ " if f["bound"] else ""
        ),
        "**held-out bits per picture**": lambda f: told(
            f["bits_per_image"], ".1f", "**≤ " if f["bound"] else "**", "**"
        ),
        "held-out diffusion loss": lambda f: told(f["diffusion_loss"], ".4f"),
        "**held-out PSNR of the tokenizer**": lambda f: f"**{f['psnr']:.2f} dB**",
        "codes in use on training pictures": lambda f: (
            "" if f["usage"] is None else percent(f["usage"])
        ),
        "forward passes to draw a picture": passes,
        "seconds to draw and decode a picture, one at a time": lambda f: f"{f['seconds_1']:.4f}",
        "the same, 64 at a time": lambda f: f"{f['seconds_64']:.4f}",
        "guidance": lambda f: f["guidance"],
    }
    rows = [[label, *(show(facts[name]) for name in TITLES)] for label, show in lines.items()]
    return rows_of(["", *TITLES.values()], rows)


def equal_bits(equal: list[dict[str, Any]]) -> str:
    """Tokenizers, those of equally many bits one after another."""
    rows = list[list[str]]()
    for f in equal:
        drawn = (
            f"{TITLES[name]} {'≤ ' if name in f['bounds'] else ''}{bits:.1f}"
            for name, bits in f["drawn"].items()
        )
        known = [f"{f['raw_bits']:,.0f}", f"{f['parameters']:,}", f"{f['psnr']:.2f}"]
        entropy = f"{f['entropy_bits']:.2f} of {f['bits']:.0f}"
        rows.append([f["tokenizer"], f["codes"], *known, entropy, "; ".join(drawn)])
    names = ["tokenizer", "codes of a picture", "bits as stored", "parameters", "PSNR, dB"]
    return rows_of([*names, "entropy of a code, bits", "held-out bits per picture"], rows)


def what_bits_buy(equal: list[dict[str, Any]]) -> str:
    """For each tokenizer with a yardstick of as many bits, in words, what changes."""
    of, said = {f["recipe"]: f for f in equal}, list[str]()
    for f in equal:
        if not f["yardstick"]:
            continue
        table = of[f["yardstick"]]
        assert f["raw_bits"] == table["raw_bits"], (f["tokenizer"], table["tokenizer"])
        better = apart(f["psnr"] - table["psnr"], "dB", "better", "worse")
        entropy = apart(f["entropy_bits"] - table["entropy_bits"], "bits")
        line = f"- {f['tokenizer']}, against {table['tokenizer']}: pictures come back {better}; "
        line += f"a code has {entropy} of entropy"
        mine, theirs = (
            min((bits for name, bits in t["drawn"].items() if name not in t["bounds"]), default=0)
            for t in (f, table)
        )
        if mine and theirs:
            more = "more" if mine > theirs else "fewer"
            line += f"; its best generator needs {percent(abs(mine / theirs - 1))} {more} bits"
        said.append(line + ".")
    return "\n".join(said)


def scales(var: dict[str, Any]) -> str:
    """How the codes of scales are used."""
    uses = [percent(u) for u in var["usage_by_scale"]]
    rows = [["codes in use", *uses, percent(var["usage"])]]
    rows += [["perplexity", *(f"{p:.0f}" for p in var["perplexity_by_scale"]), ""]]
    return rows_of(["", *var["scales"], "all"], rows)


def orders(rar: dict[str, Any]) -> str:
    found = rar["bits_by_order"]
    row = ["held-out bits per code", *(f"{v:.3f}" for v in found.values())]
    return rows_of(["", *found], [row])


def inside(painted: Painted) -> str:
    rows = []
    for way, row in painted.items():
        cells = [way]
        for mask in ("quarter", "half"):
            bits = row.get(f"bits_{mask}")
            cells += [f"{row[f'psnr_{mask}']:.2f}", "" if bits is None else f"{bits:.3f}"]
        rows.append(cells)
    names = ["", "quarter: PSNR, dB", "bits per code", "half: PSNR, dB", "bits per code"]
    return rows_of(names, rows)


def known_first(painted: Painted) -> str:
    """What seeing all known codes first changes for RAR, in a sentence for each mask."""
    told: list[str] = []
    first, own = painted["RAR (known first)"], painted["RAR (row by row)"]
    for mask, name in (("quarter", "lower right quarter"), ("half", "random half")):
        pairs = list(zip(first[f"error_{mask}"], own[f"error_{mask}"], strict=True))
        whole = statistics.mean(b for _, b in pairs)
        changes = [100 * (a - b) / whole for a, b in pairs]
        chance = statistics.stdev(changes) / len(changes) ** 0.5
        error = apart(statistics.mean(changes), "%", "larger", "smaller")
        bits = apart(first[f"bits_{mask}"] - own[f"bits_{mask}"], "bits")
        told.append(
            f"in the {name} the squared error is {error} (standard error over pictures "
            f"{chance:.2g} %) and a code takes {bits}"
        )
    return ";\n".join(told)


def wrapped(page: str, width: int = 110) -> str:
    """The page with lines of text and of lists no longer than this. Blocks that begin as tables,
    pictures, headings or code stay as they are."""
    blocks = []
    for block in page.split("\n\n"):
        if not block.startswith(("|", "!", "#", "```", " ")):
            items = re.split(r"\n(?=- )", block)
            indents = ["  " if item.startswith("- ") else "" for item in items]
            block = "\n".join(
                textwrap.fill(
                    " ".join(item.split()),
                    width,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                for item, indent in zip(items, indents, strict=True)
            )
        blocks.append(block)
    return "\n\n".join(blocks).rstrip("\n") + "\n"


def page(facts: Facts, painted: Painted, equal: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The whole page."""
    llamagen, rar, var = (facts[name] for name in ("llamagen", "rar", "var"))
    words = facts["infinity"]

    def speed(system: dict[str, Any], batch: int) -> float:
        return llamagen[f"seconds_{batch}"] / system[f"seconds_{batch}"]

    return wrapped(
        Path(__file__)
        .with_name("comparison.md")
        .read_text()
        .format(
            about=about,
            **facts,
            measured=measured(facts),
            rar_bits=apart(rar["bits_per_code"] - llamagen["bits_per_code"], "bits"),
            speeds=rows_of(
                ["", *TITLES.values()],
                [
                    [said, *(f"{speed(facts[name], batch):.1f}" for name in TITLES)]
                    for said, batch in (("one at a time", 1), ("64 at a time", 64))
                ],
            ),
            pictures="\n\n".join(
                f"{title}:\n\n![{title}](comparison-{name}.png)" for name, title in TITLES.items()
            ),
            seen=about["images"] - about["held_out"],
            orders=orders(rar),
            scales=scales(var),
            scales_of_bits=scales(words),
            equal=equal_bits(equal),
            what_bits_buy=what_bits_buy(equal),
            names="; ".join(about["names"]),
            classes=", ".join(about["classes"]),
            ways=", ".join(WAYS),
            edited=len(painted["VAR"]["error_half"]),
            draws=about["draws"],
            inside=inside(painted),
            known_first=known_first(painted),
        )
    )

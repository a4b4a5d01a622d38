"""Pages of help: the recipes in groups, and what can be changed in one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from smalti.cli.catalogue import Listed
from smalti.cli.options import REQUIRED, Option


def recipe_list(command: str, usage: str, listed: Iterable[Listed]) -> str:
    """The recipes in groups, each with its first paragraph."""
    groups: dict[str, list[str]] = {}
    for recipe in listed:
        name = f"  {recipe.name:20} "
        text = textwrap.fill(recipe.text, 100, initial_indent=name, subsequent_indent=" " * 23)
        groups.setdefault(recipe.group, []).append(text)
    order = sorted(groups, key=lambda group: ("published" in group, "generators" in group))
    parts = ["\n".join([f"{group}:", *groups[group]]) for group in order]
    return "\n\n".join(
        [
            f"usage: smalti {command} RECIPE {usage} [--field value ...]",
            *parts,
            "For your own pictures: smalti info folder:PATH names a recipe, steps and minutes.\n"
            f"smalti {command} RECIPE --help shows what can be changed.",
        ]
    )


COMMON = (
    *("--out", "--sizes", "--init", "--tokenizer", "--eye", "--words", "--vocab", "--codes"),
    *("--data.source", "--data.holdout"),
    *("--model.size", "--model.vocab", "--model.layers", "--model.dim", "--model.dropout"),
    *("--train.steps", "--train.batch", "--train.optim.lr", "--train.seed", "--train.device"),
    "--json",
)
"""What is explained on the page of a recipe, in this order; of all else it gives the defaults."""


def recipe_page(name: str, text: str, known: Sequence[Option]) -> str:
    """The help of a recipe that fits a page: what is changed often, then all else by name."""
    by_name = {option.name: option for option in known}
    required = [f"{o.name} {o.shown}" for o in known if o.default is REQUIRED]
    lines = [f"usage: smalti {name} {' '.join(required)} [--field value ...]", "", text.strip(), ""]
    for option in (by_name[n] for n in COMMON if n in by_name):
        left = f"  {option.name} {option.shown}".rstrip()
        indent = " " * 34
        first = f"{left:33} " if len(left) < 34 else f"{left}\n{indent}"
        lines.append((first + f"\n{indent}".join(textwrap.wrap(option.help, 66))).rstrip())
    lines += ["", "all else, with its default:"]
    groups: dict[str, list[str]] = {}
    for option in known:
        if option.name not in COMMON:
            group = option.name[2:].partition(".")[0] if "." in option.name else ""
            groups.setdefault(group, []).append(f"{option.name}\0{option.shown}".rstrip("\0"))
    for words in groups.values():  # \0: a space at which no line ends
        packed = textwrap.fill(
            "  ".join(words),
            100,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        lines.append(packed.replace("\0", " "))
    return "\n".join([*lines, "", f"smalti {name} --help-all explains every option."])

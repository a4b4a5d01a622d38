"""Pages of the site that are generated: commands, the API and examples.

Commands are asked what their options are; the API is read by mkdocstrings; an example is its cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import smalti
from smalti.cli import catalogue
from smalti.cli import main as cli
from smalti.cli.drawing import with_settings
from smalti.cli.options import REQUIRED, Option, options
from systems import ROOT, about, block, table

SOURCE = ROOT / "src" / "smalti"
RECIPES = ("train", "scaling")
"""Commands whose first word is a recipe, of which every field is an option."""


# -- commands


def parsed(*words: str) -> tuple[str, list[Option], str]:
    """How a command is called, its options and what it says of itself, as its parser is given
    them."""
    seen = list[tuple[str, Callable[..., None]]]()

    def parse(command: Callable[..., None], prog: str, _: Any) -> None:
        seen.append((prog, command))

    def parse_drawing(command: Callable[..., None], prog: str, _: Any) -> None:
        seen.append((prog, with_settings(command)))

    places = {"parse": parse, "parse_drawing": parse_drawing}
    with patch.multiple(cli, **places), patch("smalti.cli.training.parse", parse):
        cli.main(words)
    ((prog, command),) = seen
    return prog, options(command), about(command)


def option_table(known: Iterable[Option]) -> str:
    rows = [[*_typed(option), option.help] for option in known]
    return table(["option", "default", "what it is"], rows)


def _typed(option: Option) -> tuple[str, str]:
    names = ", ".join(f"`{name}`" for name in option.names)
    needed = option.default is REQUIRED or option.default is None or option.shown == "()"
    return names, "" if needed else f"`{option.shown or '(on)'}`"


def command_page(name: str) -> str:
    """The page of a command, with every option."""
    text = about(cli.COMMANDS[name])
    if name in RECIPES:
        return f"# smalti {name}\n\n{text}\n\n{_of_recipes(name)}\n"
    if name == "convert":
        sections = [_section(*parsed(name, project)) for project in catalogue.projects()]
        return "\n\n".join([f"# smalti {name}", text, *sections]) + "\n"
    _, known, said = parsed(name)
    sections = [f"# smalti {name}", said.partition("\n\nArgs:")[0], option_table(known)]
    if name == "eval":
        sections.append(_section(*parsed(name, "compare")))
    return "\n\n".join(sections) + "\n"


def _section(prog: str, known: list[Option], said: str) -> str:
    return f"## {prog}\n\n{said.partition(chr(10) * 2 + 'Args:')[0]}\n\n{option_table(known)}"


def _of_recipes(name: str) -> str:
    """The recipes, and all options that any of them has."""
    listed = [r for r in catalogue.recipes().values() if r.scaled or name == "train"]
    every: dict[str, list[Option]] = {}
    for recipe in listed:
        for option in parsed(name, recipe.name)[1]:
            every.setdefault(option.name, []).append(option)
    rows = [[_typed(same[0])[0], _shared(same), same[0].help] for same in every.values()]
    recipes = table(["recipe", "what it is"], [[f"`{r.name}`", r.text] for r in listed])
    more = f"`smalti {name} RECIPE --help` gives those of a recipe, with its own defaults."
    fields = table(["option", "default", "what it is"], rows)
    return f"## Recipes\n\n{recipes}\n\n## Options\n\nOf all recipes. {more}\n\n{fields}"


def _shared(several: list[Option]) -> str:
    """The default where recipes agree."""
    shown = {_typed(option)[1] for option in several}
    return shown.pop() if len(shown) == 1 else "the recipe's"


def command_index() -> str:
    """The commands in the groups of `smalti --help`, and what is in none of them."""
    listed = {name for names in cli.GROUPS.values() for name in names}
    groups = cli.GROUPS | {"more": tuple(name for name in cli.COMMANDS if name not in listed)}
    lines = ["# Commands", "Every command with every option, as its parser has them. By what you"]
    lines[1] += " want to do: [docs/commands.md](../docs/commands.md)."
    for group, names in groups.items():
        if not names:
            continue
        rows = [[f"[`{n}`]({n}.md)", about(cli.COMMANDS[n]).partition("\n\n")[0]] for n in names]
        lines += [f"## {group.capitalize()}", table(["command", "what it does"], rows)]
    return "\n\n".join(lines) + "\n"


# -- the API

OWN = {"cli", "models", "tokenizers", "recipes", "nn", "features", "interop", "__main__", "loading"}
"""Rooms of the systems' own classes, which their pages tell of, and of the command line."""
CONTRACTS = (
    *("models.generator", "models.unified", "tokenizers.base", "heads.base", "recipes.base"),
    *("text.encoders", "interop.project", "interop.convert", "modules"),
)
"""What a new system has to know of rooms that are left out."""


def api_pages() -> dict[str, str]:
    """What `import smalti` has, then each room."""
    names = [getattr(smalti, name) for name in smalti.__all__]
    public = [f"::: {item.__module__}.{item.__qualname__}" for item in names]
    rooms = [p.stem for p in sorted(SOURCE.iterdir()) if p.suffix == ".py" or any(p.glob("*.py"))]
    rooms = [r for r in rooms if r not in OWN and not r.startswith("_") and r != "py"]
    made = {"api/index.md": "\n\n".join(["# import smalti", *public]) + "\n"}
    made["api/contracts.md"] = "# Contracts\n\n" + _modules(CONTRACTS)
    for room in rooms:
        inside = sorted(SOURCE.joinpath(room).glob("[!_]*.py"))
        files = [f"{room}.{path.stem}" for path in inside] or [room]
        made[f"api/{room}.md"] = f"# smalti.{room}\n\n{_modules(files)}"
    return made


def _modules(names: Iterable[str]) -> str:
    return "\n\n".join(f"::: smalti.{name}" for name in names) + "\n"


# -- examples


def cells(text: str) -> list[tuple[bool, str]]:
    """The cells of a notebook as a script: whether each is text, and what is in it."""
    found = list[tuple[bool, str]]()
    for cell in re.split(r"(?m)^# %%", text)[1:]:
        mark, _, body = cell.partition("\n")
        words = mark.strip() == "[markdown]"
        found.append((words, re.sub(r"(?m)^# ?", "", body) if words else body))
    return [(words, body.strip("\n")) for words, body in found]


def example_page(path: Path) -> str:
    """The page of an example: its docstring, then its cells, or all of it where it has none."""
    text = path.read_text(encoding="utf-8")
    doc, rest = text.split('"""')[1], text.split('"""', 2)[2]
    first, _, more = doc.strip().partition("\n\n")
    told = re.sub(r"(?m)^(python .*)$", lambda line: block(line[1]), more)
    parts = [body if words else block(body, "python") for words, body in cells(text)]
    return "\n\n".join([f"# {first}", told, *(parts or [block(rest, "python")])]) + "\n"


def example_pages() -> dict[str, str]:
    """A page for each example, the notebooks first."""
    paths = sorted((ROOT / "examples").glob("*.py"), key=lambda p: (not _notebook(p), p.stem))
    made = {f"examples/{path.stem}.md": example_page(path) for path in paths}
    rows = [
        [f"[{path.name}]({path.stem}.md)", made[f"examples/{path.stem}.md"].split("\n")[0][2:]]
        for path in paths
    ]
    text = "Scripts of at most sixty lines. Those with `# %%` cells open as notebooks in VS Code,"
    text += " Spyder and Jupyter (with jupytext)."
    index = f"# Examples\n\n{text}\n\n{table(['file', 'what it does'], rows)}\n"
    return {"examples/index.md": index} | made


def _notebook(path: Path) -> bool:
    return "# %%" in path.read_text(encoding="utf-8")


def pages() -> dict[str, str]:
    """The pages by their paths in the site."""
    commands = {f"commands/{name}.md": command_page(name) for name in cli.COMMANDS}
    return {"commands/index.md": command_index()} | commands | api_pages() | example_pages()

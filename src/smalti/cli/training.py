"""`smalti train` and `smalti scaling`: a recipe, of which every field is an option."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from smalti.arguments import find
from smalti.cli import catalogue
from smalti.cli.options import check_names, fields_named, options, spelled
from smalti.cli.pages import recipe_list, recipe_page
from smalti.cli.parsing import parse
from smalti.config import did_you_mean
from smalti.progress import say, show


def train(arguments: Sequence[str]) -> None:
    """Train a tokenizer or a generator: `smalti train RECIPE --out RUN [--field value ...]`."""
    arguments = in_full(arguments)
    name = chosen_recipe("train", arguments, "--out RUN")
    if name is None:
        return
    if catalogue.recipes()[name].text_only:
        train_words(name, arguments)
        return
    from smalti.recipes import RECIPES
    from smalti.runs.idle import check_idle
    from smalti.runs.run import ending
    from smalti.runs.run import train as run
    from smalti.runs.schedule import follow

    default = RECIPES[name]()

    def command(
        out: Annotated[Path, arg(help="Folder of the run; the same command goes on there.")],
        recipe: Any = default,
        json: Annotated[bool, arg(help="Print the report on standard output.")] = False,
    ) -> None:
        named = fields_named(arguments)
        check_idle(recipe, named, out)
        recipe, note = follow(recipe, default, named, out)
        report = run(recipe, out, note)
        if json and report:
            show(report)
        elif report:
            say(ending(recipe, out, report))

    parse_recipe(command, "train", name, arguments[1:])


def train_words(name: str, arguments: Sequence[str]) -> None:
    """`train` for a recipe of a text tokenizer."""
    from smalti.recipes import RECIPES
    from smalti.runs.words import ending
    from smalti.runs.words import train_words as run

    default = RECIPES[name]()

    def command(
        out: Annotated[Path, arg(help="Folder of the run; the same command goes on there.")],
        recipe: Any = default,
        json: Annotated[bool, arg(help="Print the report on standard output.")] = False,
    ) -> None:
        report = run(recipe, out)
        if json:
            show(report)
        else:
            say(ending(recipe, out, report))

    parse_recipe(command, "train", name, arguments[1:])


def scaling(arguments: Sequence[str]) -> None:
    """Fit scaling laws to sizes of a model: `smalti scaling RECIPE --sizes 1 2 3 4 --out DIR`.

    Trains the sizes, numbers of layers, on the same codes, and writes scaling.json and scaling.png;
    what is finished is used again, what was cut off goes on. All else are fields of the recipe.
    """
    arguments, usage = in_full(arguments), "--sizes N N N N --out DIR"
    name = chosen_recipe("scaling", arguments, usage, scaled=True)
    if name is None:
        return
    from rich.console import Console

    from smalti.cli.plots import plot_scaling, require
    from smalti.recipes import RECIPES
    from smalti.runs.idle import check_idle
    from smalti.runs.ladder import climb, tables
    from smalti.runs.schedule import follow

    default = RECIPES[name]()

    def command(
        out: Annotated[Path, arg(help="Folder of the ladder; the same command goes on there.")],
        sizes: Annotated[tuple[int, ...], arg(help="Numbers of layers, at least four.")],
        recipe: Any = default,
        json: Annotated[bool, arg(help="Print the laws on standard output.")] = False,
    ) -> None:
        require()  # not only when all is trained
        named = fields_named(arguments)
        check_idle(recipe, named)
        recipe, note = follow(recipe, default, named, out)
        report = climb(recipe, sizes, out, note)
        if not report:
            return
        plot_scaling(report, out / "scaling.png")
        if json:
            show(report)
        else:
            Console(stderr=True).print(*tables(report))

    parse_recipe(command, "scaling", name, arguments[1:])


# -- recipes


def in_full(arguments: Sequence[str]) -> list[str]:
    """The arguments with --train.log where --log stands, which is short for it."""
    return [re.sub(r"^--log(?==|$)", "--train.log", word) for word in arguments]


def chosen_recipe(
    command: str, arguments: Sequence[str], usage: str, scaled: bool = False
) -> str | None:
    """The recipe that the first of the arguments names; None if it asks for help: then all recipes
    are printed. Raises ValueError if it names none, and for options that no such recipe has."""
    listed = {n: r for n, r in catalogue.recipes().items() if r.scaled or not scaled}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(recipe_list(command, usage, listed.values()))
        return None
    name = arguments[0]
    if name.startswith("-"):
        raise ValueError(
            f"the recipe comes first, got {name!r}; smalti {command} --help lists all recipes"
        )
    index = find(name.replace("-", "_"), list(listed), "recipe")
    if index is None:
        near = did_you_mean(name, listed)
        more = "" if near else f"; smalti {command} --help lists all {len(listed)}"
        raise ValueError(f"{name!r} is no recipe of smalti {command}{near or more}")
    name = list(listed)[index]
    known = ["--out", "--sizes", "--json", "--help-all", *map(spelled, catalogue.fields(name))]
    check_names(arguments[1:], known)
    return name


def parse_recipe(command: Callable[..., None], name: str, recipe: str, rest: Sequence[str]) -> None:
    """Run a command that takes a recipe, of whose own type every field becomes an option."""
    from smalti.recipes import RECIPES

    function = RECIPES[recipe]
    default = function()
    group = tyro.conf.arg(name="")
    command.__annotations__["recipe"] = Annotated[type(default), group, tyro.conf.AvoidSubcommands]
    command.__doc__ = text = inspect.cleandoc(f"{function.__doc__}")
    prog = f"smalti {name} {recipe}"
    if {"-h", "--help"} & {*rest}:
        print(recipe_page(f"{name} {recipe}", text, options(command)))
        return
    parse(command, prog, ["--help" if word == "--help-all" else word for word in rest])

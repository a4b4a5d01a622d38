"""The command line. Bad input ends in one line and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from smalti.arguments import choose, find
from smalti.cli import catalogue
from smalti.cli.coding import encode, reconstruct
from smalti.cli.drawing import edit, sample, with_settings
from smalti.cli.options import check, check_names, field_docs, fields_named, options, spelled
from smalti.cli.pages import recipe_list, recipe_page
from smalti.cli.tune import tune
from smalti.config import changed, did_you_mean, settings_of, value_of
from smalti.files import check_file, expand
from smalti.progress import say, show


def demo(arguments: Sequence[str]) -> None:
    """Train a small tokenizer and generator and draw images: the whole way, in minutes on a CPU."""
    systems = catalogue.demos()
    listed = ", ".join(f"{name} ({what})" for name, what in systems.items())

    def command(
        system: str = "llamagen",
        data: str = "emoji",
        out: Path = Path("demo"),
        quick: bool = False,
        seed: int = 0,
        json: bool = False,
    ) -> None:
        from smalti.cli.demo import demo as run

        report = run(data, out, quick, seed, system)
        if json:
            show(report)

    command.__annotations__["system"] = Literal[tuple(systems)]
    command.__doc__ = f"""{demo.__doc__}

    Args:
        system: What is trained: {listed}.
        data: emoji, shapes, folder:PATH, parquet:PATH or hub:NAME.
        out: Folder for pictures, report and pipeline. A demo that was cut off goes on there.
        quick: A twentieth of the training, to see that everything works.
        seed: Random seed of training and drawing.
        json: Print the report on standard output.
    """
    parse(command, "smalti demo", arguments)


def info(path: Annotated[Positional[str], arg(metavar="PATH")], json: bool = False) -> None:
    """Say what a folder or file of smalti is: pipeline, tokenizer, run, token cache or picture;
    of your own pictures (folder:PATH) also which recipe suits them, and how long it takes.

    Args:
        path: Folder, file, Hugging Face hub id of a pipeline, or a data source: emoji, shapes,
            folder:PATH, parquet:PATH or hub:NAME.
        json: Print it as JSON on standard output.
    """
    from smalti.cli.info import describe

    report = describe(path)
    if json:
        show(report)
        return
    for key, value in report.items():
        lines = value if key == "commands" else [value]
        print(f"{key}:", *lines, sep="\n  " if key == "commands" else " ")


def train(arguments: Sequence[str]) -> None:
    """Train a tokenizer or a generator: `smalti train RECIPE --out RUN [--field value ...]`."""
    name = chosen_recipe("train", arguments, "--out RUN")
    if name is None:
        return
    from smalti.recipes import RECIPES
    from smalti.runs.run import ending
    from smalti.runs.run import train as run
    from smalti.runs.schedule import check_idle, follow

    default = RECIPES[name]()

    def command(
        out: Annotated[Path, arg(help="Folder of the run; the same command goes on there.")],
        recipe: Any = default,
        json: Annotated[bool, arg(help="Print the report on standard output.")] = False,
    ) -> None:
        named = fields_named(arguments)
        check_idle(recipe, named)
        recipe, note = follow(recipe, default, named, out)
        report = run(recipe, out, note)
        if json and report:
            show(report)
        elif report:
            say(ending(recipe, out, report))

    parse_recipe(command, "train", name, arguments[1:])


def scaling(arguments: Sequence[str]) -> None:
    """Fit scaling laws to sizes of a model: `smalti scaling RECIPE --sizes 1 2 3 4 --out DIR`.

    Trains the sizes, numbers of layers, on the same codes, and writes scaling.json and scaling.png;
    what is finished is used again, what was cut off goes on. All else are fields of the recipe.
    """
    usage = "--sizes N N N N --out DIR"
    name = chosen_recipe("scaling", arguments, usage, tokenizers=False)
    if name is None:
        return
    from rich.console import Console

    from smalti.cli.plots import plot_scaling, require
    from smalti.recipes import RECIPES
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
        recipe, note = follow(recipe, default, fields_named(arguments), out)
        report = climb(recipe, sizes, out, note)
        if not report:
            return
        plot_scaling(report, out / "scaling.png")
        if json:
            show(report)
        else:
            Console(stderr=True).print(*tables(report))

    parse_recipe(command, "scaling", name, arguments[1:])


def plot(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")],
    out: Path = Path("curves.png"),
    keys: tuple[str, ...] = (),
    smoothing: float = 0.8,
    json: bool = False,
) -> None:
    """Draw the curves of one or several runs: training loss and held-out values over steps.

    Args:
        runs: Folders of runs.
        out: PNG to write.
        keys: What to draw, a panel each; default: loss and the held-out values.
        smoothing: Share of a training value's running mean that the mean before it keeps.
        json: Print the file and the keys on standard output.
    """
    from smalti.cli.plots import is_plot, plot_runs

    check_file(out, ".png", is_plot)
    drawn = plot_runs(runs, out, keys, smoothing)
    if json:
        show({"file": str(out), "keys": drawn})
    else:
        say(f"{out}: {', '.join(drawn)}")


def convert(arguments: Sequence[str]) -> None:
    """Make a pipeline of released weights: `smalti convert PROJECT --tokenizer FILE --out DIR`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        from smalti.interop.projects import overview

        print(overview())
        return
    name, *rest = arguments
    name = choose(name, catalogue.projects(), "project")
    check_names(rest, ["--out", "--json", *map(spelled, catalogue.conversion(name))])
    from smalti.interop.convert import convert as run
    from smalti.interop.projects import PROJECTS

    project = PROJECTS[name]

    def command(out: Path, files: Any, json: bool = False) -> None:
        from smalti.cli.info import describe

        run(project, files, out, f"{name}, local files")
        report = describe(str(out))
        if json:
            show(report)
        else:
            say(f"{out}: {report['kind']}; next: {after_conversion(report, out)}")

    command.__annotations__ = {
        "out": Annotated[Path, arg(help="Folder to write; an older pipeline there is replaced.")],
        "files": Annotated[project.options, tyro.conf.arg(name="")],
        "json": Annotated[bool, arg(help="Print what was written on standard output.")],
    }
    command.__doc__ = project.options.__doc__
    parse(command, f"smalti convert {name}", rest)


def after_conversion(report: dict[str, Any], out: Path) -> str:
    """The command that takes what was converted."""
    if report["kind"] != "pipeline":
        return f"smalti encode folder:PATH --tokenizer {out} --out codes.arrow"
    about = '--text "..."' if "text" in report else "--classes 0 1 2"
    return f"smalti sample {out} {about} --n 6 --out samples.png (smalti info {out} says more)"


def evaluate(arguments: Sequence[str]) -> None:
    """Measure pictures, a pipeline or a tokenizer: `smalti eval SUBJECT`, `smalti eval compare`."""
    from smalti.cli import evaluate as measuring

    if arguments and arguments[0] == "compare":
        parse(measuring.compare_reports, "smalti eval compare", arguments[1:])
    else:
        parse_drawing(measuring.evaluate, "smalti eval", arguments)


# -- recipes


def chosen_recipe(
    command: str, arguments: Sequence[str], usage: str, tokenizers: bool = True
) -> str | None:
    """The recipe that the first of the arguments names; None if it asks for help: then all recipes
    are printed. Raises ValueError if it names none, and for options that no such recipe has."""
    listed = {n: r for n, r in catalogue.recipes().items() if tokenizers or not r.tokenizer}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(recipe_list(command, usage, listed.values()))
        return None
    name = arguments[0]
    if name.startswith("-"):
        raise ValueError(
            f"the recipe comes first, got {name!r}; smalti {command} --help lists all recipes"
        )
    index = find(name, list(listed), "recipe")
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


def parse_drawing(command: Callable[..., None], prog: str, arguments: Sequence[str]) -> None:
    """Run a command that draws, of whose settings each becomes an option. Their names are known by
    their source: a mistake is told before torch is imported."""
    others = [name for option in options(command) for name in option.names]
    check_names(arguments, [*others, *map(spelled, catalogue.settings())])
    parse(with_settings(command), prog, arguments)


# -- shared


def leave_processes() -> None:
    """End a process that `torchrun` started: all is written, and torch's threads of a process group
    can abort a process that unwinds."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "eval": evaluate,
    "tune": tune,
    "encode": encode,
    "sample": sample,
    "edit": edit,
    "reconstruct": reconstruct,
    "info": info,
    "convert": convert,
    "scaling": scaling,
    "plot": plot,
}


DRAWING = ("sample", "edit")
"""Commands that have an option for each setting of drawing."""
LATE = ("demo", "train", "eval", "convert", "scaling")
"""Commands that parse for themselves: their first word decides what the options are."""


GROUPS = {
    "start": ("demo", "info"),
    "train": ("train", "encode", "scaling", "plot"),
    "draw": ("sample", "edit", "reconstruct"),
    "measure": ("eval", "tune"),
    "released weights": ("convert",),
}
"""The commands as the overview shows them."""


def overview() -> str:
    listed = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"more": tuple(name for name in COMMANDS if name not in listed)}
    lines = list[str]()
    for title, names in groups.items():
        lines += ["", f"{title}:"] if names else []
        for name in names:
            text = " ".join((COMMANDS[name].__doc__ or "").strip().split("\n\n")[0].split())
            lines.append(f"  {name:12} {text}")
    return "\n".join(
        [
            "usage: smalti COMMAND ...",
            "",
            "Train, run and measure autoregressive image generators.",
            *lines,
            "",
            "Start with: smalti demo",
            "smalti COMMAND --help says more.",
        ]
    )


def parse(command: Callable[..., None], prog: str, arguments: Sequence[str]) -> None:
    """Run a command with its arguments, which are checked and then read by tyro.

    Raises ValueError for arguments that are wrong.
    """
    if not {"-h", "--help"} & {*arguments}:
        check(arguments, options(command))
    box = io.StringIO()
    with contextlib.redirect_stderr(box):
        try:
            call = tyro.cli(_deferred(command), prog=prog, args=list(arguments), registry=FLAT)
        except SystemExit as stop:
            if not stop.code:
                raise
            raise ValueError(cause(stop) or box.getvalue()) from None
    call()


FLAT = ConstructorRegistry()
"""What tyro has to know beside types."""


@FLAT.struct_rule
def _flat(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A dataclass that holds others as parts has their fields as its own options."""
    if not dataclasses.is_dataclass(info.type) or not isinstance(info.type, type):
        return None
    settings = settings_of(info.type)
    if all(len(setting.path) == 1 for setting in settings.values()):
        return None
    default = info.default if isinstance(info.default, info.type) else info.type()
    return StructConstructorSpec(
        instantiate=lambda **values: changed(default, values),
        fields=tuple(
            StructFieldSpec(name, s.hint, value_of(default, s), field_docs(s.owner)[s.field.name])
            for name, s in settings.items()
        ),
    )


def cause(stop: BaseException) -> str:
    """What a dataclass said when it refused its values, which made tyro end the program."""
    said, error = "", stop.__context__
    while error is not None:
        said = str(error) if isinstance(error, ValueError) else said
        error = error.__context__
    return said


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command as a function that returns its call: parsing ends before work begins."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Callable[[], None]:
        named = {name: _at_home(value) for name, value in kwargs.items()}
        return functools.partial(command, *map(_at_home, args), **named)

    return wrapper


def _at_home(value: Any) -> Any:
    """An argument with every path in it as `files.expand` has it: a shell leaves `--out=~/x`."""
    if isinstance(value, Path):
        return expand(value)
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        paths = {name: _at_home(v) for name, v in given.items() if isinstance(v, Path | tuple)}
        changed = {name: v for name, v in paths.items() if v != given[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] == "--version":
        from smalti import __version__

        print(__version__)
        return
    name, rest = arguments[0], arguments[1:]
    warnings.formatwarning = lambda message, *_: f"smalti {name}: {message}\n"
    try:
        name = choose(name, COMMANDS, "command")
        if name in LATE:
            COMMANDS[name](rest)
        elif name in DRAWING:
            parse_drawing(COMMANDS[name], f"smalti {name}", rest)
        else:
            parse(COMMANDS[name], f"smalti {name}", rest)
        leave_processes()
    except KeyboardInterrupt as stop:
        resumes = name in ("train", "demo", "scaling", "tune")
        usual = (
            "stopped; the same command goes on from the last checkpoint where there is one"
            if resumes
            else "stopped; nothing was written"
        )
        say(str(stop) or usual)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        raise SystemExit(1) from None
    except (ValueError, OSError, ArithmeticError) as error:
        say(f"smalti {name}: {' '.join(describe_error(error).split())}")
        raise SystemExit(2) from None


def describe_error(error: Exception) -> str:
    """What went wrong; of a file that the system refused, its name first."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"no such file: {error.filename}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()

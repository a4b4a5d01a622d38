"""The command line. Bad input ends in one line and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from smalti.coding import encode, reconstruct
from smalti.config import did_you_mean
from smalti.drawing import edit, sample
from smalti.files import check_file, expand
from smalti.progress import say, show


def demo(
    system: Literal["llamagen", "rar", "var", "maskgit", "mar", "fluid"] = "llamagen",
    data: str = "emoji",
    out: Path = Path("demo"),
    quick: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Train a small tokenizer and generator and draw images: the whole way, in minutes on a CPU.

    Args:
        system: What is trained: LlamaGen, RAR (random orders), VAR (scale by scale), MaskGIT (the
            surest codes first), MAR or Fluid (codes without a codebook, many at a time).
        data: emoji, shapes, folder:PATH, parquet:PATH or hub:NAME.
        out: Folder for pictures, report and pipeline. A demo that was cut off goes on there.
        quick: A twentieth of the training, to see that everything works.
        seed: Random seed of training and drawing.
        json: Print the report on standard output.
    """
    from smalti.demo import demo as run

    report = run(data, out, quick, seed, system)
    if json:
        show(report)


def info(path: Annotated[Positional[str], arg(metavar="PATH")], json: bool = False) -> None:
    """Say what a folder or file of smalti is: pipeline, tokenizer, run, token cache or picture.

    Args:
        path: Folder, file, or Hugging Face hub id of a pipeline.
        json: Print it as JSON on standard output.
    """
    from smalti.describe import describe

    report = describe(path)
    if json:
        show(report)
        return
    for key, value in report.items():
        print(f"{key}: {value}")


def train(arguments: Sequence[str]) -> None:
    """Train a tokenizer or a generator: `smalti train RECIPE --out RUN [--field value ...]`."""
    from smalti.recipes.run import train as run

    chosen = chosen_recipe("train", arguments, "--out RUN")
    if chosen is None:
        return

    def command(out: Path, recipe: Any = chosen, json: bool = False) -> None:
        report = run(recipe, out)
        if json and report:
            show(report)
        elif report:
            say(f"{out}: " + ", ".join(f"{k} {_number(v)}" for k, v in report.items()))

    parse_recipe(command, "train", arguments, chosen)


def scaling(arguments: Sequence[str]) -> None:
    """Fit scaling laws to sizes of a model: `smalti scaling RECIPE --sizes 1 2 3 4 --out DIR`.

    Trains the sizes, numbers of layers, on the same codes, and writes scaling.json and scaling.png;
    what is finished is used again, what was cut off goes on. All else are fields of the recipe.
    """
    from rich.console import Console

    from smalti.plotting import plot_scaling, require
    from smalti.recipes.base import GeneratorRecipe
    from smalti.recipes.ladder import climb, tables

    chosen = chosen_recipe("scaling", arguments, "--sizes N N N N --out DIR", GeneratorRecipe)
    if chosen is None:
        return

    def command(
        out: Path,
        sizes: Annotated[tuple[int, ...], arg(help="Numbers of layers, at least four.")],
        recipe: Any = chosen,
        json: bool = False,
    ) -> None:
        require()  # not only when all is trained
        report = climb(recipe, sizes, out)
        if not report:
            return
        plot_scaling(report, out / "scaling.png")
        if json:
            show(report)
        else:
            Console(stderr=True).print(*tables(report))

    parse_recipe(command, "scaling", arguments, chosen)


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
    from smalti.plotting import is_plot, plot_runs

    check_file(out, ".png", is_plot)
    drawn = plot_runs(runs, out, keys, smoothing)
    if json:
        show({"file": str(out), "keys": drawn})
    else:
        say(f"{out}: {', '.join(drawn)}")


def convert(arguments: Sequence[str]) -> None:
    """Make a pipeline of released weights: `smalti convert FAMILY --out DIR [--option value]`."""
    from smalti.interop.convert import FAMILIES

    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [
            f"  {n:18} {(f.options.__doc__ or '').splitlines()[0]}" for n, f in FAMILIES.items()
        ]
        print("usage: smalti convert FAMILY --out DIR [--option value]\n\nfamilies:")
        print("\n".join(lines) + "\n\nsmalti convert FAMILY --help shows every option.")
        return
    name, *rest = arguments
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    family = FAMILIES[name]

    def command(out: Path, files: Any, json: bool = False) -> None:
        from smalti.describe import describe

        family.convert(files, out, f"{name}, local files")
        report = describe(str(out))
        if json:
            show(report)
        else:
            say(f"{out}: {report['kind']}; smalti info {out} says more")

    command.__annotations__ = {
        "out": Path,
        "files": Annotated[family.options, tyro.conf.arg(name="")],
        "json": bool,
    }
    command.__doc__ = family.options.__doc__
    parse(command, f"smalti convert {name}", rest)


def evaluate(arguments: Sequence[str]) -> None:
    """Measure pictures, a pipeline or a tokenizer: `smalti eval SUBJECT`, `smalti eval compare`."""
    from smalti import measuring

    if arguments and arguments[0] == "compare":
        parse(measuring.compare_reports, "smalti eval compare", arguments[1:])
    else:
        parse(measuring.evaluate, "smalti eval", arguments)


def tune(arguments: Sequence[str]) -> None:
    """Find the settings of drawing that a metric likes best: `smalti tune PIPELINE`."""
    from smalti import tuning

    parse(tuning.tune, "smalti tune", arguments)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- shared


def chosen_recipe(
    command: str, arguments: Sequence[str], more: str, kind: type[Any] = object
) -> Any | None:
    """The recipe that the first of the arguments names; None where help was asked for.

    Raises ValueError if it names none, or one that is not of this kind.
    """
    from smalti.recipes import RECIPES

    named = {n: f for n, f in RECIPES.items() if isinstance(f(), kind)}
    if not arguments or arguments[0].startswith("-"):
        lines = [f"  {n:18} {(f.__doc__ or '').splitlines()[0]}" for n, f in named.items()]
        text = f"usage: smalti {command} RECIPE {more} [--field value ...]\n\nrecipes:\n"
        print(text + "\n".join(lines) + f"\n\nsmalti {command} RECIPE --help shows every field.")
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"the recipe comes first, got {arguments[0]!r}")
        return None
    name = arguments[0]
    if name not in named:
        near = did_you_mean(name, named)
        raise ValueError(f"recipe must be one of {', '.join(named)}, got {name!r}{near}")
    return named[name]()


def parse_recipe(
    command: Callable[..., None], name: str, arguments: Sequence[str], recipe: Any
) -> None:
    """Run a command that takes a recipe, of whose own type every field becomes an option."""
    from smalti.recipes import RECIPES

    chosen = tyro.conf.arg(name="")
    command.__annotations__["recipe"] = Annotated[type(recipe), chosen, tyro.conf.AvoidSubcommands]
    command.__doc__ = f"{RECIPES[arguments[0]].__doc__}"
    parse(command, f"smalti {name} {arguments[0]}", arguments[1:])


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


LATE = ("train", "eval", "tune", "convert", "scaling")
"""Commands that parse for themselves: their first word decides what the options are, or their
options need imports that take seconds."""


def overview() -> str:
    lines = []
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {name:12} {text}")
    return (
        "usage: smalti COMMAND ...\n\nTrain, run and measure autoregressive image generators.\n\n"
        + "\n".join(lines)
        + "\n\nStart with: smalti demo\nsmalti COMMAND --help says more."
    )


def parse(command: Callable[..., None], prog: str, arguments: Sequence[str]) -> None:
    """Run a command with arguments read by tyro, whose complaints become one line."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            call = tyro.cli(_deferred(command), prog=prog, args=list(arguments))
        except SystemExit as stop:
            if not stop.code:
                raise
            raise ValueError(complaint(errors.getvalue())) from None
    call()


def complaint(box: str) -> str:
    """tyro's box of errors as one line: what is wrong, and the option that was perhaps meant."""
    # a title, then parts between lines of dashes, in whatever characters the terminal has
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    text = " ".join(" ".join(lines).split())
    wrong, *more = [part for part in re.split(r" *╰?[─-]{5,}╯? *", text) if part]
    for pattern, words in (
        (r"Unrecognized options: (.*)", r"unknown option: \1"),
        (r"Missing from [^:]*: (.*)", r"missing: \1"),
        (r"^Error parsing (recipe|\w+)[\w.]*: ", ""),  # of a group, whose error names its field
        (r"^Error parsing ", ""),
        (r" Got errors: .*", ""),
        (r"no type matching (?:\{None\}\|)?(\S+) could be .* \[(.*)\]\.$", r"must be \1, got \2"),
        (r"invalid literal for int\(\) with base 10:", "must be an integer, got"),
        (r"could not convert string to float:", "must be a number, got"),
    ):
        wrong = re.sub(pattern, words, wrong)
    near = re.search(r"Perhaps you meant: (--[\w.-]+)", more[0]) if more else None
    return f"{wrong}; did you mean {near[1]}?" if near else wrong


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command as a function that returns its call: parsing ends before work begins."""
    import functools

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
        if name not in COMMANDS:
            near = did_you_mean(name, COMMANDS)
            raise ValueError(f"command must be one of {', '.join(COMMANDS)}, got {name!r}{near}")
        if name in LATE:
            COMMANDS[name](rest)
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
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()

"""The command line. Bad input ends in one line and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from smalti.arguments import choose
from smalti.cli import catalogue
from smalti.cli.bench import bench
from smalti.cli.coding import encode, reconstruct
from smalti.cli.drawing import sample
from smalti.cli.editing import edit
from smalti.cli.facts import lines
from smalti.cli.listing import models
from smalti.cli.options import check_names, spelled
from smalti.cli.parsing import parse, parse_drawing
from smalti.cli.repacking import repack
from smalti.cli.serving import serve
from smalti.cli.talking import ask, caption, chat
from smalti.cli.training import scaling, train
from smalti.cli.tune import tune
from smalti.files import check_file
from smalti.progress import forget_chosen, say, show


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


def info(
    path: Annotated[Positional[str], arg(metavar="PATH")] = "",
    machine: bool = False,
    json: bool = False,
) -> None:
    """Say what a folder or file of smalti is: pipeline, tokenizer, run, report, codes or picture;
    of your own pictures (folder:PATH) also which recipe suits them, and how long it takes; or what
    this machine is.

    Args:
        path: Folder, file, Hugging Face hub id of a pipeline, or a data source: emoji, shapes,
            folder:PATH, parquet:PATH or hub:NAME, or documents: captioned:SOURCE, qa:FILE.jsonl,
            text:PATH.
        machine: Instead of PATH: processor, threads, measured rates, and which dtypes and copies
            of weights are taken for what.
        json: Print it as JSON on standard output.
    """
    if machine == bool(path):
        raise ValueError(f"info takes a PATH or --machine, got {'both' if path else 'neither'}")
    if machine:
        from smalti.cli.info import machine_facts as found
    else:
        from smalti.cli.info import describe

        found = partial(describe, path)
    report = found()
    if json:
        show(report)
        return
    print(*lines(report), sep="\n")


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
    """The command that takes what was converted, as it is typed."""
    typed = quote(str(out))
    if report["kind"] == "unified" and "tokenizer" not in report:
        return f'smalti ask {typed} "..." --image PICTURE (also caption, chat)'
    if report["kind"] == "unified":
        return (
            f'smalti sample {typed} --text "..." --n 6 --out samples.png (also ask, caption, chat)'
        )
    if report["kind"] != "pipeline":
        return f"smalti encode folder:PATH --tokenizer {typed} --out codes.arrow"
    about = '--text "..."' if "text" in report else "--classes 0 1 2"
    return f"smalti sample {typed} {about} --n 6 --out samples.png (smalti info {typed} says more)"


def evaluate(arguments: Sequence[str]) -> None:
    """Measure pictures, a pipeline or a tokenizer: `smalti eval SUBJECT`, `smalti eval compare`."""
    from smalti.cli import evaluate as measuring

    if arguments and arguments[0] == "compare":
        parse(measuring.compare_reports, "smalti eval compare", arguments[1:])
    else:
        parse_drawing(measuring.evaluate, "smalti eval", arguments)


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
    "ask": ask,
    "caption": caption,
    "chat": chat,
    "reconstruct": reconstruct,
    "repack": repack,
    "serve": serve,
    "info": info,
    "models": models,
    "convert": convert,
    "scaling": scaling,
    "plot": plot,
    "bench": bench,
}


DRAWING = ("sample", "edit", "chat")
"""Commands that have an option for each setting of drawing."""
LATE = ("demo", "train", "eval", "convert", "scaling")
"""Commands that parse for themselves: their first word decides what the options are."""


STOPPED = {
    **dict.fromkeys(
        ("train", "demo", "scaling", "tune"),
        "the same command goes on from the last checkpoint where there is one",
    ),
    "chat": "pictures that were drawn are kept",
}
"""What is left of a command that Ctrl-C ended, where it is not nothing and the command does not say
so itself."""
GROUPS = {
    "start": ("demo", "info", "models"),
    "train": ("train", "encode", "repack", "scaling", "plot"),
    "draw": ("sample", "edit", "reconstruct"),
    "serve": ("serve",),
    "text and pictures": ("ask", "caption", "chat"),
    "measure": ("eval", "tune", "bench"),
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
            "Train, run, measure and serve autoregressive image generators.",
            *lines,
            "",
            "Start with: smalti demo",
            "smalti COMMAND --help says more.",
        ]
    )


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
        say(str(stop) or f"stopped; {STOPPED.get(name, 'nothing was written')}")
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        raise SystemExit(1) from None
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_of_memory(error):
            raise
        say(f"smalti {name}: {' '.join(describe_error(error).split())}")
        raise SystemExit(2) from None
    finally:
        forget_chosen()


def is_of_memory(error: Exception) -> bool:
    """Whether there was too little memory, of the machine or, as torch tells it, of a device."""
    told = any(words in str(error) for words in ("allocate memory", "out of memory"))
    return isinstance(error, MemoryError) or told


def describe_error(error: Exception) -> str:
    """What went wrong; of a file that the system refused, its name first."""
    if is_of_memory(error):
        return "there is not enough memory: ask for less at a time, or for less"
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"no such file: {error.filename}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()

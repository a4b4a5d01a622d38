"""The command line without work: overview, version, help, and what it does not import."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import torch
import tyro

from smalti import __version__, progress
from smalti.cli import catalogue
from smalti.cli import main as cli
from smalti.cli.options import field_docs, options
from smalti.cli.running import auto_dtype
from smalti.config import settings_of
from smalti.interop.projects import PROJECTS
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.base import TokenizerRecipe, WordsRecipe


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_overview_lists_every_command(capsys, arguments):
    cli.main(arguments)
    text = capsys.readouterr().out
    assert text.startswith("usage: smalti COMMAND")
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("encode", "DATA"),
        ("sample", "PIPELINE"),
        ("edit", "PIPELINE"),
        ("reconstruct", "TOKENIZER IMAGES"),
        ("info", "PATH"),
    ],
)
def test_positional_arguments_have_names(capsys, name, usage):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    line = " ".join(capsys.readouterr().out.split("options")[0].split())
    assert line.startswith(f"usage: smalti {name} [-h]") and f" {usage}" in line
    assert "STR" not in line.split(" --")[0]


@pytest.mark.parametrize("name", ["demo", "encode", "sample", "edit", "reconstruct", "info"])
def test_help_of_a_command(capsys, name):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0 and f"smalti {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("sample", "--text --prompts --negative"),
        ("edit", "--text --negative"),
        ("encode", "--text"),
    ],
)
def test_help_shows_what_concerns_texts(capsys, name, flags):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert all(f"{flag} " in text for flag in flags.split())


@pytest.mark.parametrize(
    ("recipe", "flag"),
    [("emoji_t2i", "--text.layers"), ("llamagen_t2i_stage1", "--text.clean")],
)
def test_the_text_encoder_of_a_recipe_has_its_own_fields(capsys, recipe, flag):
    cli.main(["train", recipe, "--help"])
    assert flag in capsys.readouterr().out


def test_train_lists_recipes_and_every_field(capsys):
    cli.main(["train"])
    assert "emoji_vqgan" in capsys.readouterr().out
    flags = ("--out", "--model.l2-norm", "--objective.codebook.kmeans", "--train.optim.lr")
    cli.main(["train", "emoji_vqgan", "--help"])
    page = capsys.readouterr().out
    assert all(flag in page for flag in flags)
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "emoji_vqgan", "--help-all"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and all(flag in text for flag in flags)
    assert len(page.splitlines()) < 55 < len(text.splitlines())


def test_the_page_of_a_recipe_begins_with_what_is_changed_often(capsys):
    cli.main(["train", "emoji_vqgan", "--help"])
    often, _, rest = capsys.readouterr().out.partition("all else, with its default:")
    for words in ("--train.steps 800 ", "--train.batch 16 ", "--train.optim.lr 0.002 "):
        assert words in often
    assert "--model.size 32 32 " in often and "--out PATH " in often
    assert often.startswith("usage: smalti train emoji_vqgan --out PATH [--field value ...]")
    assert "--train.guard.spike 10.0" in rest and "--data.flip" in rest
    assert "--train.steps" not in rest


def test_recipes_are_listed_in_groups_and_whole_sentences(capsys):
    cli.main(["train", "--help"])
    text = capsys.readouterr().out
    places = [
        *("tokenizers, small", "  emoji_vqgan ", "  emoji64_tokenizer "),
        *("generators, small", "  emoji64 ", "  emoji_t2i "),
        *("tokenizers, published", "  kl16 ", "generators, published", "  var_d16 "),
    ]
    assert [text.index(f"\n{place}") for place in places] == sorted(
        text.index(f"\n{place}") for place in places
    )
    words = " ".join(text.split())
    assert "in about eight minutes on two CPU cores. So few pictures are learned by heart." in words
    assert max(map(len, text.splitlines())) <= 100
    cli.main(["scaling", "--help"])
    assert "tokenizers" not in capsys.readouterr().out


def test_the_catalogue_agrees_with_the_recipes():
    for name, function in RECIPES.items():
        listed, recipe = catalogue.recipes()[name], function()
        assert listed.kind == type(recipe).__name__
        assert listed.tokenizer == isinstance(recipe, TokenizerRecipe | WordsRecipe)
        fields = {f"--{f.replace('_', '-')}" for f in catalogue.fields(name)}
        known = options(command_of(recipe))
        assert {option.name for option in known} <= fields
        assert [option.name for option in known if not option.help] == []
    assert list(catalogue.recipes()) == list(RECIPES)


def test_the_catalogue_agrees_with_the_settings_of_drawing():
    known = {
        name: (s.hint, field_docs(s.owner)[s.field.name])
        for name, s in settings_of(Sampling).items()
    }
    assert list(catalogue.settings().items()) == list(known.items())
    assert all(setting.text for setting in catalogue.settings().values())


def test_the_catalogue_agrees_with_the_projects():
    assert list(catalogue.projects()) == list(PROJECTS)
    for name, project in PROJECTS.items():
        assert catalogue.conversion(name) == tuple(settings_of(project.options))


def test_what_comes_after_a_conversion():
    pipeline = {"kind": "pipeline", "tokenizer": {}}
    drawn = "--n 6 --out samples.png (smalti info c says more)"
    assert cli.after_conversion(pipeline, Path("c")) == f"smalti sample c --classes 0 1 2 {drawn}"
    text = cli.after_conversion(pipeline | {"text": {}}, Path("c"))
    assert text == f'smalti sample c --text "..." {drawn}'
    alone = cli.after_conversion({"kind": "tokenizer"}, Path("c"))
    assert alone == "smalti encode folder:PATH --tokenizer c --out codes.arrow"


def command_of(recipe):
    def command(recipe=recipe): ...

    group = Annotated[type(recipe), tyro.conf.arg(name="")]
    command.__annotations__["recipe"] = group
    return command


SUBJECTS = {
    "demo": [],
    "train": ["emoji_rar"],
    "scaling": ["emoji_rar"],
    "convert": ["llamagen"],
    "reconstruct": ["x", "y"],
}
"""What comes before the options; of other commands anything."""


MISSPELLED = {
    name: " ".join([*name.split(), *SUBJECTS.get(name, ["x"]), "--jsn"])
    for name in [*cli.COMMANDS, "eval compare"]
}
NAMES = {
    "--help": 0,
    "train --help": 0,
    "smaple": 2,
    "sample p --zzz": 2,
    "train emoji_rar --train.stepps 3": 2,
    "train emoji_rrr --out x": 2,
    "scaling emoji_vqgan --out x": 2,
    "convert lamagen --out x": 2,
    "convert rar --weights ema": 2,
}
"""Command lines, and the exit code of each."""
WITHOUT_TORCH = """
import contextlib, io, json, os, sys, traceback
sys.modules["torch"] = None
from smalti.cli.main import main
for line in json.load(sys.stdin):
    read, write = os.pipe()
    if not os.fork():  # each in a process of its own
        said, code = io.StringIO(), 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                main(line.split())
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
        os.write(write, json.dumps([said.getvalue(), code]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        print(answer.read(), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def without_torch():
    """What the command line says of each, and its exit code, where importing torch is an error."""
    lines = [*MISSPELLED.values(), *NAMES]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(lines, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", MISSPELLED)
def test_an_unknown_option_is_told_without_torch(name, without_torch):
    near = "--n" if name == "eval" else "--json"
    words = f"unknown option --jsn; did you mean {near}?"
    assert without_torch[MISSPELLED[name]] == [f"smalti {name.split()[0]}: {words}\n", 2]


@pytest.mark.parametrize("line", NAMES)
def test_names_are_known_without_torch(line, without_torch):
    said, code = without_torch[line]
    assert code == NAMES[line], said
    assert len(said.splitlines()) == (1 if code else 0)


@pytest.mark.parametrize("name", ["sample", "eval"])
def test_help_on_settings_of_drawing_imports_no_torch(name):
    script = (
        "import sys\nfrom smalti.cli.main import main\n"
        f"try:\n    main([{name!r}, '--help'])\n"
        "except SystemExit:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "False\n" and "--top-k" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [("demo", "goes on from the last checkpoint"), ("encode", "stopped; nothing was written")],
)
def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, name, words):
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, name, interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--path", "x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 130 and words in line


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError(28, "two\nlines")])
def test_an_error_becomes_one_line(monkeypatch, capsys, error):
    def failing(path: str) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", failing)
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "--path", "x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("smalti info: ") and "two lines" in line


TRAIN = "train emoji_vqgan --out x"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("smaple x", "'smaple'; did you mean 'sample'?"),
        (
            "train emoji_vqgn --out x",
            "'emoji_vqgn' is no recipe of smalti train; did you mean 'emoji_vqgan'?",
        ),
        ("sample p --temprature 1", "unknown option --temprature; did you mean --temperature?"),
        ("sample p q", "there is nothing that 'q' could be"),
        ("sample p --zzz", "unknown option --zzz"),
        ("sample p --n many", "--n must be an integer, got 'many'"),
        ("sample p --n", "--n needs a value: --n INT"),
        ("sample p --guidance high", "--guidance must be a number, got 'high'"),
        ("tune --budget 3", "PIPELINE is missing"),
        ("sample p --json=yes", "--json takes no value, got 'yes'"),
        ("demo --system rarr", "got 'rarr'; did you mean 'rar'?"),
        ("plot", "RUN... is missing"),
        ("sample p --schedule x", "--schedule must be one of constant, linear, "),
        ("encode p --tokenizer x", "--out PATH is missing"),
        (
            f"{TRAIN} --train.steps many",
            "--train.steps must be an integer, got 'many'",
        ),
        ("sample p --prompt cats", "--prompt is --text here: a prompt or several"),
        ("sample p --guidance-scale=3", "--guidance-scale is --guidance here: u + s * (c - u), 1"),
        ("sample p --num-samples 3", "--num-samples is --n here: the number of images in all"),
        ("edit p --cfg_scale 3", "--guidance here"),
        ("edit p --class_labels 3", "is --classes here"),
        ("edit p --mask-image x", "--mask-image is --mask here: in an edit; white or transparent"),
        ("sample p --height 3", "--height is --size here: height and width of the pictures in"),
        ("edit p --size 48x32", "--size has no counterpart here: pictures have the size"),
        ("tune p --height 3", "--height has no counterpart here: pictures have the size"),
        ("tune p --torch-dtype fp32", "--torch-dtype is --dtype here"),
        ("encode p --tokenizer x --out x --prompt a", "unknown option --prompt"),
        ("encode p --tokenizer x --out x --height 3", "unknown option --height"),
        (f"{TRAIN} --train.batch 0", "train.batch must be at least 1, got 0"),
        (f"{TRAIN} --train.optim.lr 0", "lr must be a positive number, got 0.0"),
        (f"{TRAIN} --train.optim.lr nan", "lr must be a positive number, got nan"),
        (f"{TRAIN} --train.optim.clip nan", "clip must be 0 or more, got nan"),
        (
            f"{TRAIN} --objective.codebook.warmup -1",
            "warmup must be 0 or more, got -1",
        ),
        (
            f"{TRAIN} --model.size 3",
            "--model.size needs 2 values, got 1: --model.size INT INT",
        ),
        (f"{TRAIN} --steps 3", "unknown option --steps; did you mean --train.steps?"),
        (
            f"{TRAIN} --data x",
            "unknown option --data; did you mean --data.source or --data.crop or --data.flip?",
        ),
        ("train --out x", "the recipe comes first, got '--out'"),
        ("train emoji_vqgan", "--out PATH is missing"),
        (
            f"{TRAIN} --modle.size 3 3",
            "unknown option --modle.size; did you mean --model.size?",
        ),
    ],
)
def test_complaints_about_arguments_read_well(capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    (told,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert told.startswith(f"smalti {arguments.split()[0]}: ") and line in told
    assert "Value error" not in told and "full helptext" not in told and "----" not in told


def test_info_takes_a_path_or_the_machine(capsys, monkeypatch):
    monkeypatch.setattr("smalti.devices.machine.facts", lambda: {"kind": "machine", "cores": 2})
    monkeypatch.setattr("smalti.cli.info.best_device", lambda: torch.device("cpu"))
    cli.main(["info", "--machine"])
    kind, cores, *weights = capsys.readouterr().out.splitlines()
    assert (kind, cores) == ("kind: machine", "cores: 2")
    assert [line.partition(":")[0] for line in weights] == ["float32_weights", "bfloat16_weights"]
    for words in ([], ["demo", "--machine"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["info", *words])
        assert stop.value.code == 2 and "PATH or --machine" in capsys.readouterr().err


def test_a_dtype_that_nobody_asked_for_is_told_with_the_reason(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    monkeypatch.setattr("smalti.devices.named.fast_bf16", lambda device: False)
    told = auto_dtype(torch.device("cpu"))
    assert told == "dtype: float32, as this processor has no bfloat16 instructions"
    progress.say_if_long(told)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        progress.say_threads()
    assert capsys.readouterr().err.count(told) == 1


def test_what_a_short_command_chose_is_not_told_by_the_next(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    monkeypatch.setitem(cli.COMMANDS, "models", lambda: progress.say_if_long("dtype: chosen"))
    cli.main(["models"])
    progress.say_threads()
    assert "chosen" not in capsys.readouterr().err


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def huge() -> None:
        """More than there is."""
        torch.empty(1 << 50, dtype=torch.uint8)

    def broken() -> None:
        """A bug."""
        raise RuntimeError("shapes do not match")

    monkeypatch.setitem(cli.COMMANDS, "plot", huge)
    with pytest.raises(SystemExit) as stop:
        cli.main(["plot"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("smalti plot: there is not enough memory: ask for")
    monkeypatch.setitem(cli.COMMANDS, "plot", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(["plot"])

"""The command line without work: overview, version, help, and what it does not import."""

import subprocess
import sys

import pytest

from smalti import __version__, cli


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
    with pytest.raises(SystemExit):
        cli.main(["train", recipe, "--help"])
    assert flag in capsys.readouterr().out


def test_train_lists_recipes_and_every_field(capsys):
    cli.main(["train"])
    assert "emoji_vqgan" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "emoji_vqgan", "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for flag in ("--out", "--model.l2-norm", "--objective.codebook.kmeans", "--train.optim.lr"):
        assert flag in text


def test_help_needs_no_torch():
    code = (
        "import sys; from smalti.cli import main; main(['--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


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
        ("train emoji_vqgn --out x", "got 'emoji_vqgn'; did you mean 'emoji_vqgan'?"),
        ("sample p --temprature 1", "unknown option: --temprature, 1; did you mean --temperature?"),
        ("sample p q", "unknown option: q"),
        ("sample p --zzz", "unknown option: --zzz"),
        ("sample p --n many", "--n: must be INT, got 'many'"),
        ("sample p --n", "Missing value for argument '--n'. Expected 1 values."),
        ("sample p --schedule x", "invalid choice 'x' for argument '--schedule'. Expected one of"),
        ("encode p --tokenizer x", "missing: --out PATH File to write. (required)"),
        (
            f"{TRAIN} --train.steps many",
            "--train.steps: must be an integer, got 'many'",
        ),
        ("sample p --prompt cats", "--prompt is --text here: a prompt or several"),
        ("sample p --guidance-scale=3", "--guidance-scale is --guidance here: u + s * (c - u), 1"),
        ("sample p --num-samples 3", "--num-samples is --n here: the number of images in all"),
        ("edit p --cfg_scale 3", "--guidance here"),
        ("edit p --class_labels 3", "is --classes here"),
        ("edit p --mask-image x", "--mask-image is --mask here: in an edit; white or transparent"),
        ("eval p --height 3", "--height has no counterpart here: pictures have the size"),
        ("tune p --torch-dtype fp32", "--torch-dtype is --dtype here"),
        ("encode p --tokenizer x --out x --prompt a", "unknown option: --prompt"),
        ("encode p --tokenizer x --out x --height 3", "unknown option: --height"),
        (f"{TRAIN} --train.batch 0", "train.batch must be at least 1, got 0"),
        (f"{TRAIN} --train.optim.lr 0", "lr must be above 0, got 0.0"),
        (f"{TRAIN} --train.optim.lr nan", "lr must be above 0, got nan"),
        (f"{TRAIN} --train.optim.clip nan", "clip must be 0 or more, got nan"),
        (
            f"{TRAIN} --objective.codebook.warmup -1",
            "warmup must be 0 or more, got -1",
        ),
        (
            f"{TRAIN} --modle.size 3 3",
            "--modle.size, 3, 3; did you mean --model.size?",
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


BOX = """\
╭─ Unrecognized options ───────────────────────────────────────────────╮
│ Unrecognized options: --temprature, 1                                │
│ ──────────────────────────────────────────────────────────────────── │
│ Perhaps you meant:                                                   │
│     --temperature {None}|FLOAT                                       │
│ ──────────────────────────────────────────────────────────────────── │
│ For full helptext, run smalti x --help                               │
╰──────────────────────────────────────────────────────────────────────╯
"""


def test_a_box_of_unicode_characters_becomes_one_line():
    line = "unknown option: --temprature, 1; did you mean --temperature?"
    assert cli.complaint(BOX) == line

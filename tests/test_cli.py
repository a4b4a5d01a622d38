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


@pytest.mark.parametrize("name", ["demo", "encode", "sample", "reconstruct", "info"])
def test_help_of_a_command(capsys, name):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0 and f"smalti {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags"), [("sample", "--text --prompts --negative"), ("encode", "--text")]
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


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "info", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "--path", "x"])
    assert stop.value.code == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError(28, "two\nlines")])
def test_an_error_becomes_one_line(monkeypatch, capsys, error):
    def failing(path: str) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", failing)
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "--path", "x"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("smalti info: ") and "two lines" in line

"""A text tokenizer by commands: trained, described, given to a run; one line for every mistake."""

import json

import pytest

from small_systems import TOKENIZER
from smalti.cli.main import main
from smalti.config import read_json
from smalti.text.words import Words

pytestmark = pytest.mark.usefixtures("float32")

LINES = [f"the {thing} is {value}" for thing in ("sea", "sky", "sun", "fire") for value in range(9)]


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "facts.txt").write_text("\n".join(LINES))
    return f"text:{tmp_path / 'facts.txt'}"


def run(capsys, *arguments):
    """What a command prints: what it reports, and the lines that it says."""
    capsys.readouterr()
    main([str(word) for word in arguments])
    told = capsys.readouterr()
    return told.out, told.err.splitlines()


def mistake(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def train(out, *options):
    return ("train", "tokenizer-text", "--out", out, *options)


def test_a_run_leaves_a_text_tokenizer_and_says_what_comes_next(lines, tmp_path, capsys):
    command = train(tmp_path / "r", "--data.source", lines, "--vocab", "270")
    _, (done, where, following) = run(capsys, *command)
    report = read_json(tmp_path / "r" / "report.json")
    held = report["held_out_bytes_per_id"]
    assert done.startswith("done: 270 ids learned from 32 texts; an id stands for ")
    assert done.endswith(f"{held:.2f} bytes of held-out text") and 1.2 < held < 4
    assert where.startswith(f"it is in {tmp_path}/r/words; ")
    assert following.startswith(f"next: smalti train shapes_chameleon --words {tmp_path}/r/words ")
    assert f" --data.source shapes-all+{lines} " in following
    files = {p.relative_to(tmp_path / "r").as_posix() for p in (tmp_path / "r").rglob("*")}
    assert files == {"recipe.json", "report.json", "words", "words/tokenizer.json"}
    words = Words.open(tmp_path / "r")
    assert report["vocab"] == words.vocab == 270 and report["words"] == words.fingerprint()
    texts = [line for line in LINES if len(words.read(line)) > 0]
    assert [words.write(words.read(text)) for text in texts] == LINES


def test_the_same_command_returns_at_once_and_another_is_refused(
    lines, tmp_path, capsys, monkeypatch
):
    command = train(tmp_path / "r", "--data.source", lines, "--vocab", "270", "--json")
    first, _ = run(capsys, *command)
    before = (tmp_path / "r" / "words" / "tokenizer.json").stat()
    monkeypatch.setattr(Words, "train", None)
    assert run(capsys, *command) == (first, [])
    assert (tmp_path / "r" / "words" / "tokenizer.json").stat() == before
    line = mistake(capsys, *command[:-2], "280")
    assert "r holds a run of another recipe: vocab was 270, now 280. Give another --out" in line
    (tmp_path / "facts.txt").write_text("something else")
    out, (told,) = run(capsys, *command)
    assert out == first and "is finished, and text:" in told and "has changed since" in told
    (tmp_path / "facts.txt").unlink()
    assert run(capsys, *command) == (first, [])


def test_a_run_that_was_cut_off_is_finished(lines, tmp_path, capsys, monkeypatch):
    command = train(tmp_path / "r", "--data.source", lines, "--vocab", "270", "--json")
    first, _ = run(capsys, *command)
    (tmp_path / "r" / "report.json").unlink()
    monkeypatch.setattr(Words, "train", None)
    assert run(capsys, *command)[0] == first


def test_pictures_give_their_captions_and_shapes_their_texts(tmp_path, capsys):
    report, _ = run(capsys, *train(tmp_path / "a", "--data.source", "shapes:60", "--json"))
    same, _ = run(capsys, *train(tmp_path / "b", "--data.source", "captioned:shapes:60", "--json"))
    assert (
        json.loads(report) == json.loads(same) and json.loads(same)["texts"] == 162
    )  # 54 + 2 * 54
    _, told = run(capsys, *train(tmp_path / "a", "--data.source", "shapes:60"))
    assert told[2].count("--data.source captioned:shapes:60 ") == 1
    _, told = run(capsys, *train(tmp_path / "c", "--data.source", "shapes-all:40"))
    assert " ids of the 512 asked for learned from " in told[0]
    _, told = run(
        capsys, *train(tmp_path / "d", "--data.source", "shapes:60", "--data.holdout", "0")
    )
    assert told[0].startswith("no text is held out: ")


def test_info_says_what_it_is(lines, tmp_path, capsys):
    run(capsys, *train(tmp_path / "r", "--data.source", lines, "--vocab", "270"))
    about = [
        json.loads(run(capsys, "info", tmp_path / "r" / name, "--json")[0])
        for name in ("words", "words/tokenizer.json")
    ]
    assert (
        about[0]
        == about[1]
        == {
            "kind": "text tokenizer",
            "vocab": 270,
            "model": "BPE",
            "marks": {"<s>": 0, "</s>": 1, "<pad>": 2},
            "fingerprint": Words.open(tmp_path / "r").fingerprint(),
        }
    )
    whole = json.loads(run(capsys, "info", tmp_path / "r", "--json")[0])
    assert whole["kind"] == "run" and whole["finished"] and whole["recipe"]["vocab"] == 270
    report = json.loads(run(capsys, "info", tmp_path / "r" / "report.json", "--json")[0])
    assert report["kind"] == "report of a run" and report["numbers"]["vocab"] == 270
    assert report["numbers"]["held_out_bytes_per_id"] > 1
    assert "it is no text tokenizer" in mistake(capsys, "info", tmp_path / "r" / "recipe.json")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--vocab 258", "vocab must be at least 259, for all bytes and 3 marks, got 258"),
        ("--data.holdout 1", "holdout must be in [0, 1), got 1.0"),
        ("--data.source text:none.txt", "none.txt cannot be read (there is no "),
        ("--data.source folder:none", "none"),
        ("--data.source texts:none", "unknown data source 'texts:none'"),
        ("--vocabulary 300", "unknown option --vocabulary; did you mean --vocab?"),
        ("--train.steps 3", "unknown option --train.steps"),
        ("--data.flip", "unknown option --data.flip"),
    ],
)
def test_mistakes_leave_nothing(options, told, tmp_path, capsys):
    line = mistake(capsys, *train(tmp_path / "r", *options.split()))
    assert told in line and not (tmp_path / "r").exists()


def test_no_other_folder_is_written_to(lines, tmp_path, capsys):
    command = train(tmp_path / "r", "--data.source", lines)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").write_text("mine")
    assert "r exists and is not a run: it holds mine.txt" in mistake(capsys, *command)
    (tmp_path / "r" / "mine.txt").unlink()
    run(capsys, *command)
    line = mistake(capsys, "train", "emoji_vqgan", "--out", tmp_path / "r", *TOKENIZER)
    assert "holds a run of another recipe" in line
    (tmp_path / "r" / "recipe.json").write_text('{"init": "", "data": {}, "model": {}}')
    assert "holds a run of another recipe: init was '', now None" in mistake(capsys, *command)


@pytest.mark.parametrize("name", ["tokenizer-text", "shapes_chameleon"])
def test_only_generators_of_codes_alone_have_a_ladder(name, tmp_path, capsys):
    line = mistake(capsys, "scaling", name, "--out", tmp_path / "r")
    assert f"{name!r} is no recipe of smalti scaling" in line

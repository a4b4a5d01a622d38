"""Nothing that a user has is written over, moved or deleted by any command, and `~` is home."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import pipeline as build_pipeline
from small_systems import TOKENIZER, write_pictures
from smalti import load
from smalti.cli.main import main
from smalti.pictures import is_own, save_png

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems") / "pipeline"
    build_pipeline("llamagen").save_pretrained(folder)
    return folder


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def texts(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_pipeline_is_not_saved_over_a_users_folder(tmp_path):
    pipe = build_pipeline("llamagen")
    (tmp_path / "work" / "src").mkdir(parents=True)
    (tmp_path / "work" / "src" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match="work exists and is not a pipeline: it holds src"):
        pipe.save_pretrained(tmp_path / "work")
    assert texts(tmp_path) == {"work/src/thesis.tex": b"years"}


def test_over_a_pipeline_only_its_own_files_are_replaced(tmp_path):
    p = tmp_path / "p"
    build_pipeline("llamagen-text").save_pretrained(p)
    mine = ["README.md", "tokenizer/a.txt", "model/b/c.txt", "text/d.txt", "../p.tmp", "../p.old/e"]
    for name in mine:
        (p / name).parent.mkdir(exist_ok=True)
        (p / name).write_text(name)
    pipe = build_pipeline("llamagen")  # without a text encoder
    pipe.save_pretrained(str(p))
    assert load(p).fingerprint == pipe.fingerprint
    assert [(p / name).read_text() for name in mine] == mine
    assert not (p / "text" / "config.json").exists()
    assert {n.name for n in tmp_path.iterdir()} == {"p", "p.tmp", "p.old"}


@pytest.mark.parametrize("part", ["tokenizer", "model"])
def test_a_part_that_is_not_of_smalti_is_kept(tmp_path, part):
    build_pipeline("llamagen").save_pretrained(tmp_path)
    (tmp_path / part / "config.json").write_text('{"model_type": "t5"}')
    before = texts(tmp_path)
    with pytest.raises(ValueError, match=f"{part} exists and is not a tokenizer or a model"):
        build_pipeline("llamagen").save_pretrained(tmp_path)
    assert texts(tmp_path) == before


def test_files_of_others_beside_and_in_the_place_of_outputs_stay(folder, tmp_path, capsys):
    picture = tmp_path / "x.png"
    for name in ("x.png.tmp", "x.png.old", ".x.png.tmp"):
        (tmp_path / name).write_text("mine")
    for _ in range(2):  # smalti's own is replaced
        main(["sample", str(folder), "--n", "2", "--out", str(picture)])
    assert is_own(picture) and len(list(tmp_path.iterdir())) == 4
    Image.new("RGB", (8, 8)).save(picture)
    (tmp_path / "codes.arrow").write_text("mine")
    (tmp_path / "report.json").write_text('{"mine": 1}')
    before = texts(tmp_path)
    tokenizer = ["--tokenizer", folder]
    for command in (
        ["sample", folder, "--n", "2", "--out", picture],
        ["edit", folder, "--image", picture, "--extend", "left=4", "--out", picture],
        ["reconstruct", folder, "shapes:8", "--out", picture],
        ["plot", tmp_path, "--out", picture],
        ["encode", "shapes:8", *tokenizer, "--out", tmp_path / "codes.arrow"],
        ["eval", "shapes:8", "--out", tmp_path / "report.json"],
    ):
        line = mistake(capsys, *command)
        assert f"{command[-1]} exists and is not of smalti: give another name" in line
    with pytest.raises(ValueError, match="x.png exists and is not of smalti"):
        save_png(Image.new("RGB", (8, 8)), picture)
    assert texts(tmp_path) == before


def test_other_pictures_of_a_folder_stay(folder, tmp_path, capsys):
    out = tmp_path / "drawn"
    for _ in range(2):
        main(["sample", str(folder), "--n", "2", "--out", str(out)])
    write_pictures(out, 1)  # 000.png
    mine = out / "000003.png"
    (out / "000.png").rename(mine)
    before = texts(out)
    line = mistake(capsys, "sample", folder, "--n", 4, "--out", out)
    assert f"{mine} exists and is not of smalti" in line and texts(out) == before
    main(["sample", str(folder), "--n", "3", "--out", str(out)])
    assert mine.read_bytes() == before[mine.name] and len(texts(out)) == 4


def test_what_is_beside_an_npz_stays(folder, tmp_path, capsys):
    out = tmp_path / "a.npz"
    command = ["sample", folder, "--count", 2, "--npz", out]
    parts = tmp_path / "a.npz.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    assert "a.npz.parts exists and is not parts of a drawing" in mistake(capsys, *command)
    assert texts(tmp_path) == {"a.npz.parts/notes.txt": b"mine"}
    (parts / "notes.txt").rename(tmp_path / "a.json")
    assert "a.json exists and is not of smalti" in mistake(capsys, *command)
    (tmp_path / "a.json").write_text('{"mine": 1}')
    assert "a.json exists and is not of smalti" in mistake(capsys, *command)
    (tmp_path / "a.json").unlink()
    np.savez(out, arr_0=np.zeros(3))
    before = texts(tmp_path)
    assert "a.npz exists and is not of smalti" in mistake(capsys, *command)
    assert texts(tmp_path) == before


def test_a_demo_does_not_write_over_files_of_others(tmp_path, capsys):
    (tmp_path / "samples.png").write_text("mine")
    line = mistake(capsys, "demo", "--data", "shapes:16", "--out", tmp_path)
    assert "samples.png exists and is not of smalti" in line
    assert texts(tmp_path) == {"samples.png": b"mine"}


def test_a_search_does_not_write_over_files_of_others(folder, tmp_path, capsys):
    (tmp_path / "tune.json").write_text('{"mine": 1}')
    line = mistake(capsys, "tune", folder, "--reference", "shapes:8", "--out", tmp_path)
    assert "tune.json exists and is not of smalti" in line
    assert texts(tmp_path) == {"tune.json": b'{"mine": 1}'}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sample {p} --out x.jpg", "x.jpg: pictures are written as .png, or into a folder"),
        ("sample {p} --out x.npz", "x.npz: pictures are written as .png"),
        ("sample {p} --out file", "file is a file, not a folder"),
        ("sample {p} --count 2 --npz x.png", "must name a file that ends in .npz, got x.png"),
        ("edit {p} --image x.png --out x.webp", "x.webp: pictures are written as .png"),
        ("reconstruct {p} shapes:8 --out x.jpg", "x.jpg must end in .png"),
        ("plot {p} --out x.svg", "x.svg must end in .png"),
        ("encode shapes:8 --tokenizer {p} --out codes", "codes must end in .arrow"),
        ("eval shapes:8 --out report.txt", "report.txt must end in .json"),
        ("train emoji_vqgan --out run.json", "run.json is to be a folder, but ends in .json"),
        ("demo --data shapes:16 --out demo.png", "demo.png is to be a folder"),
        ("tune {p} --reference shapes:8 --out t.json", "t.json is to be a folder"),
    ],
)
def test_outputs_that_contradict_their_names(folder, tmp_path, monkeypatch, capsys, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert words in mistake(capsys, *command.format(p=folder).split())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_home(folder, tmp_path, monkeypatch, capsys):
    """As an option with `=`, where no shell expands it, as text and in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SMALTI_CACHE", "~/k")
    monkeypatch.chdir(tmp_path)
    build_pipeline("llamagen").save_pretrained("~/p")
    main(["sample", "~/p", "--n", "1", "--out=~/x.png"])
    main(["sample", "~/p", "--count", "2", "--npz=~/x.npz"])
    main(["reconstruct", "~/p", "~/x.png", "--out=~/y.png"])
    main(["encode", "shapes:16", "--tokenizer=~/p", "--out=~/c.arrow"])
    main(["edit", "~/p", "--image=~/x.png", "--extend", "left=4", "--out=~/e.png"])
    main(["eval", "~/x.npz", "--reference=~/x.npz", "--bootstrap=0", "--out=~/r.json"])
    capsys.readouterr()
    main(["info", "~/p", "--json"])
    assert json.loads(capsys.readouterr().out)["kind"] == "pipeline"
    pipe = load("~/p")
    assert pipe.edit("~/x.png", extend={"left": 4})
    names = {"p", "x.png", "x.npz", "x.json", "y.png", "c.arrow", "e.png", "r.json", "k"}
    assert {p.name for p in tmp_path.iterdir()} == names
    more = ["--train.steps=2", "--out=~/g", "--tokenizer=~/p", "--codes=~/c.arrow"]
    line = mistake(capsys, "train", "emoji_mar", *more)  # another kind of codes
    assert "continuous codes" in line and "p" in line and not (tmp_path / "g").exists()
    main(["train", "emoji_vqgan", "--out=~/t", *TOKENIZER, "--train.steps", "3"])
    assert (tmp_path / "t" / "tokenizer").is_dir() and not (tmp_path / "~").exists()

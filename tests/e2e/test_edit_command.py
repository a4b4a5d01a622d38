"""`smalti edit` by the real command, with a pipeline of every loop and kind of codes: what editing
asks of a model, every one is asked in `pipeline/test_editing.py`."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from builders import models, pipeline
from smalti.cli.info import png_metadata
from smalti.cli.main import main
from smalti.pipeline.sampling import Sampling

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(params=["llamagen", "llamagen-text", "var", "maskgit", "mar"], scope="module")
def folder(request, tmp_path_factory):
    return saved(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return saved("llamagen", tmp_path_factory)


def saved(name, tmp_path_factory):
    """A folder with `pipeline`, `image.png` of another size than the model's, and `mask.png`."""
    folder = tmp_path_factory.mktemp(name)
    discrete = models()[name][1].spec.discrete
    steps = {} if discrete else {"sampling": Sampling.of(head_steps="4")}  # they are of its own
    pipeline(name, **steps).save_pretrained(folder / "pipeline")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "image.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[20:, 20:] = 255  # the lower right quarter
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def command(folder, *options):
    given = ["--image", folder / "image.png", *options]
    return [str(a) for a in ("edit", folder / "pipeline", *given)]


def told(capsys, *arguments):
    """What the command prints with --json."""
    capsys.readouterr()
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def mistake(capsys, arguments):
    """The one line that a command which fails writes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_the_same_command_gives_the_same_bytes(folder, tmp_path, capsys):
    of_text = (folder / "pipeline" / "text").is_dir()
    about = "a red heart" if of_text else "2"
    ask = ["--text" if of_text else "--class", about]
    given = ["--mask", folder / "mask.png", "--extend", "left=4, bottom=2", "--seed", 3, *ask]
    for name in ("a.png", "b.png"):
        arguments = command(folder, *given, "--keep-pixels", "--out", tmp_path / name)
        report = told(capsys, *arguments)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    (tag,) = report["images"]
    assert report["files"] == [str(tmp_path / "b.png")] and png_metadata(tmp_path / "a.png") == tag
    assert str(tag.get("class", tag.get("text"))) == about and tag["seed"] == 3
    assert tag["edit"]["extend"] == {"left": 4, "right": 0, "top": 0, "bottom": 2}
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (20, 18)
        edited = np.asarray(image)[:16, 4:]
    with Image.open(folder / "image.png") as image:
        halved = image.resize((20, 20), Image.Resampling.BOX).resize((16, 16), 3)
    kept = np.ones((16, 16), bool)
    kept[8:, 8:] = False
    assert np.array_equal(edited[kept], np.asarray(halved)[kept])
    assert not np.array_equal(edited[~kept], np.asarray(halved)[~kept])


def test_several_pictures_as_a_grid_and_as_files(folder, tmp_path, capsys):
    given = ["--mask", folder / "mask.png", "--n", 4, "--temperature", 0.9, "--batch", 3]
    whole = told(capsys, *command(folder, *given, "--out", tmp_path / "grid.png"))
    single = told(capsys, *command(folder, *given, "--out", tmp_path / "some"))
    assert whole["images"] == single["images"] == png_metadata(tmp_path / "grid.png")["images"]
    assert [t["index"] for t in single["images"]] == [0, 1, 2, 3]
    assert {t["temperature"] for t in single["images"]} == {0.9}
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (2 * 34 + 2, 2 * 34 + 2)
        sheet = np.asarray(image)
    for i in range(4):
        y, x = 2 + 34 * (i // 2), 2 + 34 * (i % 2)
        with Image.open(tmp_path / "some" / f"{i:06d}.png") as image:
            assert np.array_equal(sheet[y : y + 32 : 2, x : x + 32 : 2], np.asarray(image))


def test_classes_in_turn_get_columns(llama, tmp_path):
    given = ["--mask", llama / "mask.png", "--class", 1, 3, "--n", 6, "--out", tmp_path / "e.png"]
    main(command(llama, *given))
    assert [t["class"] for t in png_metadata(tmp_path / "e.png")["images"]] == [1, 3] * 3
    with Image.open(tmp_path / "e.png") as image:
        assert image.width == 2 * 34 + 2 and image.height > 3 * 34 + 2  # names above


def test_a_person_is_told_in_a_line(llama, tmp_path, capsys):
    capsys.readouterr()
    main(command(llama, "--extend", "top=4", "--out", tmp_path / "e.png"))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"{tmp_path / 'e.png'}: 1 image in ")


def test_an_edited_picture_is_not_drawn_again_by_sample(llama, tmp_path, capsys):
    main(command(llama, "--extend", "top=4", "--out", tmp_path / "e.png"))
    again = [
        "sample",
        llama / "pipeline",
        "--like",
        tmp_path / "e.png",
        "--out",
        tmp_path / "x.png",
    ]
    assert "was edited: give smalti edit" in mistake(capsys, [str(a) for a in again])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "nothing to edit: give a mask, an extension, or both"),
        ("--mask nowhere.png", "no such file: nowhere.png"),
        ("--mask small.png", "the mask has 30 x 40 pixels, the image 40 x 40"),
        ("--mask black.png", "the mask covers nothing"),
        ("--mask white.png", "the mask covers everything .*use smalti sample"),
        ("--mask broken.png", "cannot decode image broken.png"),
        ("--image broken.png --extend top=1", "cannot decode image broken.png"),
        ("--image tiny.png --extend top=1", "smaller than a patch of the model: 3 x 40 pixels"),
        ("--extend left", "extend is like left=16,top=8, each side once, got 'left'"),
        ("--extend lefft=3", "got 'lefft'; did you mean 'left'?"),
        ("--extend left=13", "extend left can be 12 pixels at most, got 13"),
        ("--extend left=3 --class 9", "class must be one of 0 ... 4"),
        ("--extend left=3 --text dog", "draws classes, not texts"),
        ("--extend left=3 --n 0", "--n and --batch must be at least 1"),
        ("--extend left=3 --guidance -1", "guidance scale must be 0 or more"),
        ("--extend left=3 --out nowhere.png/x.png", "nowhere.png"),
        ("--mask", "mask"),
    ],
)
@pytest.mark.usefixtures("loaded_once")
def test_mistakes(llama, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    for name, size, level in (
        ("small", (30, 40), 0),
        ("black", (40, 40), 0),
        ("white", (40, 40), 255),
        ("tiny", (3, 40), 9),
    ):
        Image.new("L", size, level).save(f"{name}.png")
    (tmp_path / "broken.png").write_bytes((llama / "image.png").read_bytes()[:300])
    if "--out" in options:
        (tmp_path / "nowhere.png").write_text("a file")
    before = sorted(f.name for f in tmp_path.iterdir())
    assert re.search(words, mistake(capsys, command(llama, *options.split())))
    assert sorted(f.name for f in tmp_path.iterdir()) == before


def test_outputs_are_checked_before_the_work(llama, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smalti.loading.load", lambda *_: pytest.fail("loaded"))
    line = mistake(capsys, command(llama, "--extend", "left=3", "--out", "/dev/null/x.png"))
    assert "/dev/null" in line


def test_scales_have_no_order(tmp_path, tmp_path_factory, capsys):
    folder = saved("var", tmp_path_factory)
    given = ["--extend", "top=2", "--known-first", "True", "--out", tmp_path / "e.png"]
    assert "orders are for models of one grid" in mistake(capsys, command(folder, *given))

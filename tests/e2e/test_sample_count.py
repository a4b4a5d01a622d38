"""`smalti sample --count N --npz OUT`: many images in one file, whatever stops it or shares it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from builders import pipeline as build_pipeline
from processes import launch
from smalti import load
from smalti.cli.main import main
from smalti.devices.named import fast_bf16
from smalti.eval.sets import open_set
from smalti.pipeline.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("float32")
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline of random weights."""
    folder = tmp_path_factory.mktemp("systems") / "pipeline"
    build_pipeline("llamagen").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classes(folder):
    return load(folder).classes


def sample(*arguments) -> int:
    """The command in this process, and its exit code."""
    try:
        main(["sample", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    assert sample(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of all images that are drawn; `stop` is the part that Ctrl-C hits."""
    return watch(monkeypatch)


def watch(monkeypatch):
    draw, log = Pipeline.drawn, {"images": [], "calls": 0, "stop": 0}

    def watched(self, part, known=None):
        log["calls"] += 1
        if log["calls"] == log["stop"]:
            raise KeyboardInterrupt
        log["images"] += range(part.first, part.first + len(part.asked))
        return draw(self, part, known)

    monkeypatch.setattr(Pipeline, "drawn", watched)
    return log


def test_the_file_holds_the_images_of_the_pipeline_in_turn(folder, classes, tmp_path, capsys):
    out, count = tmp_path / "new" / "a.npz", 2 * len(classes) + 1
    given = ["--seed", 3, "--batch", 4, "--guidance", 1.5, "--first", 1]
    assert sample(folder, "--count", count, "--npz", out, *given, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["count"], told["drawn"], told["file"]) == (count, count, str(out))
    images = load(folder)(n=count, first=1, seed=3, batch=4, guidance=1.5)
    with np.load(out) as file:
        assert sorted(file.files) == ["arr_0", "arr_1"]
        assert file["arr_0"].dtype == np.uint8 and file["arr_1"].dtype == np.int64
        assert np.array_equal(file["arr_0"], np.stack([np.asarray(i) for i in images]))
        turns = [(1 + i) % len(classes) for i in range(count)]
        assert file["arr_1"].tolist() == turns == [i.info["smalti"]["class"] for i in images]
    assert zipfile.ZipFile(out).infolist()[0].compress_type == zipfile.ZIP_STORED
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["pipeline"] == load(folder).fingerprint and about["class_names"] == classes
    assert (about["count"], about["seed"], about["first"], about["batch"]) == (count, 3, 1, 4)
    assert about["sampling"]["guidance"] == 1.5 and about["sampling"]["top_k"] == 0
    assert set(about["versions"]) == {"smalti", "torch"}
    assert {p.name for p in out.parent.iterdir()} == {"a.npz", "a.json"}
    pictures = open_set(out)
    assert pictures.classes == classes and pictures.about == about and len(pictures) == count


def test_chosen_classes_are_interleaved(folder, tmp_path):
    options = ["--classes", 2, 0, "--balanced", "--count", 6, "--npz"]
    assert sample(folder, *options, tmp_path / "a.npz") == 0
    assert np.load(tmp_path / "a.npz")["arr_1"].tolist() == [2, 0, 2, 0, 2, 0]


def test_prompts(tmp_path):
    build_pipeline("llamagen-text").save_pretrained(tmp_path / "pipeline")
    options = ["--text", "red star", "blue sun", "--count", 3, "--npz", tmp_path / "a.npz"]
    assert sample(tmp_path / "pipeline", *options) == 0
    pictures = open_set(tmp_path / "a.npz")
    assert [pictures.caption(i) for i in range(3)] == ["red star", "blue sun", "red star"]
    assert np.load(tmp_path / "a.npz").files == ["arr_0"]


def test_a_stopped_drawing_goes_on_and_ends_with_the_same_bytes(folder, tmp_path, drawn, capsys):
    whole, out = tmp_path / "whole.npz", tmp_path / "a.npz"
    command = [folder, "--count", 11, "--batch", 3, "--npz"]
    assert sample(*command, whole) == 0 and drawn["images"] == list(range(11))
    drawn.update(images=[], calls=0, stop=3)
    capsys.readouterr()
    assert sample(*command, out) == 130
    assert capsys.readouterr().err == (
        "stopped; 6 of 11 images are drawn, the same command goes on with the rest\n"
    )
    assert not out.exists() and drawn["images"] == list(range(6))
    parts = sorted(p.name for p in (tmp_path / "a.npz.parts").iterdir())
    assert parts == ["000000000.rgb", "000000003.rgb", "settings.json"]
    cut = tmp_path / "a.npz.parts" / "000000003.rgb"
    cut.write_bytes(cut.read_bytes()[:-1])  # as a full disk may leave it
    drawn.update(images=[], calls=0, stop=0)
    assert sample(*command, out) == 0 and drawn["images"] == list(range(3, 11))
    assert "11 images, 3 of them before, in" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    texts = [p.with_suffix(".json").read_text() for p in (out, whole)]
    assert texts[0] == texts[1] and not (tmp_path / "a.npz.parts").exists()
    drawn.update(images=[])
    assert sample(*command, out) == 0 and drawn["images"] == []  # it is there


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """A folder for each part that Ctrl-C may hit, 0 for none, with what is left behind."""
    folders = {stop: tmp_path_factory.mktemp(f"stop-{stop}") for stop in (0, 2)}
    for stop, place in folders.items():
        with pytest.MonkeyPatch.context() as patch:
            watch(patch)["stop"] = stop
            code = sample(folder, *BEGUN, place / "a.npz")
            assert code == (130 if stop else 0)
    return folders


BEGUN = ["--count", 11, "--batch", 3, "--npz"]


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--seed", 1], "was drawn with seed 0, now it is 1: give the same settings"),
        (["--count", 12], "was drawn with count 11, now it is 12"),
        (["--batch", 4], "was drawn with batch 3, now it is 4"),
        (["--guidance", 3], "was drawn with guidance 1.0, now it is 3.0"),
        (["--classes", 1], "was drawn with classes [0, 1, 2"),
        (["--weights", "int8"], "was drawn with weights 'exact', now it is 'int8'"),
        (["--decoder-dtype", "bfloat16"], "decoder_dtype 'float32', now it is 'bfloat16'"),
    ],
)
@pytest.mark.parametrize("stop", [0, 2])
def test_other_settings_are_refused_by_name(
    folder, begun, tmp_path, drawn, capsys, change, words, stop
):
    out = shutil.copytree(begun[stop], tmp_path / "begun") / "a.npz"
    line = mistake(capsys, folder, *BEGUN, out, *change)
    assert words in line and f"{out}{'.parts' if stop else ''} was drawn" in line
    assert drawn["images"] == []


def test_images_of_another_size(folder, tmp_path, drawn, capsys):
    out = tmp_path / "a.npz"
    command = [folder, "--count", 5, "--batch", 2, "--npz", out, "--size", "24x8"]
    drawn["stop"] = 2
    assert sample(*command) == 130
    drawn["stop"] = 0
    assert "was drawn with size [24, 8], now it is [16, 16]" in mistake(capsys, *command[:-2])
    assert sample(*command) == 0 and drawn["images"] == [0, 1, 2, 3, 4]
    images = load(folder)(n=5, batch=2, size=(24, 8))
    with np.load(out) as file:
        assert np.array_equal(file["arr_0"], np.stack([np.asarray(i) for i in images]))
    assert json.loads(out.with_suffix(".json").read_text())["size"] == [24, 8]


def test_another_pipeline_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "a.npz"
    assert sample(folder, "--count", 2, "--npz", out) == 0
    build_pipeline("llamagen-spiral").save_pretrained(tmp_path / "other")
    line = mistake(capsys, tmp_path / "other", "--count", 2, "--npz", out)
    assert "was drawn with pipeline" in line


def test_what_is_left_of_a_removed_folder_is_not_used(folder, tmp_path):
    out, parts = tmp_path / "a.npz", tmp_path / "a.npz.parts"
    parts.mkdir()
    size = np.load(_made(folder, tmp_path / "b.npz"))["arr_0"].nbytes
    (parts / "000000000.rgb").write_bytes(bytes(size))
    assert _made(folder, out).read_bytes() == (tmp_path / "b.npz").read_bytes()


def _made(folder, out):
    assert sample(folder, "--count", 2, "--npz", out) == 0
    return out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--count 5", "--count N and --npz FILE go together"),
        ("--npz {out}", "--count N and --npz FILE go together"),
        ("--balanced", "--count N and --npz FILE go together, and --balanced with them"),
        ("--count 5 --npz {out} --n 3", "--n, --out and --like are for pictures"),
        ("--count 5 --npz {out} --out x.png", "--n, --out and --like are for pictures"),
        ("--count 0 --npz {out}", "--count and --batch must be at least 1"),
        ("--count 5 --npz {out} --first -1", "--first 0 or more, got 5, 64, -1"),
        ("--count 5 --npz {out}.zip", "must name a file that ends in .npz, got"),
        ("--count 5 --npz {out} --top-p 0", "top_p"),
        ("--count 5 --npz {out} --solver dpm", "solver dpm is for continuous codes"),
        (
            "--count 10 --npz {out} --balanced --classes 0 1 2",
            "--balanced takes a multiple of the 3 classes or prompts, such as 9 or 12, got 10",
        ),
        ("--count 2 --npz {out} --balanced --classes 0 1 2", "such as 3, got 2 images"),
    ],
)
@pytest.mark.usefixtures("loaded_once")
def test_what_cannot_be(folder, tmp_path, capsys, options, words):
    given = options.format(out=tmp_path / "a.npz").split()
    assert words in mistake(capsys, folder, *given)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_is_not_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "a.npz"
    np.savez(out, arr_0=np.zeros(3))
    before = out.read_bytes()
    assert "exists and is not of smalti" in mistake(capsys, folder, "--count", 2, "--npz", out)
    assert out.read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_of_the_real_command(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "smalti.devices.named.fast_bf16", fast_bf16
    )  # the process has its own dtype
    out = tmp_path / "a.npz"
    command = ["sample", str(folder), "--count", "48", "--batch", "1", "--npz", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "smalti", *command],
        env=ONE_THREAD,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = tmp_path / "a.npz.parts"
    while process.poll() is None and len(list(parts.glob("*.rgb"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    line = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and " of 48 images are drawn, the same command" in line
    before = {p: p.stat().st_mtime_ns for p in parts.glob("*.rgb")}
    assert 3 <= len(before) < 48 and len(line.splitlines()) == 1
    assert not list(parts.glob("*.tmp")) and line.startswith(f"stopped; {len(before)} of 48")
    shutil.copytree(parts, tmp_path / "kept")
    assert sample(*command[1:]) == 0
    kept = np.concatenate(
        [np.fromfile(p, np.uint8) for p in sorted((tmp_path / "kept").glob("*b"))]
    )
    assert np.array_equal(np.load(out)["arr_0"].reshape(-1)[: len(kept)], kept)


@pytest.mark.multi
def test_any_number_of_processes_makes_the_same_file(folder, tmp_path):
    """Two, three that go on where one was stopped, and one."""

    def draw(processes: int, out) -> None:
        command = ["sample", str(folder), "--count", "23", "--batch", "3", "--npz", str(out)]
        assert launch(processes, *command).count(f"{out}: 23 images") == 1

    one, two, three = (tmp_path / f"{n}.npz" for n in (1, 2, 3))
    draw(1, one)
    draw(2, two)
    parts = tmp_path / "3.npz.parts"
    parts.mkdir()
    about = json.loads(one.with_suffix(".json").read_text())
    (parts / "settings.json").write_text(json.dumps(about))
    pixels = np.load(one)["arr_0"]
    for start in (0, 9, 21):
        (parts / f"{start:09d}.rgb").write_bytes(pixels[start : start + 3].tobytes())
    draw(3, three)
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert len({p.with_suffix(".json").read_text() for p in (one, two, three)}) == 1

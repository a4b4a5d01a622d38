"""Files that smalti writes: whole or not there, and never in the place of somebody else's."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smalti.config import read_json
from smalti.files import (
    begin_parts,
    check_file,
    check_folder,
    check_output,
    expand,
    filling,
    lock,
    remove_files,
    replacing,
    sweep,
    write_json,
)


def test_files(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"name": "Straße", "n": [1, 2]})
    assert read_json(path) == {"name": "Straße", "n": [1, 2]}
    text = path.read_text(encoding="utf-8")
    assert "Straße" in text and text.endswith("}\n")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), replacing(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_a_link_to_a_folder_stays(tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "run", target_is_directory=True)
    for text in ("one", "two"):  # a folder that is not there yet, then one that is
        with filling(link) as temporary:
            assert temporary.parent == tmp_path
            (temporary / "a.txt").write_text(text)
        assert link.is_symlink() and (tmp_path / "run" / "a.txt").read_text() == text


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "big").mkdir()
    link, file = tmp_path / "latest.json", tmp_path / "big" / "old.json"
    file.write_text("{}")
    link.symlink_to(Path("big") / "old.json")
    with pytest.raises(OSError) as full, replacing(link):
        raise OSError(28, "No space left on device")
    assert full.value.filename == str(link) and file.read_text() == "{}"
    write_json(link, {"n": 1})
    assert link.is_symlink() and read_json(file) == {"n": 1}
    assert os.listdir(tmp_path / "big") == ["old.json"]
    left = tmp_path / "big" / ".old.json.0123abcd.smalti-tmp"
    left.write_text("half")
    check_file(link, ".json", lambda path: True)
    assert not left.exists()


def test_replacing_names_the_file_unless_the_error_is_about_another(tmp_path):
    with pytest.raises(OSError) as full, replacing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert full.value.filename == str(tmp_path / "file") and full.value.errno == 28
    with pytest.raises(FileNotFoundError) as other, replacing(tmp_path / "file"):
        open(tmp_path / "other")
    assert other.value.filename == str(tmp_path / "other")


def test_check_output_makes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "new", tmp_path / "a" / "b", tmp_path / "file"):
        check_output(path)
    check_output(tmp_path, folder=True)
    check_output(tmp_path / "a" / "b", folder=True)
    with pytest.raises(ValueError, match="is a folder, name a file"):
        check_output(tmp_path)
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        check_output(tmp_path / "file", folder=True)
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        check_output(tmp_path / "file" / "a")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_output_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="no permission to write in .*locked"):
        check_output(tmp_path / "locked" / "a" / "b")


LEFT = ".x.png.0123abcd.smalti-tmp"


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    mine = ["x.png.tmp", "x.png.old", ".x.png.tmp", "smalti-tmp", ".x.png.0123abcd.smalti-tmp.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / LEFT).write_text("half")
    with replacing(tmp_path / "y.png") as temporary:
        sweep(tmp_path)
        assert temporary.exists() and not (tmp_path / LEFT).exists()
        temporary.write_text("whole")
    assert (tmp_path / "y.png").read_text() == "whole"
    assert {p.name for p in tmp_path.iterdir()} == {*mine, "y.png"}


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_filling_keeps_what_is_not_replaced(tmp_path):
    folder = tmp_path / "p"
    for text in ("old", "new"):
        with filling(folder) as temporary:
            (temporary / "model").mkdir()
            (temporary / "model" / "weights").write_text(text)
            (temporary / "p.json").write_text(text)
        (folder / "model" / "notes.txt").write_text("mine")
    assert (folder / "model" / "weights").read_text() == (folder / "p.json").read_text() == "new"
    assert (folder / "model" / "notes.txt").read_text() == "mine"
    with pytest.raises(RuntimeError), filling(folder) as temporary:
        (temporary / "p.json").write_text("half")
        raise RuntimeError
    assert (folder / "p.json").read_text() == "new" and os.listdir(tmp_path) == ["p"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["thesis.tex"], "exists and is not a run: it holds thesis.tex. Give another folder"),
        (["a", "b", "c", "d", "e"], "it holds a, b, c and 2 more"),
        (["r.json"], "exists and is not a run: it holds r.json"),
    ],
)
def test_a_folder_of_something_else_is_refused_by_what_is_in_it(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text('{"other": 1}')
    with pytest.raises(ValueError, match=words):
        check_folder(tmp_path, "r.json", ("format",), "a run")
    (tmp_path / "r.json").write_text('{"format": 1}')
    check_folder(tmp_path, "r.json", ("format",), "a run")


def test_outputs_that_contradict_their_names(tmp_path):
    with pytest.raises(ValueError, match="x.jpg must end in .png"):
        check_file(tmp_path / "x.jpg", ".png", bool)
    with pytest.raises(ValueError, match="run.json is to be a folder, but ends in .json"):
        check_output(tmp_path / "run.json", folder=True)
    check_output(tmp_path / "v0.5", folder=True)
    (tmp_path / "x.PNG").write_text("")
    check_file(tmp_path / "x.PNG", ".png", lambda path: path.name == "x.PNG")
    with pytest.raises(ValueError, match="x.PNG exists and is not of smalti"):
        check_file(tmp_path / "x.PNG", ".png", lambda path: False)


def test_remove_files_leaves_others(tmp_path):
    for name in ("000.rgb", "s.json", "my 000.rgb"):
        (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_text("")
    remove_files(tmp_path / "p", r"\d{3}\.rgb", r"s\.json")
    assert os.listdir(tmp_path / "p") == ["my 000.rgb"]
    (tmp_path / "p" / "my 000.rgb").unlink()
    remove_files(tmp_path / "p", r"\d{3}\.rgb")
    assert not (tmp_path / "p").exists()


def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/x.png") == tmp_path / "x.png"
    assert expand("a~/~b") == Path("a~/~b")


HOLD = """
import sys, time
from pathlib import Path
from smalti.files import lock
with lock(Path(sys.argv[1]), Path("run")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    file = tmp_path / "a" / "b" / ".smalti-lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    words = f"^run: process {process.pid} on {socket.gethostname()} is writing there"
    for _ in range(2):  # asking takes nothing away
        with pytest.raises(ValueError, match=words), lock(file, Path("run")):
            raise AssertionError
    process.kill()
    process.communicate()
    assert file.exists()  # nobody removed it, and nobody holds it
    with lock(file, Path("run")):
        assert file.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert not file.exists() and (tmp_path / "a" / "b").is_dir()


def test_a_lock_leaves_no_folder_that_it_made(tmp_path):
    with lock(tmp_path / "a" / "b" / "lock", Path("run")):
        assert (tmp_path / "a" / "b").is_dir()
    assert not os.listdir(tmp_path)
    with lock(tmp_path / "a" / "lock", Path("run")):
        (tmp_path / "a" / "result").write_text("")
    assert os.listdir(tmp_path / "a") == ["result"]


def test_a_folder_of_parts_and_other_things_is_left_alone(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("000000003.rgb", "notes.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=r"000000003\.rgb, notes\.txt"):
        begin_parts(folder, {"seed": 0}, r"\d{9}\.rgb", "parts of a drawing")
    assert sorted(p.name for p in folder.iterdir()) == ["000000003.rgb", "notes.txt"]


def test_a_folder_of_parts_alone_begins_anew(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "000000003.rgb").write_text("half")
    begin_parts(folder, {"seed": 0}, r"\d{9}\.rgb", "parts of a drawing")
    assert [p.name for p in folder.iterdir()] == ["settings.json"]

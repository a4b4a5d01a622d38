"""Runs that go on: with the data they began with, longer, from elsewhere, and one at a time."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from small_systems import GENERATOR, TOKENIZER, write_pictures
from smalti.cli.main import main
from smalti.data.token_cache import TokenCache
from smalti.files import LOCK, lock
from smalti.train import checkpoint

pytestmark = pytest.mark.usefixtures("float32")

SIZE = ["--model.size", "16", "16"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tokenizer `t`, and a generator `g` of the folder `photos`."""
    folder = tmp_path_factory.mktemp("work")
    write_pictures(folder / "photos", 24, ("cat", "dog"))
    main(["train", "emoji_vqgan", *TOKENIZER, "--out", str(folder / "t")])
    main(generator(folder, folder / "g"))
    return folder


def tokenizer(work, out, *more):
    data = ["--data.source", f"folder:{work / 'photos'}"]
    return [str(a) for a in ("train", "emoji_vqgan", *TOKENIZER, *data, "--out", out, *more)]


def generator(work, out, *more):
    given = ["--tokenizer", work / "t" / "tokenizer", *GENERATOR]
    given += ["--data.source", f"folder:{work / 'photos'}"]
    return [str(a) for a in ("train", "emoji_llamagen", *given, "--out", out, *more)]


@pytest.fixture
def again(work, tmp_path):
    """A copy of all that one may change, with the generator's run cut off at step 4."""
    for name in ("photos", "t", "g"):
        shutil.copytree(work / name, tmp_path / name)
    cut_off(tmp_path / "g")
    return tmp_path


def cut_off(run) -> None:
    (run / "report.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-00000006")


def mistake(capsys, arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_changed_data_is_told_and_used_when_told_to(again, capsys):
    command = generator(again, again / "g")
    picture = again / "photos" / "cat" / "000.png"
    picture.write_bytes(picture.read_bytes() + b"0")
    before = TokenCache(again / "g" / "codes.arrow")
    line = mistake(capsys, command)
    assert "has changed since the run in" in line and "--data.on-changed go-on" in line
    assert "g began: 1 changed (cat/000.png). Bring back what there was" in line
    assert TokenCache(again / "g" / "codes.arrow").fingerprint() == before.fingerprint()
    (again / "photos" / "dog" / "new.png").write_bytes(
        (again / "photos" / "dog" / "001.png").read_bytes()
    )
    main([*command, "--data.on-changed", "go-on"])
    told = capsys.readouterr().err
    assert "going on with what is there now" in told and "going on from step 4" in told
    cache = TokenCache(again / "g" / "codes.arrow")
    assert len(cache) == len(before) + 1 and "dog/new.png" in cache.keys(cache.indices("all"))
    cut_off(again / "g")
    main(command)  # that is what it goes on with from now on
    assert "has changed" not in capsys.readouterr().err


def test_a_tokenizer_notices_too(again, capsys):
    main(tokenizer(again, again / "t2"))
    cut_off(again / "t2")
    (again / "photos" / "cat" / "002.png").unlink()
    line = mistake(capsys, tokenizer(again, again / "t2"))
    assert "1 removed (cat/002.png)" in line
    main(tokenizer(again, again / "t2", "--data.on-changed", "go-on"))
    assert json.loads((again / "t2" / "report.json").read_text())["steps"] == 6


def test_a_finished_run_says_what_it_did_not_learn(again, capsys):
    main(generator(again, again / "g"))
    (again / "photos" / "cat" / "002.png").unlink()
    capsys.readouterr()
    main(generator(again, again / "g"))
    assert "is finished, and folder:" in (told := capsys.readouterr().err)
    assert "1 removed (cat/002.png). Another --out trains on what is there now" in told


def test_the_same_from_elsewhere(again, monkeypatch, capsys):
    """Other spellings of the same tokenizer, codes and pictures."""
    monkeypatch.chdir(again / "photos")
    given = ["--tokenizer", "../t", *GENERATOR, "--data.source", "folder:."]
    shutil.copytree(again / "t" / "tokenizer", again / "copy")
    capsys.readouterr()
    (again / "t" / "config.json").write_text("{}")
    shutil.rmtree(again / "t")
    given[1] = "../copy"
    main(["train", "emoji_llamagen", *given, "--out", "../g"])
    assert "going on from step 4" in capsys.readouterr().err
    main(["train", "emoji_llamagen", *given, "--out", "../h", "--codes", "../g/codes.arrow"])
    cut_off(again / "h")
    monkeypatch.chdir(again)
    given = ["--tokenizer", "copy", *GENERATOR, "--data.source", "folder:photos"]
    main(["train", "emoji_llamagen", *given, "--out", "h", "--codes", "g/codes.arrow"])
    assert "going on from step 4" in capsys.readouterr().err


def test_another_tokenizer_is_another_recipe(again, capsys):
    main(["train", "emoji_vqgan", *TOKENIZER, "--train.seed", "7", "--out", str(again / "other")])
    for finished in (False, True):
        if finished:
            main(generator(again, again / "g"))
        command = generator(again, again / "g", "--tokenizer", again / "other" / "tokenizer")
        assert "holds a run of another recipe: tokenizer was" in mistake(capsys, command)


def test_other_codes_are_noticed(again, capsys):
    codes = again / "codes.arrow"
    shutil.copy(again / "g" / "codes.arrow", codes)
    command = generator(again, again / "h", "--codes", codes)
    main(command)
    cut_off(again / "h")
    codes.unlink()
    (again / "photos" / "cat" / "002.png").unlink()
    given = ["--tokenizer", str(again / "t"), "--out", str(codes)]
    main(["encode", f"folder:{again / 'photos'}", *given])
    assert "began with codes" in (line := mistake(capsys, command))
    assert "--data.on-changed go-on" in line
    main([*command, "--data.on-changed", "go-on"])
    assert "going on with these" in capsys.readouterr().err


def test_more_steps_go_on_longer(again, capsys):
    main(generator(again, again / "g"))
    line = mistake(capsys, generator(again, again / "g", "--train.steps", "5"))
    assert "has done 6 steps: train.steps must be at least that, got 5" in line
    more = ["--train.steps", "10", "--train.optim.warmup", "3"]
    main(generator(again, again / "g", *more))
    told = capsys.readouterr().err
    assert "goes on to step 10 instead of 6: its schedules are those of a run of 10" in told
    assert "going on from step 6" in told
    assert json.loads((again / "g" / "report.json").read_text())["steps"] == 10
    assert checkpoint.found(again / "g" / "checkpoints")[-1].name == "step-00000010"
    line = mistake(capsys, generator(again, again / "g", *more, "--train.batch", "4"))
    assert "another recipe: train.batch was 8, now 4" in line


def test_a_run_of_an_earlier_smalti_goes_on(again, capsys):
    """It noted neither its data nor its tokenizer."""
    main(tokenizer(again, again / "t2"))
    cut_off(again / "t2")
    for run in ("t2", "g"):
        (again / run / "data.parquet").unlink()
    (again / "g" / "init.json").unlink()
    capsys.readouterr()
    main(tokenizer(again, again / "t2"))
    assert capsys.readouterr().err.count("was begun by an earlier smalti, which did not note") == 1
    main(generator(again, again / "g"))
    assert "earlier smalti" not in capsys.readouterr().err  # its codes say what they are of
    assert (again / "g" / "data.parquet").is_file()
    cut_off(again / "g")
    (again / "g" / "data.parquet").unlink()
    (again / "photos" / "cat" / "002.png").unlink()
    line = mistake(capsys, generator(again, again / "g"))
    assert "24 images were encoded then, it holds 23 now" in line


def test_parts_of_codes_that_are_whole_are_removed(again):
    parts = again / "g" / "codes.arrow.parts"
    parts.mkdir()
    shutil.copy(again / "g" / "codes.arrow", parts / "000000000-000000024.arrow")
    (parts / "settings.json").write_text("{}")
    (again / "g" / f".codes.arrow{LOCK}").touch()
    main(generator(again, again / "g"))
    assert [p.name for p in (again / "g").iterdir() if "codes" in p.name] == ["codes.arrow"]


def test_one_process_writes_a_run(again, capsys):
    g = again / "g"
    with lock(g / LOCK, g):
        line = mistake(capsys, generator(again, g))
        assert f"{g}: process {os.getpid()} on" in line and "is writing there; wait" in line
    main(generator(again, g))
    assert not (g / LOCK).exists()
    with lock(g / LOCK, g):
        main(generator(again, g))  # it is finished, and only read
    new = again / "new"
    with lock(new / LOCK, new):
        assert "is writing there" in mistake(capsys, generator(again, new))
    assert not new.exists()


@pytest.mark.parametrize("what", ["npz", "tune", "demo", "scaling", "encode"])
def test_one_process_writes_what_takes_long(work, tmp_path, capsys, what):
    out, pipeline = tmp_path / "out", str(work / "g" / "pipeline")
    commands = {
        "npz": ["sample", pipeline, "--count", "4", "--npz"],
        "encode": ["encode", "shapes:8", "--tokenizer", pipeline, "--out"],
        "tune": ["tune", pipeline, "--reference", "shapes:8", "--out"],
        "demo": ["demo", "--data", "shapes:16", "--out"],
        "scaling": ["scaling", *generator(work, out)[1:-2], "--train.optim.warmup", "0", "--out"],
    }
    commands["scaling"][-1:] = ["--sizes", "1", "2", "3", "4", "--out"]
    file = {"npz": out.with_suffix(".npz"), "encode": out.with_suffix(".arrow")}.get(what)
    held = out / LOCK if file is None else file.with_name(f".{file.name}{LOCK}")
    with lock(held, out):
        line = mistake(capsys, [*commands[what], str(file or out)])
        assert f"process {os.getpid()} on" in line and "is writing there" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.multi
def test_processes_of_a_refused_run_all_end(again):
    """Two processes: one line, exit code 2, nobody waits for the other."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with lock(again / "g" / LOCK, again / "g"):
        done = subprocess.run(
            [*run, "-m", "smalti", *generator(again, again / "g")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode != 0
    assert done.stderr.count("is writing there; wait for it, or stop it") == 1

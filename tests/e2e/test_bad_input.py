"""Bad input by the real commands: one line, exit code 2, nothing lost."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from builders import build
from small_systems import GENERATOR, TOKENIZER, write_pictures
from smalti import load
from smalti.cli.main import main
from smalti.data.loader import Images
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform
from smalti.models import llamagen
from smalti.modules import MODELS, fingerprint, load_module
from smalti.pipeline.pipeline import Pipeline
from smalti.runs.encode import Parts
from smalti.tokenizers import vqgan
from smalti.train import checkpoint

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline with random weights."""
    folder = tmp_path_factory.mktemp("systems") / "pipeline"
    tokenizer = build(vqgan.VQGAN, vqgan.tiny())
    model = build(llamagen.LlamaGen, llamagen.tiny())
    classes = ["red heart", "blue heart", "star", "moon", "sun"]
    Pipeline(tokenizer, model, classes).save_pretrained(folder)
    return folder


def run(*arguments):
    """The command in this process: exit code and lines on standard error come from `capsys`."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def mistake(capsys, *arguments):
    capsys.readouterr()
    code = run(*arguments)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1, lines
    return lines[0]


def start(*arguments, **options):
    """The real command as a process."""
    command = [sys.executable, "-m", "smalti", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


# -- pictures


@pytest.fixture
def mixed(tmp_path):
    """Eight good pictures, one whose header is broken and one whose pixels are."""
    folder = write_pictures(tmp_path / "mixed", 10)
    (folder / "003.png").write_text("not a picture")
    image = Image.effect_noise((40, 40), 50)
    image.save(folder / "007.png")
    (folder / "007.png").write_bytes((folder / "007.png").read_bytes()[:600])
    return folder


def test_encode_leaves_out_what_is_broken(mixed, pipeline, tmp_path, capsys):
    out = tmp_path / "codes.arrow"
    assert run("encode", f"folder:{mixed}", "--tokenizer", pipeline, "--out", out) == 0
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"folder:{mixed}: skipped 2 that cannot be used: 003.png, 007.png (")
    assert "8 images" in last
    assert f"next: smalti train emoji_llamagen --tokenizer {pipeline} --codes {out} " in last
    assert TokenCache(out).keys(np.arange(8)) == [f"{i:03d}.png" for i in (0, 1, 2, 4, 5, 6, 8, 9)]


def test_reconstruct_shows_others_and_says_so(mixed, pipeline, tmp_path, capsys):
    out = tmp_path / "r.png"
    assert run("reconstruct", pipeline, f"folder:{mixed}", "--out", out) == 0
    first, last = capsys.readouterr().err.splitlines()
    assert "skipped 2 that cannot be used: 003.png, 007.png (" in first and "9 images" in last


def test_training_goes_on_without_what_is_broken(mixed, tmp_path, capsys):
    given = [*TOKENIZER, "--data.source", f"folder:{mixed}", "--train.batch", "16"]
    assert run("train", "emoji_vqgan", "--out", tmp_path / "t", *given) == 0
    lines = capsys.readouterr().err.splitlines()
    assert f"folder:{mixed}: skipped 1 that cannot be used: 003.png (" in lines[0]  # by its header
    told = [line for line in lines if "skipped 2 that cannot be used: 003.png, 007.png" in line]
    assert len(told) == 1
    report = json.loads((tmp_path / "t" / "report.json").read_text())
    assert (report["skipped"], report["skipped_first"]) == (2, ["003.png", "007.png"])


def test_a_resumed_run_sees_the_same_pictures(mixed, tmp_path, monkeypatch):
    given = [*TOKENIZER, "--data.source", f"folder:{mixed}", "--data.crop", "random"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run("train", "emoji_vqgan", "--out", whole, *given) == 0
    batch = Images.batch

    def interrupted(images, step):
        assert images.transform == Transform(16, "random", flip=True)
        if step == 4:
            raise KeyboardInterrupt
        return batch(images, step)

    monkeypatch.setattr(Images, "batch", interrupted)
    assert run("train", "emoji_vqgan", "--out", halves, *given) == 130
    monkeypatch.undo()
    assert run("train", "emoji_vqgan", "--out", halves, *given) == 0
    weights = "tokenizer/model.safetensors"
    assert (whole / weights).read_bytes() == (halves / weights).read_bytes()


@pytest.mark.parametrize("command", ["train", "encode"])
def test_a_run_dies_when_nothing_is_left(pipeline, tmp_path, capsys, command):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.effect_noise((40, 40), 50).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:600])
    source, out = f"folder:{folder}", tmp_path / "out"
    arguments = {
        "train": ["train", "emoji_vqgan", "--out", out, *TOKENIZER, "--data.source", source],
        "encode": ["encode", source, "--tokenizer", pipeline, "--out", tmp_path / "out.arrow"],
    }[command]
    capsys.readouterr()
    assert run(*arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "nothing is left to use; skipped 1 that cannot be used: cut.png" in line
    assert command == "train" or [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_nothing_held_out_is_said(tmp_path, capsys):
    source = f"folder:{write_pictures(tmp_path / 'one', 1)}"
    given = [*TOKENIZER, "--data.source", source]
    assert run("train", "emoji_vqgan", "--out", tmp_path / "t", *given) == 0
    reason, said, *_ = capsys.readouterr().err.splitlines()
    assert reason == f"{source}: nothing is held out of one example"
    assert said.startswith("no image is held out")


# -- pipelines


@pytest.fixture
def copy(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "copy")


def test_any_flipped_bit_of_the_weights_is_noticed(pipeline, tmp_path):
    """But for the few in the header that change no weight."""
    copy = shutil.copytree(pipeline / "model", tmp_path / "model")
    path, before = copy / "model.safetensors", load_module(copy, MODELS)[0]
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, header // 20), *range(header, len(content), len(content) // 20)]
    noticed = 0
    for at in [*places, len(content) - 1]:
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        try:
            after = load_module(copy, MODELS)[0]
        except ValueError as error:
            assert str(copy) in str(error)
            noticed += 1
        else:
            assert at < header and fingerprint(after) == fingerprint(before)
    assert noticed > len(places) * 0.8


FILES = [
    "pipeline.json",
    *(
        f"{part}/{f}"
        for part in ("tokenizer", "model")
        for f in ("config.json", "model.safetensors")
    ),
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "bytes", "folder"])
def test_a_damaged_file_is_named(copy, capsys, file, damage):
    path = copy / file
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "truncated": content[:-20], "bytes": b"\xff\xfe\x00"}[damage]
        )
    line = mistake(capsys, "sample", copy, "--out", copy / "x.png")
    assert str(path) in line or path.name in line
    assert not (copy / "x.png").exists()


TYPES = f"type must be one of {', '.join(MODELS)}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": [1]}, "config.json must be an object"),
        ({"config": {"dims": 3}}, "has no field 'dims'; did you mean 'dim'"),
        (
            {"type": ["llamagen"]},
            f"{TYPES}, got",
        ),
        (
            {"type": "lamagen"},
            f"{TYPES}, got 'lamagen'",
        ),
        ({"fingerprint": None}, "damaged or was changed: config.json gives fingerprint None"),
        ({"tokenizer": "0" * 16}, "was trained on codes of tokenizer 0000000000000000"),
    ],
)
def test_a_config_that_does_not_fit(copy, capsys, changes, words):
    path = copy / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert words in mistake(capsys, "sample", copy)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dim", "x", "dim must be int, got 'x'"),
        ("dim", 64, "has shape"),
        ("grid", [4], "grid must have 2 entries"),
        ("layers", -1, "layers must be at least 1, got -1"),
        ("norm_eps", 0.5, "is damaged or was changed"),
        ("colour", 1, "has no field 'colour'"),
    ],
)
def test_a_field_that_does_not_fit(copy, capsys, field, value, words):
    path = copy / "model" / "config.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"config": info["config"] | {field: value}}))
    assert words in mistake(capsys, "sample", copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 5}, "classes must be names, got 5"),
        ({"classes": ["a", 1]}, "classes must be names"),
        ({"classes": ["a"]}, "names 1 classes, the model has 5"),
        ({"sampling": 3}, "sampling must be an object, got 3"),
        ({"sampling": {"guidanec": 3}}, "did you mean 'guidance'"),
        ({"sampling": {"guidance": "x"}}, "guidance must be float, got 'x'"),
        ({"sampling": {"top_p": 0.0}}, "top_p must be above 0"),
        ({"format": 9}, "format must be 1, got 9"),
    ],
)
def test_a_pipeline_json_that_does_not_fit(copy, capsys, changes, words):
    path = copy / "pipeline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert words in mistake(capsys, "sample", copy, "--out", copy / "x.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--guidance nan", "guidance must be a finite number, got nan"),
        ("--guidance inf", "got inf"),
        ("--temperature nan", "temperature must be a finite number, got nan"),
        ("--temperature inf", "got inf"),
        ("--top-p 1.5", "top_p must be above 0 and at most 1, got 1.5"),
        ("--top-p nan", "got nan"),
        ("--top-k -1", "top_k must be 0 (off) or more, got -1"),
        ("--seed 99999999999999999999999", "seed must fit in 64 bits"),
        ("--first 4294967296", "must be below 4294967296"),
        ("--classes red\theart\tx", "did you mean 'red heart'"),
        ("--classes mon", "got 'mon'; did you mean 'moon'?"),
        ("--classes ²", "got '²'"),
        ("--classes -1", "class must be one of 0 ... 4"),
    ],
)
def test_numbers_out_of_range(pipeline, tmp_path, capsys, options, words):
    arguments = [a.replace("\t", " ") for a in options.split(" ")]
    out = tmp_path / "x.png"
    assert words in mistake(capsys, "sample", pipeline, "--n", "2", "--out", out, *arguments)
    assert not list(tmp_path.iterdir())


# -- outputs


def test_outputs_that_cannot_be_written_are_refused_before_the_work(pipeline, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("precious")
    encode = ["encode", "shapes:5", "--tokenizer", pipeline, "--out"]
    train = ["train", "emoji_vqgan", *TOKENIZER, "--out"]
    rebuild = ["reconstruct", pipeline, "shapes:5", "--out"]
    for command in (encode, rebuild, ["sample", pipeline, "--out"], train):
        for inside in ("file/x.png", "file/x/y.png"):
            line = mistake(capsys, *command, tmp_path / inside)
            assert f"{tmp_path / inside} cannot be written: {tmp_path / 'file'} is a file" in line
    for command in (train, ["sample", pipeline, "--out"]):
        assert "file is a file, not a folder" in mistake(capsys, *command, tmp_path / "file")
    for command in (encode, rebuild):
        assert "it is a folder, name a file" in mistake(capsys, *command, tmp_path / "folder")
    assert "exists and is not a run" in mistake(capsys, *train, tmp_path / "folder")
    assert "n must be at least 1, got 0" in mistake(capsys, *rebuild, tmp_path / "x", "--n", "0")
    assert {p.name for p in tmp_path.rglob("*")} == {"file", "folder", "kept"}
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "kept").read_text()


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 2 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(pipeline, tmp_path, capsys):
    commands = {
        "codes.arrow": ["encode", "shapes:50", "--tokenizer", pipeline],
        "x.png": ["sample", pipeline, "--n", "64"],
        "y.png": ["reconstruct", pipeline, "shapes:8"],
    }
    for name, command in commands.items():
        out = tmp_path / name
        with full_disk():
            line = mistake(capsys, *command, "--out", out)
        assert line == f"smalti {command[0]}: {out}: File too large"
        assert not out.exists()
        out.write_text("precious")
        line = mistake(capsys, *command, "--out", out)
        assert f"{out} exists and is not of smalti: give another name" in line
        assert out.read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == set(commands)


def test_a_full_disk_while_a_pipeline_is_saved(pipeline, tmp_path):
    pipe, folder = load(pipeline), tmp_path / "pipeline"
    pipe.save_pretrained(folder)
    with full_disk(), pytest.raises(OSError, match="File too large: .*model.safetensors"):
        pipe.save_pretrained(folder)
    assert load(folder).fingerprint == pipe.fingerprint
    pipe.save_pretrained(folder)
    assert {p.name for p in tmp_path.iterdir()} == {"pipeline"}


def test_a_full_disk_while_a_checkpoint_is_written(tmp_path, monkeypatch, capsys):
    """The one before stays whole, and the same command goes on from it to the same weights."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    given = ["train", "emoji_vqgan", *TOKENIZER, "--train.save-every", "2", "--out"]
    run(*given, whole)
    write = checkpoint.write_tensors

    def full(path, tensors):
        if "step-00000004" in str(path):
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    capsys.readouterr()
    assert run(*given, broken) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device; the last complete one is step-00000002" in line
    assert [p.name for p in (broken / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert run(*given, broken) == 0
    assert "going on from step 2" in capsys.readouterr().err
    weights = "tokenizer/model.safetensors"
    assert (whole / weights).read_bytes() == (broken / weights).read_bytes()


# -- signals and pipes


@pytest.mark.slow
def test_ctrl_c_in_training(tmp_path):
    folder = tmp_path / "run"
    long = [*TOKENIZER, "--train.steps", "100000", "--train.save-every", "20"]
    process = start("train", "emoji_vqgan", *long, "--out", folder)
    while not checkpoint.found(folder / "checkpoints") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    assert errors[-1] == (
        "stopped; the same command goes on from the last checkpoint where there is one"
    )
    assert any(line.startswith("tokenizer: step") for line in errors[:-1])
    assert not any("Traceback" in line for line in errors)
    newest = checkpoint.found(folder / "checkpoints")[-1]
    assert checkpoint.load(newest)["step"] == int(newest.name.removeprefix("step-"))


def test_ctrl_c_while_drawing_a_folder(pipeline, tmp_path, monkeypatch, capsys):
    """What is drawn of a folder of pictures stays, and what is left can be drawn."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    command = ["sample", pipeline, "--seed", "2", "--batch", "2", "--n"]
    assert run(*command, "3", "--out", whole) == 0
    draw = Pipeline.__call__

    def pressed(pipe, *args, first, **wanted):
        if first == 2:
            raise KeyboardInterrupt
        return draw(pipe, *args, first=first, **wanted)

    monkeypatch.setattr(Pipeline, "__call__", pressed)
    assert run(*command, "3", "--out", tmp_path / "grid.png") == 130
    assert capsys.readouterr().err.endswith("stopped; nothing was written\n")
    assert run(*command, "3", "--out", halves) == 130
    said = capsys.readouterr().err
    left = "--first 2 --n 1"
    assert said == f"stopped; 2 of 3 images are in {halves}, {left} draws the others\n"
    monkeypatch.undo()
    assert run(*command, "1", "--first", "2", "--out", halves) == 0
    names = ["000000.png", "000001.png", "000002.png"]
    assert sorted(p.name for p in halves.iterdir()) == names
    assert all((whole / n).read_bytes() == (halves / n).read_bytes() for n in names)


def test_ctrl_c_while_encoding(pipeline, tmp_path, monkeypatch, capsys):
    """Nothing stays behind where too little was encoded to go on with; else parts do."""
    out, parts = tmp_path / "codes.arrow", tmp_path / "codes.arrow.parts"
    command = ["encode", "shapes:50000", "--tokenizer", pipeline, "--out", out]
    fill = Parts.fill

    def pressed(self, coder, left):
        raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "fill", pressed)
    assert run(*command) == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Parts, "fill", fill)
    monkeypatch.setattr("smalti.runs.encode.EVERY", 0.0)

    def press():
        while len(list(parts.glob("*.arrow"))) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    assert run(*command) == 130
    thread.join()
    last = max(int(p.stem.split("-")[1]) for p in parts.glob("*.arrow"))
    assert capsys.readouterr().err == (
        f"stopped; {last} of 50000 images are encoded, the same command goes on with the rest\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == [parts.name]


def test_ctrl_c_while_drawing(pipeline, tmp_path, monkeypatch, capsys):
    drawn, undisturbed = [], Pipeline.decode

    def decode(self, codes, *given, **more):
        drawn.append(len(codes))
        if len(drawn) == 3:
            signal.raise_signal(signal.SIGINT)
        return undisturbed(self, codes, *given, **more)

    monkeypatch.setattr(Pipeline, "decode", decode)
    assert run("sample", pipeline, "--n", "8", "--batch", "1", "--out", tmp_path / "a.png") == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"
    assert len(drawn) == 3 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_broken_pipe_is_no_traceback(pipeline):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "smalti", "info", str(pipeline), "--json"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1 and done.stderr == ""


# -- runs and codes


def test_codes_that_are_cut_off_or_missing(pipeline, tmp_path, capsys):
    codes = tmp_path / "codes.arrow"
    run("encode", "shapes:20", "--tokenizer", pipeline, "--out", codes)
    given = ["--tokenizer", pipeline / "tokenizer", *GENERATOR, "--out", tmp_path / "g"]
    codes.write_bytes(codes.read_bytes()[:-100])
    for path in (codes, tmp_path / "gone.arrow"):
        line = mistake(capsys, "train", "emoji_llamagen", "--codes", path, *given)
        assert f"{path} is not a complete token cache" in line
    assert not (tmp_path / "g").exists()


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    given = ["train", "emoji_vqgan", *TOKENIZER, "--out", tmp_path / "t"]
    run(*given)
    (tmp_path / "t" / "report.json").unlink()
    before = (tmp_path / "t" / "tokenizer" / "model.safetensors").read_bytes()
    newest = checkpoint.found(tmp_path / "t" / "checkpoints")[-1] / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-50])
    capsys.readouterr()
    assert run(*given) == 0
    told = capsys.readouterr().err
    assert newest.parent.name in told and "going on from step 4" in told
    assert (tmp_path / "t" / "tokenizer" / "model.safetensors").read_bytes() == before


def test_a_picture_that_is_far_too_large_is_one_line(pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    picture = tmp_path / "large.png"
    Image.new("RGB", (40, 40)).save(picture)
    before = picture.read_bytes()
    for command, words in (
        (("info", picture), "cannot be read as an image: Image size (1600 pixels) exceeds limit"),
        (("sample", pipeline, "--like", picture, "--out", tmp_path / "x.png"), "exceeds limit"),
        (("sample", pipeline, "--out", picture), "exists and is not of smalti"),
    ):
        assert words in mistake(capsys, *command)
    assert picture.read_bytes() == before

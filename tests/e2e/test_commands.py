"""The command line from images to images, and one line with exit code 2 for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import close
import smalti
from builders import build
from small_systems import GENERATOR, TOKENIZER, write_pictures
from smalti.cli.info import png_metadata
from smalti.cli.main import main
from smalti.modules import save_module
from smalti.pictures import save_png
from smalti.recipes import DEMOS
from smalti.tokenizers import vqgan

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained tokenizer `t`, its codes, and a generator `g`, all made by commands."""
    folder = tmp_path_factory.mktemp("work")
    main(["train", "emoji_vqgan", "--out", str(folder / "t"), *TOKENIZER])
    tokenizer, codes = str(folder / "t" / "tokenizer"), str(folder / "codes.arrow")
    main(["encode", "shapes:64", "--tokenizer", tokenizer, "--out", codes])
    given = ["--tokenizer", tokenizer, "--codes", codes]
    main(["train", "emoji_llamagen", "--out", str(folder / "g"), *given, *GENERATOR])
    return folder


@pytest.fixture
def pipeline(work):
    return str(work / "g" / "pipeline")


def told(capsys, *arguments) -> dict:
    """What a command prints with --json."""
    capsys.readouterr()
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_what_training_leaves_behind(work, capsys):
    assert {p.name for p in (work / "t").iterdir()} == {
        "recipe.json",
        "data.parquet",
        "metrics.jsonl",
        "checkpoints",
        "previews",
        "tokenizer",
        "report.json",
    } | ({"tensorboard"} if (work / "t" / "tensorboard").exists() else set())
    report = json.loads((work / "t" / "report.json").read_text())
    assert report["steps"] == 6 and report["source"] == "shapes:64"
    assert 3 < report["held_out_psnr"] < 60 and 0 < report["held_out_usage"] <= 1
    report = json.loads((work / "g" / "report.json").read_text())
    assert 0 < report["held_out_bits_per_token"] < 6
    capsys.readouterr()
    main(["info", str(work / "g" / "report.json")])
    kind, head, *lines = capsys.readouterr().out.splitlines()
    assert (kind, head) == ("kind: report of a run", "numbers:")
    bits = f"  held_out_bits_per_token      {report['held_out_bits_per_token']:.6g}"
    assert bits in lines and "  steps                        6" in lines
    assert report["below_unigram"] == pytest.approx(
        1 - report["held_out_bits_per_token"] / report["unigram_bits_per_token"]
    )
    with Image.open(work / "t" / "previews" / "step-00000006.png") as image:
        assert image.size == (6 * 66 + 2, 2 * 66 + 2)  # 6 held out, four times as large


def test_a_finished_run_returns_its_report(work, capsys):
    before = (work / "t" / "metrics.jsonl").stat().st_mtime_ns
    report = told(capsys, "train", "emoji_vqgan", "--out", work / "t", *TOKENIZER)
    assert report == json.loads((work / "t" / "report.json").read_text())
    assert (work / "t" / "metrics.jsonl").stat().st_mtime_ns == before


def test_sample_writes_a_grid_the_same_every_time(work, pipeline, tmp_path, capsys):
    command = ["sample", pipeline, "--n", "4", "--seed", "3", "--out"]
    first = told(capsys, *command, tmp_path / "a.png")
    told(capsys, *command, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [i["index"] for i in first["images"]] == [0, 1, 2, 3]
    assert first["files"] == [str(tmp_path / "a.png")]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] == 4 * 34 + 2 and image.size[1] > 34 + 2
    report = told(capsys, "info", tmp_path / "a.png")
    assert report == {"kind": "picture", "images": first["images"]}
    other = ["sample", pipeline, "--n", "4", "--seed", "4", "--out", str(tmp_path / "c.png")]
    main(other)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_a_column_for_each_class(pipeline, tmp_path):
    command = ["sample", pipeline, "--classes", "0", "1", "2", "--n"]
    for n, rows in (("6", 2), ("3", 1)):
        main([*command, n, "--out", str(tmp_path / "a.png")])
        main([*command, n, "--out", str(tmp_path / n)])
        with Image.open(tmp_path / "a.png") as image:
            assert image.width == 3 * 34 + 2
            sheet = np.asarray(image)[image.height - (34 * rows + 2) :]  # below the names
            named = np.asarray(image)[: image.height - (34 * rows + 2)]
        for x in range(3):  # each has a name of its own
            assert named[:, 2 + 34 * x : 34 + 34 * x].min() < 128
        for i in range(3 * rows):
            y, x = 2 + 34 * (i // 3), 2 + 34 * (i % 3)
            with Image.open(tmp_path / n / f"{i:06d}.png") as image:
                assert np.array_equal(sheet[y : y + 32 : 2, x : x + 32 : 2], np.asarray(image))


def test_sample_into_a_folder_and_one_image_again(pipeline, tmp_path, capsys):
    main(
        ["sample", pipeline, "--classes", "0", "red square", "--n", "5", "--first", "2"]
        + ["--batch", "2", "--temperature", "0.9", "--guidance", "1.5", "--out"]
        + [str(tmp_path / "many")]
    )
    names = sorted(p.name for p in (tmp_path / "many").iterdir())
    assert names == [f"{i:06d}.png" for i in range(2, 7)]
    picture = tmp_path / "many" / "000005.png"
    main(["sample", pipeline, "--like", str(picture), "--out", str(tmp_path / "one.png")])
    assert png_metadata(tmp_path / "one.png") == png_metadata(picture)
    tokenizer = smalti.load(pipeline).tokenizer
    one, drawn = (np.asarray(Image.open(p)) for p in (tmp_path / "one.png", picture))
    close.pixels(one, drawn, tokenizer)  # alone, in a batch
    old = {k: v for k, v in png_metadata(picture).items() if k not in ("smooth", "order")}
    with Image.open(picture) as image:  # as if drawn before these settings were known
        save_png(image, tmp_path / "old.png", old)
    again = ["sample", pipeline, "--like", str(tmp_path / "old.png")]
    main([*again, "--out", str(tmp_path / "again.png")])
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert "the picture may differ" not in capsys.readouterr().err
    main([*again, "--weights", "int8", "--decoder-dtype", "bfloat16", "--out", str(tmp_path / "i")])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "drawn with --weights exact, now with int8: the picture may differ",
        "drawn with --decoder-dtype float32, now with bfloat16: the picture may differ",
    ]


def test_pictures_of_another_size_and_one_of_them_again(pipeline, tmp_path, capsys):
    command = ["sample", pipeline, "--classes", "0", "1", "--size", "48x32", "--out"]
    report = told(capsys, *command, tmp_path / "many")
    assert [i["size"] for i in report["images"]] == [[48, 32]] * 2
    picture = tmp_path / "many" / "000001.png"
    with Image.open(picture) as image:
        assert image.size == (32, 48)
    again = ["sample", pipeline, "--like", str(picture), "--out"]
    main([*again, str(tmp_path / "one.png")])
    assert png_metadata(tmp_path / "one.png") == png_metadata(picture)
    one, drawn = (np.asarray(Image.open(p)) for p in (tmp_path / "one.png", picture))
    close.pixels(one, drawn, smalti.load(pipeline).tokenizer)  # alone, in a batch
    main([*again, str(tmp_path / "wide.png"), "--size", "32x64"])
    with Image.open(tmp_path / "wide.png") as image:
        assert image.size == (64, 32)
    main([*command, str(tmp_path / "sheet.png")])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 2 * (2 * 32 + 2) + 2 and image.height > 2 * 48 + 2


def test_reconstruct_a_source_and_a_file(work, pipeline, tmp_path, capsys):
    out = tmp_path / "r.png"
    report = told(capsys, "reconstruct", work / "t" / "tokenizer", "shapes:5", "--out", out)
    assert report["images"] == 5 and report["file"] == str(out)
    with Image.open(out) as image:
        assert image.size == (5 * 66 + 2, 2 * 66 + 2)
        rows = np.asarray(image)
    assert report["psnr"] > 3 and rows[2:66].std() > 0


def test_reconstruct_a_table_without_a_scheme(pipeline, tmp_path, capsys):
    write_pictures(tmp_path, 3)
    images = [(tmp_path / f"{i:03d}.png").read_bytes() for i in range(3)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    out = tmp_path / "r.png"
    report = told(capsys, "reconstruct", pipeline, tmp_path / "a.parquet", "--out", out)
    assert report["images"] == 3 and report["file"] == str(out)


def test_reconstruct_a_file(pipeline, tmp_path, capsys):
    write_pictures(tmp_path, 1)
    out = tmp_path / "r.png"
    report = told(capsys, "reconstruct", pipeline, tmp_path / "000.png", "--out", out)
    assert report["images"] == 1


def test_info_says_what_everything_is(work, pipeline, capsys):
    report = told(capsys, "info", pipeline)
    assert report["kind"] == "pipeline" and report["source"] == "shapes:64"
    assert report["fingerprint"] == (
        f"{report['tokenizer']['fingerprint']}-{report['model']['fingerprint']}"
    )
    module = told(capsys, "info", work / "t" / "tokenizer")
    assert (module["kind"], module["type"]) == ("tokenizer", "vqgan")
    weights = vqgan.VQGAN(vqgan.VQGANConfig(**module["config"])).state_dict()
    assert module["parameters"] == sum(w.numel() for w in weights.values())
    assert told(capsys, "info", f"{pipeline}/model")["kind"] == "model"
    run = told(capsys, "info", work / "g")
    assert (run["kind"], run["finished"], run["last_checkpoint"]) == ("run", True, "step-00000006")
    cache = told(capsys, "info", work / "codes.arrow")
    assert (cache["kind"], cache["images"], cache["held_out"]) == ("token cache", 64, 6)
    assert cache["tokenizer"] == module["fingerprint"] and cache["views"] == 2
    main(["info", pipeline])
    said = capsys.readouterr().out
    assert said.startswith("kind: pipeline\n") and "\nmodel:\n  kind model, " in said
    assert "\n  config:\n    grid [" in said, "what is nested stands below its name"


@pytest.mark.parametrize(
    "system", ["llamagen", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rar", "var"))]
)
def test_demo_on_a_folder(tmp_path, monkeypatch, capsys, system):
    first, second = DEMOS[system].tokenizer(), DEMOS[system].generator()
    inside = {"dim": 4} if system == "var" else {"latent": 8}
    small = replace(first.model, channels=8, vocab=16, **inside)
    width = {"rar": {"ffn_dim": 16}, "llamagen": {"multiple_of": 16}, "var": {}}[system]
    thin = replace(second.model, layers=1, heads=2, dim=16, **width)
    short = {"steps": 40, "batch": 8}
    first = replace(first, model=small, train=replace(first.train, **short))
    ends = {"random_until": 10, "random_end": 20} if system == "rar" else {}
    goal = replace(second.objective, **ends)
    second = replace(second, model=thin, objective=goal, train=replace(second.train, **short))
    small = replace(DEMOS[system], tokenizer=lambda: first, generator=lambda: second)
    monkeypatch.setitem(DEMOS, system, small)
    folder = write_pictures(tmp_path / "pictures", 24, ("day", "night"))
    out = tmp_path / "out"
    command = ["demo", "--quick", "--data", f"folder:{folder}", "--out", str(out)]
    command += ["--system", system]
    report = told(capsys, *command)
    count = 130 if system == "var" else 64
    assert (report["images"], report["classes"], report["codes_per_image"]) == (24, 2, count)
    assert report["system"] == system
    assert ("bits_per_token_spiral_in" in report["generator"]) == (system == "rar")
    assert report["tokenizer"]["steps"] == report["generator"]["steps"] == 20
    assert json.loads((out / "report.json").read_text()) == report
    facts = told(capsys, "info", out / "report.json")
    assert (facts["kind"], facts["system"]) == ("report of a demo", system)
    assert facts["numbers"]["tokenizer psnr"] == report["tokenizer"]["held_out_psnr"]
    assert facts["numbers"]["generator steps"] == 20
    for name in ("samples.png", "reconstructions.png", "pipeline/pipeline.json"):
        assert (out / name).is_file()
    before = (out / "samples.png").read_bytes()
    main(command)  # all is done: it draws again
    assert (out / "samples.png").read_bytes() == before


# -- mistakes


def mistake(capsys, *arguments) -> str:
    """The one line that a command which fails writes."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]


def test_a_mistake_is_exit_code_2_and_one_line():
    command = [sys.executable, "-m", "smalti", "smaple"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == (
        "smalti smaple: command must be one of demo, train, eval, tune, encode, sample, edit, ask, "
        "caption, chat, reconstruct, repack, serve, info, models, convert, scaling, plot, "
        "bench, got 'smaple'; did you mean 'sample'?"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train emoji_vqgam --out x", "'emoji_vqgam' is no recipe .*; did you mean 'emoji_vqgan'"),
        ("train emoji_vqgan", "out"),
        ("train emoji_vqgan --out x --model.chanels 8", "chanels"),
        ("train emoji_vqgan --out x --train.steps many", "steps"),
        ("train emoji_vqgan --out x --train.steps 0", "steps must be at least 1, got 0"),
        ("train emoji_vqgan --out x --model.blocks 0", "blocks must be at least 1, got 0"),
        ("train emoji_vqgan --out x --data.source shape", "unknown data source 'shape'"),
        ("train emoji_llamagen --out x", "--tokenizer"),
        ("train emoji_llamagen --out x --tokenizer nowhere", "nowhere is not a folder"),
        ("encode shapes:4 --tokenizer nowhere --out x.arrow", "nowhere is not a folder"),
        ("encode shapes:4 --out x.arrow", "tokenizer"),
        ("info nowhere", "nowhere is neither a folder nor a hub id"),
        ("info nowhere.png", "nowhere.png is neither"),
        ("sample nowhere", "nowhere is neither a folder nor a hub id"),
        ("demo --data folder:nowhere", "folder:nowhere: nowhere is not a folder"),
        ("demo --data shapes:3", "shapes:3 has 3 images; the demo needs at least 4"),
    ],
)
def test_mistakes_without_a_pipeline(tmp_path, monkeypatch, capsys, command, words):
    monkeypatch.chdir(tmp_path)
    assert re.search(words, mistake(capsys, *command.split()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--classes cherry", "class must be one of 0 ... 29 or red circle, .*'cherry'"),
        ("--classes 30", "class must be one of 0 ... 29"),
        ("--guidance -1", "-1"),
        ("--schedule square", "schedule"),
        ("--temperature -1", "-1"),
        ("--top-p 0", "top_p"),
        ("--n 0", "at least 1"),
        ("--n 0 --out x", "at least 1"),
        ("--batch 0", "batch"),
        ("--batch -1 --out x", "batch"),
        ("--first -3", "-3"),
        ("--like nothing.png", "nothing.png"),
        ("--size 48x30", "size must be multiples of 4 pixels, got 48x30"),
        ("--size 48,32", "--size must be a height and a width, such as 48x32, got '48,32'"),
    ],
)
def test_mistakes_with_a_pipeline(tmp_path, monkeypatch, capsys, pipeline, options, words):
    monkeypatch.chdir(tmp_path)
    assert re.search(words, mistake(capsys, "sample", pipeline, *options.split()))
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_drawn_again(work, pipeline, tmp_path, capsys):
    write_pictures(tmp_path, 1)
    line = mistake(capsys, "sample", pipeline, "--like", tmp_path / "000.png")
    assert "was not written by smalti" in line
    main(["sample", pipeline, "--n", "2", "--out", str(tmp_path / "two.png")])
    line = mistake(capsys, "sample", pipeline, "--like", tmp_path / "two.png")
    assert "does not say how one image was drawn" in line
    main(["sample", pipeline, "--n", "1", "--out", str(tmp_path / "own")])
    picture = tmp_path / "own" / "000000.png"
    tag = png_metadata(picture)
    with Image.open(picture) as image:
        save_png(image, picture, tag | {"pipeline": "0123-4567"})
    line = mistake(capsys, "sample", pipeline, "--like", picture, "--out", tmp_path / "no.png")
    assert f"was drawn by pipeline 0123-4567, this is {tag['pipeline']}" in line
    assert not (tmp_path / "no.png").exists()


def test_folders_that_are_something_else(work, tmp_path, capsys):
    assert "it has no pipeline.json" in mistake(capsys, "sample", work / "t")
    assert "is not a pipeline, a tokenizer" in mistake(capsys, "info", tmp_path)
    line = mistake(
        capsys, "encode", "shapes:4", "--tokenizer", work / "g", "--out", tmp_path / "y.arrow"
    )
    assert "config.json" in line
    (tmp_path / "x").write_text("nothing")
    assert "not a complete token cache" in mistake(capsys, "info", tmp_path / "x")
    command = ["train", "emoji_vqgan", "--out", tmp_path, *TOKENIZER]
    assert "exists and is not a run" in mistake(capsys, *command)


def test_another_recipe_in_the_same_folder(work, capsys):
    command = ["train", "emoji_vqgan", "--out", work / "t", *TOKENIZER]
    line = mistake(capsys, *command, "--train.seed", "5")
    assert "holds a run of another recipe: train.seed was 0, now 5" in line


def test_codes_of_another_tokenizer(work, tmp_path, capsys):
    config = json.loads((work / "t" / "tokenizer" / "config.json").read_text())["config"]
    other = build(vqgan.VQGAN, vqgan.VQGANConfig(**config), seed=1)
    mark = save_module(other, tmp_path / "other")
    given = ["--tokenizer", tmp_path / "other", "--codes", work / "codes.arrow"]
    command = ["train", "emoji_llamagen", "--out", tmp_path / "g", *given, *GENERATOR]
    assert f"but the tokenizer given is {mark}; encode the images again" in mistake(
        capsys, *command
    )


@pytest.mark.parametrize("command", ["demo", "train", "encode"])
def test_empty_folders_are_named(work, tmp_path, capsys, command):
    (tmp_path / "pictures").mkdir()
    source, out = f"folder:{tmp_path / 'pictures'}", ["--out", tmp_path / "out"]
    arguments = {
        "demo": ["demo", "--quick", "--data", source, *out],
        "train": ["train", "emoji_vqgan", *out, *TOKENIZER, "--data.source", source],
        "encode": ["encode", source, "--tokenizer", work / "t" / "tokenizer", *out],
    }
    arguments["encode"][-1] = tmp_path / "out.arrow"
    assert "pictures holds no images" in mistake(capsys, *arguments[command])
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_a_generator_learns_from_a_folder_without_classes(work, tmp_path):
    source = f"folder:{write_pictures(tmp_path / 'flat', 12)}"
    tokenizer = ["--tokenizer", str(work / "t" / "tokenizer")]
    given = [*tokenizer, *GENERATOR, "--data.source", source]
    main(["train", "emoji_llamagen", "--out", str(tmp_path / "g"), *given])
    info = json.loads((tmp_path / "g" / "pipeline" / "pipeline.json").read_text())
    assert info["classes"] == ["image"]


def test_a_class_recipe_without_labels_stops_and_names_the_columns(work, tmp_path, capsys):
    folder = write_pictures(tmp_path / "flat", 12)
    rows = [f"{i:03d}.png,a picture,{i % 2}" for i in range(12)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text,kind", *rows]))
    tokenizer = ["--tokenizer", work / "t" / "tokenizer", "--out", tmp_path / "g"]
    command = ["train", "emoji_llamagen", *tokenizer, *GENERATOR, "--data.source"]
    with pytest.raises(SystemExit):
        main([str(a) for a in (*command, folder)])
    *_, line = capsys.readouterr().err.splitlines()
    assert (
        f"the images of folder:{folder} have no labels; it has the columns file_name, text, k"
        in line
    )
    assert f"'folder:{folder}?label=COLUMN' takes one" in line and not (tmp_path / "g").exists()
    main([str(a) for a in (*command, f"folder:{folder}?label=kind")])
    info = json.loads((tmp_path / "g" / "pipeline" / "pipeline.json").read_text())
    assert info["classes"] == ["0", "1"] and info["source"] == f"folder:{folder}?label=kind"


def test_a_loss_that_is_no_number_is_one_line(work, tmp_path, capsys):
    given = ["--tokenizer", work / "t" / "tokenizer", "--codes", work / "codes.arrow", *GENERATOR]
    given += ["--train.optim.lr", "1e30", "--train.optim.warmup", "0", "--train.log-every", "1"]
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in ("train", "emoji_llamagen", "--out", tmp_path / "g", *given)])
    progress, line = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and progress.startswith("generator: step 1 of 6")
    assert re.search(
        r"is no number \(loss [\w.]+\) at step 2, batch of .*; the last checkpoint", line
    )


def test_a_run_killed_while_it_claimed_its_folder(tmp_path):
    left = tmp_path / "t" / ".recipe.json.0123abcd.smalti-tmp"
    left.parent.mkdir()
    left.write_text('{"da')
    main(["train", "emoji_vqgan", "--out", str(tmp_path / "t"), *TOKENIZER])
    assert not left.exists()


def test_a_mistake_does_not_occupy_the_folder(work, tmp_path, capsys):
    command = ["train", "emoji_llamagen", "--out", str(tmp_path / "g"), *GENERATOR]
    mistake(capsys, *command)
    main([*command, "--tokenizer", str(work / "t" / "tokenizer")])


@pytest.mark.parametrize("what", ["weights", "config"])
def test_damage_is_one_line(pipeline, tmp_path, capsys, what):
    shutil.copytree(pipeline, tmp_path / "p")
    if what == "weights":
        path = tmp_path / "p" / "model" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:50])
        assert "model.safetensors" in mistake(capsys, "info", tmp_path / "p")
    else:
        path = tmp_path / "p" / "tokenizer" / "config.json"
        path.write_text(json.dumps({"type": "vqgan"}))
        assert "config.json" in mistake(capsys, "sample", tmp_path / "p")


def test_an_unknown_device_is_one_line(tmp_path, capsys):
    command = ["train", "emoji_vqgan", "--out", tmp_path / "t", *TOKENIZER]
    assert "tpu" in mistake(capsys, *command, "--train.device", "tpu")


@pytest.mark.parametrize(
    "command",
    [
        "sample {p}",
        "sample {p} --count 4 --npz a.npz",
        "edit {p} --image nowhere.png --extend left=1",
        "eval {p} --reference shapes:8",
        "eval {t} --reference shapes:8",
        "encode shapes:8 --tokenizer {t} --out a.arrow",
        "reconstruct {t} shapes:8",
        "tune {p} --reference shapes:8",
    ],
)
def test_every_command_means_the_same_by_a_device(work, pipeline, capsys, monkeypatch, command):
    monkeypatch.chdir(work)
    before = sorted(work.iterdir())
    words = command.format(p=pipeline, t=work / "t" / "tokenizer").split()
    line = mistake(capsys, *words, "--device", "gpu")
    assert "device 'gpu' cannot be used; a device is auto, cpu, cuda, cuda:1 or mps, and" in line
    assert sorted(work.iterdir()) == before


def test_devices_and_dtypes_of_drawing_and_coding(work, pipeline, tmp_path, capsys):
    given = ["--device", "cpu", "--out", tmp_path / "a.png"]
    for dtype in ("bfloat16", "float32"):
        report = told(capsys, "sample", pipeline, "--n", "1", *given, "--dtype", dtype)
        assert report["images"][0]["dtype"] == dtype
    with Image.open(tmp_path / "a.png") as image:
        image.convert("RGB").save(tmp_path / "b.png")
    edit = ["edit", pipeline, "--image", tmp_path / "b.png", "--extend", "left=4", *given]
    assert told(capsys, *edit, "--dtype", "bf16")["images"][0]["dtype"] == "bfloat16"
    assert "no such file: x.png" in mistake(capsys, "sample", pipeline, "--like", "x.png")
    assert "dtype must be one of auto, float32" in mistake(capsys, *edit, "--dtype", "int8")
    told(capsys, "reconstruct", work / "t" / "tokenizer", tmp_path / "b.png", *given)
    tokenizer = ["--tokenizer", work / "t" / "tokenizer", "--device", "cpu"]
    report = told(capsys, "encode", "shapes:8", *tokenizer, "--out", tmp_path / "a.arrow")
    assert report["images"] == 8


def test_names_come_before_numbers(pipeline, tmp_path, capsys):
    shutil.copytree(pipeline, tmp_path / "p")
    path = tmp_path / "p" / "pipeline.json"
    values = json.loads(path.read_text())
    numbers = ["0", "1", "10", "11", "2", *map(str, range(20, 15 + len(values["classes"])))]
    path.write_text(json.dumps(values | {"classes": numbers}))
    command = ["sample", tmp_path / "p", "--out", tmp_path / "a.png", "--classes"]
    report = told(capsys, *command, "10", "2")
    assert [i["class_name"] for i in report["images"]] == ["10", "2"]
    line = mistake(capsys, *command, "3")
    assert "class '3' could be number 3, which is the class named '11': give the name" in line

"""Towers by the real commands: trained, measured, and judging pictures."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from builders import pipeline
from small_systems import mistake
from smalti.cli.main import main
from smalti.eval.clip import cmmd
from smalti.eval.sets import open_set
from smalti.eval.towers import seen
from smalti.loading import load_towers, save_towers

SMALL = (
    *("--model.size", "16", "--model.features", "16", "--train.batch", "8"),
    *(f"--model.{tower}.{name}={value}" for tower in ("vision", "text")
      for name, value in (("dim", 16), ("heads", 2), ("layers", 1), ("ffn-dim", 32))),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("float32")


def run(*arguments):
    main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    run("train", "shapes_siglip", "--out", folder / "run", "--data.source", "shapes:60", *SMALL,
        "--train.steps", 2)  # fmt: skip
    return folder


def values(told):
    return {m["metric"]: m["value"] for m in told["metrics"]}


def test_towers_are_measured_on_what_they_never_saw(work, capsys):
    capsys.readouterr()
    run("eval", work / "run" / "towers", "--bootstrap", 10)
    told = json.loads(capsys.readouterr().out)
    assert told["subject"]["kind"] == "towers" and told["reference"]["name"] == "shapes:60@held"
    found, names = values(told), ("", "_colour", "_shape", "_size", "_position", "_all")
    wanted = [f"zero_shot{name}_6" for name in names]
    wanted += [f"{way}_{n}_6" for way in ("image_to_text", "text_to_image") for n in (1, 5, 10)]
    assert list(found) == wanted and all(0 <= value <= 1 for value in found.values())
    assert found["image_to_text_10_6"] == found["text_to_image_10_6"] == 1
    run("eval", work / "run" / "towers", "--metrics", "zero_shot", "--reference", "shapes:9",
        "--templates", "one {}", "--out", work / "one.json")  # fmt: skip
    assert list(values(json.loads((work / "one.json").read_text())))[0] == "zero_shot_9"
    assert "each in 1 sentences (one {})" in (work / "one.json").read_text()


def test_pictures_are_judged_by_towers(work, capsys):
    towers = work / "run" / "towers"
    capsys.readouterr()
    run("eval", "shapes:9", "--towers", towers, "--metrics", "clip_score", "cmmd", "fwd",
        "--reference", "shapes:12", "--bootstrap", 10)  # fmt: skip
    found = values(json.loads(capsys.readouterr().out))
    assert list(found) == ["fwd_9", "clip_score_9", "cmmd_9"]
    matcher = load_towers(towers)
    ours, real = (seen(matcher, open_set(name, 16)) for name in ("shapes:9", "shapes:12"))
    assert found["cmmd_9"] == pytest.approx(cmmd(ours.features, real.features), rel=1e-6)
    run("eval", "shapes:9", "--towers", towers, "--metrics", "clip_score", "--bootstrap", 10)
    assert list(values(json.loads(capsys.readouterr().out))) == ["clip_score_9"]


def test_towers_see_pictures_of_several_sizes(work, tmp_path, capsys):
    for side in (16, 20, 33):
        Image.new("RGB", (side, 30), "red").save(tmp_path / f"{side}.png")
        (tmp_path / f"{side}.txt").write_text("a red circle")
    capsys.readouterr()
    run("eval", tmp_path, "--towers", work / "run" / "towers", "--metrics", "clip_score",
        "--bootstrap", 10)  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert told["subject"]["images"] == 3 and told["subject"]["size"] == [16, 16]
    assert list(values(told)) == ["clip_score_3"]


def test_what_a_pipeline_draws_is_judged_by_towers(work, tmp_path, capsys):
    pipe = pipeline("llamagen-text")
    pipe.info |= {"source": "shapes:40", "holdout": 0.1}
    pipe.save_pretrained(tmp_path / "p")
    capsys.readouterr()
    run("eval", tmp_path / "p", "--towers", work / "run" / "towers", "--metrics", "clip_score",
        "cmmd", "--bootstrap", 10, "--keep", tmp_path / "drawn.npz")  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert list(values(told))[:2] == ["clip_score_4", "cmmd_4"]
    run("eval", tmp_path / "drawn.npz", "--towers", work / "run" / "towers", "--metrics",
        "clip_score", "--bootstrap", 10)  # fmt: skip
    again = json.loads(capsys.readouterr().out)
    assert values(again)["clip_score_4"] == values(told)["clip_score_4"]
    run("eval", tmp_path / "p", "--towers", work / "run" / "towers", "--metrics", "clip_score",
        "--bootstrap", 10)  # fmt: skip
    alone = json.loads(capsys.readouterr().out)  # nothing else has read the pictures
    assert alone["subject"]["hash"] == told["subject"]["hash"]


def test_info_knows_towers(work, capsys):
    capsys.readouterr()
    run("info", work / "run" / "towers")
    assert "kind: towers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("PIPE", "--metrics", "zero_shot"),
            "PIPE holds no towers: it has no config.json; it is a "
            "pipeline, with its tokenizer in PIPE/tokenizer",
        ),
        (("RUN/towers", "--metrics", "fid"), "of which zero_shot and retrieval are measured"),
        (("RUN/towers", "--n", "4"), "--n is for a pipeline"),
        (("RUN/towers", "--towers", "RUN/towers"), "--towers is for pipelines and sets"),
        (("RUN/towers", "--size", "32"), "--size is for pipelines and sets of pictures"),
        (("RUN/towers", "--guidance", "3"), "guidance: settings of drawing are for a pipeline"),
        (("RUN/towers", "--templates", "cat"), "must have {} where a class is named, got 'cat'"),
        (("RUN", "--metrics", "retrieval"), "RUN holds no towers: it has no config.json; it is a"),
        (("shapes:9", "--metrics", "clip_score"), "clip_score: towers are needed, give --towers"),
        (("shapes:9", "--towers", "RUN/towers"), "--towers is for the metrics clip_score and cmmd"),
        (("shapes:9", "--metrics", "cmmd", "--towers", "RUN/towers"), "cmmd: a reference is"),
        (("shapes:9", "--templates", "a {}"), "--templates is for towers"),
        (("BARE", "--metrics", "clip_score", "--towers", "RUN/towers"), "does not say what"),
        (
            ("RUN/towers", "--metrics", "zero_shot", "--reference", "BARE"),
            "needs at least 2 classes",
        ),
        (("RUN/towers", "--metrics", "sero_shot"), "did you mean 'zero_shot'"),
    ],
)
def test_what_cannot_be_measured(work, capsys, arguments, message):
    bare = work / "bare.npz"
    np.savez(bare, arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    (work / "pipe" / "tokenizer").mkdir(parents=True, exist_ok=True)
    for file in ("pipeline.json", "tokenizer/config.json"):
        (work / "pipe" / file).write_text("{}")
    places = {"RUN": str(work / "run"), "BARE": str(bare), "PIPE": str(work / "pipe")}

    def placed(text):
        for name, place in places.items():
            text = text.replace(name, place)
        return text

    assert placed(message) in mistake(capsys, "eval", *map(placed, arguments))


def test_damaged_towers_are_one_line(work, capsys):
    broken = work / "broken"
    shutil.copytree(work / "run" / "towers", broken)
    with open(broken / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    assert "is damaged or was changed" in mistake(capsys, "eval", broken)
    shutil.copy(work / "run" / "towers" / "model.safetensors", broken)
    shutil.rmtree(broken / "words")
    assert "holds no text tokenizer" in mistake(capsys, "eval", broken)


def test_towers_compare_where_they_were_asked_the_same(work, capsys):
    shutil.copytree(work / "run" / "towers", work / "alike")
    matcher = load_towers(work / "alike")
    with torch.no_grad():
        matcher.towers.vision.positions.mul_(-1)
    save_towers(matcher, work / "alike")
    same = ("--metrics", "zero_shot", "--reference", "shapes:9", "--templates", "a {}", "b {}")
    for name, folder, last in (("a", "run/towers", "c"), ("b", "alike", "c"), ("c", "alike", "d")):
        run("eval", work / folder, *same, f"{last} {{}}", "--out", work / f"{name}.json")
    capsys.readouterr()
    run("eval", "compare", work / "a.json", work / "b.json")
    assert "zero_shot_9 " in capsys.readouterr().out
    run("eval", "compare", work / "b.json", work / "c.json")
    assert "zero_shot                    does not compare: other def" in capsys.readouterr().out


def test_towers_that_saw_everything_need_a_reference(work, capsys):
    whole = work / "whole"
    shutil.copytree(work / "run" / "towers", whole)
    told = json.loads((whole / "config.json").read_text()) | {"holdout": 0.0}
    (whole / "config.json").write_text(json.dumps(told))
    line = "does not say what it never saw: give --reference"
    assert line in mistake(capsys, "eval", whole, "--metrics", "retrieval")


def test_runs_that_cannot_begin_are_one_line(work, capsys):
    for arguments, message in (
        (("--data.flip",), "captions say left and right"),
        (("--objective.loss", "sigmoid", "--model.kind", "clip"), "needs towers with a bias"),
        (("--model.features", "8"), "features must be"),
        (("--data.source", "folder:/nowhere"), "nowhere"),
        (("--train.batch", "1"), "a step needs 2 pairs or more, got 1"),
        (("--data.source", "shapes:2", "--data.holdout", "0.5"), "got 1 (1 pictures to learn"),
        (("--init", str(work / "run")), "it is a training run, with its towers in"),
        (
            ("--init", str(work / "run" / "towers"), "--model.length", "20"),
            "model.length does nothing with --init",
        ),
        (
            ("--init", str(work / "run" / "towers"), "--vocab", "700"),
            "vocab does nothing with --init",
        ),
    ):
        line = mistake(capsys, "train", "shapes_siglip", "--out", work / "other", *arguments)
        assert message in line, line
    assert not (work / "other").exists()

"""Classes and styles of a pipeline that draws from texts."""

import json

import numpy as np
import pytest

import smalti
from builders import pipeline
from smalti.cli.main import main
from smalti.pipeline.pipeline import Pipeline
from smalti.pipeline.wording import Wording

CLASSES, STYLES = ["Smileys", "Food & Drink"], ["fluent3d", "noto", "twemoji"]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline("maskbit-text", info={"text_classes": CLASSES, "styles": STYLES})


def texts(asked) -> list[str]:
    return [one["text"] for one in asked]


def test_a_style_is_a_phrase_behind_a_prompt(pipe):
    assert texts(pipe.asked("red heart", style="noto")) == ["red heart, noto"]
    assert texts(pipe.asked(text=["a", "b"], style="FLUENT")) == ["a, fluent3d", "b, fluent3d"]
    assert texts(pipe.asked("red heart")) == ["red heart"]
    (one,), (other,) = pipe("red heart", seed=2, style="noto"), pipe("red heart, noto", seed=2)
    assert np.array_equal(np.asarray(one), np.asarray(other))
    assert one.info["smalti"] == other.info["smalti"]


def test_a_class_is_drawn_by_its_name(pipe):
    assert texts(pipe.asked(classes="food & drink")) == ["Food & Drink"]
    assert texts(pipe.asked(classes=["1", 0], style="noto")) == [
        "Food & Drink, noto",
        "Smileys, noto",
    ]
    assert texts(pipe.asked()) == CLASSES, "nothing is every class"
    asked = pipe.asked(classes=[1], negative="blue")
    assert asked == [{"text": "Food & Drink", "negative": "blue"}]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"text": "x", "style": "pixel"}, "one of fluent3d, noto, twemoji, got 'pixel'"),
        ({"text": "x", "style": "notto"}, "got 'notto'; did you mean 'noto'"),
        ({"text": "x", "style": ""}, "one of fluent3d, noto, twemoji, got ''"),
        ({"text": "x", "style": 3}, "one of fluent3d, noto, twemoji, got 3"),
        ({"classes": "Cars"}, "one of 0 ... 1 or Smileys, Food & Drink, got 'Cars'"),
        ({"text": "x", "classes": [0]}, "texts or classes, not both"),
        ({"text": "", "style": "noto"}, "prompt must not be empty"),
    ],
)
def test_what_is_none_is_named(pipe, given, words):
    with pytest.raises(ValueError, match=words):
        pipe.asked(**given)


def test_a_beginning_that_two_styles_have_is_none():
    wording = Wording(styles=("flat", "flatter", "photo"))
    assert wording.style("flat") == "flat" and wording.style("pho") == "photo"
    with pytest.raises(ValueError, match="style must be one of flat, flatter, photo, got 'fl'"):
        wording.style("fl")


def test_pipelines_that_know_no_styles():
    plain = pipeline("maskbit-text")
    with pytest.raises(ValueError, match="knows no styles, got 'noto'"):
        plain.asked("x", style="noto")
    with pytest.raises(ValueError, match=r"draws from texts, not classes, got \[0\]"):
        plain.asked(classes=[0])
    with pytest.raises(ValueError, match="draws classes, not texts, got 'noto'"):
        pipeline("llamagen").asked(style="noto")
    with pytest.raises(ValueError, match="styles must be names, got 'noto'"):
        Wording.of({"styles": "noto"})


def test_an_edit_in_a_style_needs_a_text(pipe):
    picture = pipe("x")[0]
    with pytest.raises(ValueError, match="style 'noto' needs a text or a class"):
        pipe.edit(picture, extend={"left": 8}, style="noto")
    (edited,) = pipe.edit(picture, extend={"left": 8}, text="x", style="noto")
    assert edited.info["smalti"]["text"] == "x, noto"


def test_a_folder_keeps_them_and_commands_take_them(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "p")
    assert smalti.load(tmp_path / "p", device="cpu").wording == pipe.wording
    given = ["sample", str(tmp_path / "p"), "--out", str(tmp_path / "a.png"), "--json"]

    def drawn(*options: str) -> list[str]:
        capsys.readouterr()
        main([*given, *options])
        return texts(json.loads(capsys.readouterr().out)["images"])

    assert drawn("--class", "1", "--style", "fluent") == ["Food & Drink, fluent3d"]
    assert drawn() == CLASSES
    with pytest.raises(SystemExit) as stop:
        main([*given, "--text", "x", "--style", "pixel"])
    line = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and line.count("\n") == 0 and "fluent3d, noto, twemoji" in line

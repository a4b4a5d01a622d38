"""Styles and classes of a model of texts, over HTTP."""

import json

import pytest

from builders import pipeline
from servers import Running, opened
from smalti.serve.app import make_app
from smalti.serve.errors import Refused
from smalti.serve.orders import order_of
from smalti.serve.shared import Limits, Shared
from smalti.serve.state import Server
from smalti.text.prompts import Cut

INFO = {"text_classes": ["Smileys", "Food & Drink"], "styles": ["fluent3d", "noto", "twemoji"]}


@pytest.fixture(scope="module")
def pipe():
    return pipeline("maskbit-text", info=INFO)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "red heart", "style": "fluent"}, "red heart, fluent3d"),
        ({"prompt": "red heart", "style": "vivid"}, "red heart"),
        ({"prompt": "red heart"}, "red heart"),
        ({"class": 1, "style": "noto"}, "Food & Drink, noto"),
        ({"class": "smileys"}, "Smileys"),
    ],
)
def test_what_is_drawn(pipe, fields, text):
    assert order_of(fields, pipe).wanted["text"] == [text]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": "x", "style": "pixel"}, "style", "one of fluent3d, noto, twemoji, got 'pixel'"),
        ({"prompt": "x", "style": 3}, "style", "style must be a text"),
        ({"class": "cars"}, "class", "got 'cars'"),
        ({"prompt": "x", "class": 1}, "class", "a prompt or a class, not both"),
        ({"style": "noto"}, "prompt", "prompt"),
    ],
)
def test_what_is_refused(pipe, fields, param, words):
    with pytest.raises(Refused, match=words) as refused:
        order_of(fields, pipe)
    assert refused.value.param == param and refused.value.status == 400


def test_classes_are_one_or_one_for_each_picture(pipe):
    order = order_of({"class": [1, "smileys"]}, pipe)
    turned = order_of({"class": [1, "smileys"], "first": 1}, pipe)  # picture 1 has the second one
    assert turned.wanted["text"] == [*reversed(order.wanted["text"])]
    assert order.n == 2 and order.wanted["text"] == ["Food & Drink", "Smileys"]
    for n in (1, 3):
        with pytest.raises(Refused, match=f"a list of n, {n} here, got 2") as refused:
            order_of({"class": [1, 0], "n": n}, pipe)
        assert refused.value.param == "class"


def test_an_edit_in_a_style_needs_a_prompt(pipe):
    with pytest.raises(Refused, match="a style needs a prompt"):
        order_of({"style": "noto"}, pipe, others=("image",))


def test_where_no_styles_are_known_they_are_left():
    plain = pipeline("maskbit-text")
    assert order_of({"prompt": "x", "style": "noto"}, plain).wanted["text"] == ["x"]
    assert order_of({"prompt": "3", "style": "natural"}, pipeline("llamagen")).wanted[
        "classes"
    ] == [3]
    with pytest.raises(Refused, match="draws from texts, not classes"):
        order_of({"class": 1}, plain)


def test_what_is_read_of_a_prompt_is_said(pipe, recwarn):
    state = Server([Shared("emoji64", pipe, Limits())])
    server = Running(state, make_app(state))
    words = ("red heart " * pipe.text.capacity).split()
    fit = " ".join(words[: pipe.text.capacity])
    try:
        long, whole = (
            json.loads(server.ask("POST", "/v1/images/generations", {"prompt": text, "seed": 1})[2])
            for text in (" ".join(words), "red heart")
        )
        (datum,) = long["data"]
        assert fit.startswith(datum["revised_prompt"].rstrip()) and datum["revised_prompt"]
        assert long["usage"]["input_tokens"] <= pipe.text.capacity
        assert "revised_prompt" not in whole["data"][0]
        read = {"prompt": datum["revised_prompt"], "seed": 1}
        again = json.loads(server.ask("POST", "/v1/images/generations", read)[2])
        drawn, expected = (opened(d["b64_json"]).tobytes() for d in (again["data"][0], datum))
        assert drawn == expected
    finally:
        server.stop()
    assert {w.category for w in recwarn if "red heart" in str(w.message)} == {Cut}


def test_a_picture_in_a_style(pipe):
    state = Server([Shared("emoji64", pipe, Limits())])
    server = Running(state, make_app(state))
    try:
        (datum,) = server.generate(prompt="red heart", style="twemoji", seed=3)
        assert datum["smalti"]["text"] == "red heart, twemoji"
        (model,) = json.loads(server.ask("GET", "/v1/models")[2])["data"]
        assert model["smalti"]["styles"] == INFO["styles"]
        assert model["smalti"]["text_classes"] == INFO["text_classes"]
    finally:
        server.stop()

"""Pictures that are drawn from maps, over HTTP, by OpenAI's own client."""

import base64
from dataclasses import replace

import numpy as np
import openai
import pytest
from PIL import Image

from builders import build, pipeline
from servers import Running, opened, png, same
from smalti.models.taming import Taming
from smalti.pipeline.pipeline import Pipeline
from smalti.serve.app import make_app
from smalti.serve.shared import Shared
from smalti.serve.state import Server
from smalti.tokenizers.vqgan import VQGAN


@pytest.fixture(scope="module")
def server():
    """Models that draw from edges and from kinds of things, and one of classes."""
    taken = pipeline("taming-map")
    height, width = taken.tokenizer.size
    model = build(Taming, replace(taken.model.config, map_grid=taken.model.config.grid))
    config = replace(taken.map.config, size=(height, width))
    edges = Pipeline(taken.tokenizer, model, map=build(VQGAN, config))
    config = replace(config, map="segmentation", kinds=4)
    kinds = Pipeline(taken.tokenizer, model, map=build(VQGAN, config))
    named = {"edges": edges, "kinds": kinds, "classes": pipeline("llamagen")}
    state = Server([Shared(name, pipe) for name, pipe in named.items()])
    running = Running(state, make_app(state))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def pipe(server) -> Pipeline:
    return server.state.shared[0].pipeline


@pytest.fixture(scope="module")
def photo(pipe) -> Image.Image:
    """A picture as large as those that are drawn, with an edge."""
    height, width = pipe.tokenizer.size
    image = Image.new("RGB", (width, height))
    image.paste((255, 240, 255), (0, 0, width // 2, height // 2))
    return image


DRAWN = {"seed": 3, "temperature": 0.1}
"""By which another map draws another picture, of a model that has learned nothing."""


def text(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def pixels(datum) -> np.ndarray:
    return np.asarray(opened(datum.b64_json))


def test_a_map_decides_the_picture(client, pipe, photo):
    flat = Image.new("RGB", photo.size)
    expected = [np.asarray(pipe(map=map, n=1, **DRAWN)[0]) for map in (photo, flat)]
    assert not same(*expected)
    for map, picture in zip((photo, flat), expected, strict=True):
        more = {"extra_body": {"map": text(map), **DRAWN}}
        (datum,) = client.images.generate(prompt="", model="edges", **more).data
        assert same(pixels(datum), picture)
    assert datum.smalti["map"] == pipe.asked(map=flat)[0]["map"]
    larger, size = photo.resize((24, 12)), {"map": text(photo.resize((24, 12))), **DRAWN}
    (datum,) = client.images.generate(prompt="", model="edges", size="24x12", extra_body=size).data
    assert same(pixels(datum), np.asarray(pipe(map=larger, size=(12, 24), n=1, **DRAWN)[0]))
    (model, _, classes) = client.models.list()
    assert (model.smalti["map"], classes.smalti["map"]) == ("edges", "")


def test_a_map_comes_as_a_file(client, pipe, photo):
    """Without a mask the picture of an edit is the map itself, and events are those of edits."""
    expected = np.asarray(pipe(map=photo, n=1, **DRAWN)[0])
    wanted = {"model": "edges", "image": png(photo), "prompt": "", "extra_body": DRAWN}
    assert same(pixels(client.images.edit(**wanted).data[0]), expected)
    first, *_, last = client.images.edit(stream=True, partial_images=2, **wanted)
    assert (first.type, last.type) == ("image_edit.partial_image", "image_edit.completed")
    assert same(pixels(last), expected)


def test_a_part_is_painted_by_a_map(client, pipe, photo):
    width, height = photo.size
    mask = Image.new("L", photo.size)
    mask.paste(255, (width // 2, 0, width, height))
    flat = Image.new("RGB", photo.size)
    drawn = list[np.ndarray]()
    for map in (photo, flat):
        more = {"extra_body": {"map": text(map), "keep_pixels": True, **DRAWN}}
        wanted = {"model": "edges", "image": png(photo), "mask": png(mask), "prompt": ""}
        drawn.append(pixels(client.images.edit(**wanted, **more).data[0]))
        (expected,) = pipe.edit(photo, mask, map=map, n=1, keep_pixels=True, **DRAWN)
        assert same(drawn[-1], np.asarray(expected))
    half = np.s_[:, : width // 2]
    assert np.array_equal(drawn[0][half], drawn[1][half]) and not same(*drawn)
    more = {"map": text(flat), "strength": 0.9, "model": "edges", "image": text(photo)}
    (datum,) = client.post("/images/variations", body=more, cast_to=dict)["data"]
    assert datum["smalti"]["map"] == pipe.asked(map=flat)[0]["map"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "map", "map is missing: this model draws from one, a picture whose edges are taken"),
        ({"model": "kinds"}, "map", "draws from one, a segmentation"),
        ({"map": "small"}, "map", "must have the size of the picture, 20x8, got 6x6"),
        ({"map": "photo", "size": "24x12"}, "map", "size of the picture, 24x12, got 20x8"),
        ({"map": "photo", "prompt": "a cat"}, "prompt", "from maps alone: prompt must be empty"),
        ({"map": "photo", "class": 1}, "class", "from maps alone: class must be empty"),
        ({"map": "photo", "model": "classes", "prompt": "1"}, "map", "draws from no maps"),
        ({"map": "photo", "model": "kinds"}, "map", "is in colours, whose numbers are not known"),
        ({"map": "many", "model": "kinds"}, "map", "must be in [0, 4), got 200"),
        ({"map": "http://a.org/map.png"}, "map", "addresses are not fetched"),
        ({"map": "no picture"}, "map", "is no base64"),
        ({"map": 3}, "map", "map must be one picture"),
    ],
)
def test_what_is_refused(server, photo, fields, param, words):
    pictures = {
        "photo": photo,
        "small": Image.new("L", (6, 6)),
        "many": Image.new("L", photo.size, 200),
    }
    map = fields.get("map")
    if map in pictures:
        fields = fields | {"map": text(pictures[map])}
    status, error = server.error("POST", "/v1/images/generations", {"prompt": ""} | fields)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"image": "small"}, "image", "must have the size of the picture, 20x8, got 6x6"),
        ({"mask": "mask", "map": "small"}, "map", "the map is 6x6, the image 20x8"),
        ({"map": "photo"}, "mask", "say what is to be painted"),
        ({"extend": "left=4", "map": "photo"}, "map", "none is known beyond the image"),
        ({"keep_pixels": True}, "keep_pixels", "needs a mask"),
        ({"mask": "mask", "map": "photo", "model": "classes"}, "map", "draws from no maps"),
    ],
)
def test_edits_that_are_refused(server, photo, fields, param, words):
    mask = Image.new("L", photo.size)
    mask.paste(255, (0, 0, 10, 8))
    pictures = {"photo": photo, "small": Image.new("L", (6, 6)), "mask": mask}
    body = {"image": "photo", "prompt": ""} | fields
    body = {name: text(pictures[v]) if v in pictures else v for name, v in body.items()}
    status, error = server.error("POST", "/v1/images/edits", body)
    assert (status, error["param"]) == (400, param) and words in error["message"]

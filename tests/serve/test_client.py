"""OpenAI's own client, unmodified, against a server."""

import asyncio
import base64
import hashlib
import importlib.util
import io
import json
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from PIL import Image, ImageOps

from servers import opened, png
from smalti.engine.batching import Batching
from smalti.serve import stage
from smalti.serve.guard import Keys, Rules
from smalti.serve.orders import order_of
from smalti.serve.state import Options
from smalti.serve.turnstile import Turnstile


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)


def test_models(client):
    (model,) = client.models.list()
    assert model.id == "llamagen" and client.models.retrieve("llamagen").object == "model"
    with pytest.raises(openai.NotFoundError, match="no model 'other', but llamagen") as refused:
        client.models.retrieve("other")
    assert refused.value.code == "model_not_found" and refused.value.param == "model"


def test_pictures_are_those_that_the_pipeline_draws(client, server):
    pipe = server.state.shared[0].pipeline
    answer = client.images.generate(prompt="3", n=4, extra_body={"seed": 7, "guidance": 2.0})
    expected = pipe(classes=[3], n=4, seed=7, guidance=2.0)
    assert len(answer.data) == 4 and answer.size == "16x16" and answer.output_format == "png"
    for datum, image in zip(answer.data, expected, strict=True):
        found = opened(datum.b64_json)
        assert np.array_equal(np.asarray(found), np.asarray(image))
        assert datum.smalti == image.info["smalti"] and datum.seed == 7
    assert answer.usage.output_tokens == 4 * pipe.model.spec.positions


def test_a_seed_and_a_class_for_each_picture(client, server):
    pipe = server.state.shared[0].pipeline
    answer = client.images.generate(prompt="", extra_body={"seed": [5, 9], "class": [3, "2"]})
    expected = [pipe(classes=[c], seed=seed)[0] for c, seed in ((3, 5), (2, 9))]
    for datum, image in zip(answer.data, expected, strict=True):
        assert np.array_equal(np.asarray(opened(datum.b64_json)), np.asarray(image))
        assert datum.smalti == image.info["smalti"]
    for name, value in (("seed", [1, 2, 3]), ("class", [1]), ("seed", [1, "x"]), ("seed", [])):
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="0", n=2, extra_body={name: value})
        assert refused.value.param == name
    with pytest.raises(openai.BadRequestError, match="seed must be a whole number"):
        client.images.create_variation(
            image=png(Image.new("RGB", (16, 16))), n=2, extra_body={"seed": "[1, 2]"}
        )


def test_other_sizes_are_resampled_where_that_is_wanted(serve, picture):
    """Of what is drawn at the model's own size, as it says."""
    server = serve("llamagen", options=Options(fit=True))
    client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
    more = {"prompt": "1", "extra_body": {"seed": 5}}
    whole = opened(client.images.generate(**more).data[0].b64_json)
    answer = client.images.generate(size="512x256", **more)
    found = opened(answer.data[0].b64_json)
    assert found.size == (512, 256) and answer.size == "512x256"
    assert np.array_equal(np.asarray(found), np.asarray(ImageOps.fit(whole, (512, 256))))
    assert answer.data[0].smalti == json.loads(found.text["smalti"]) | {"resampled": "16x16"}
    *_, last = client.images.generate(size="512x256", stream=True, partial_images=1, **more)
    assert last.b64_json == answer.data[0].b64_json and last.size == "512x256"
    wide = client.images.edit(
        image=png(picture), prompt="1", size="64x32", extra_body={"extend": "left=8"}
    )
    assert opened(wide.data[0].b64_json).size == (64, 32)
    with pytest.raises(openai.BadRequestError, match="size is auto or 16x16"):
        client.images.generate(size="4096x4096", **more)


def test_a_class_by_name_and_the_names_of_openais_models(client):
    one = client.images.generate(prompt="class: 2", model="gpt-image-2", extra_body={"seed": 1})
    other = client.images.generate(prompt="whatever", extra_body={"seed": 1, "class": 2})
    assert one.data[0].b64_json == other.data[0].b64_json


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_other_formats(client, form):
    small, large = (
        client.images.generate(
            prompt="0", output_format=form, output_compression=quality, extra_body={"seed": 1}
        )
        for quality in (5, 100)
    )
    assert (
        opened(small.data[0].b64_json).format
        == form.upper()
        == opened(large.data[0].b64_json).format
    )
    assert len(small.data[0].b64_json) < len(large.data[0].b64_json)


def test_an_address_in_place_of_a_picture(client, server):
    answer = client.images.generate(prompt="0", response_format="url", extra_body={"seed": 1})
    path = answer.data[0].url.partition(f":{server.port}")[2]
    status, headers, data = server.ask("GET", path)
    assert status == 200 and headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(data)).info["smalti"]
    assert server.error("GET", path + "x")[0] == 404


@pytest.mark.parametrize("partials", [0, 1, 3])
def test_a_stream_shows_the_picture_on_its_way(client, partials):
    more = {"extra_body": {"seed": 5}}
    *shown, last = client.images.generate(prompt="1", stream=True, partial_images=partials, **more)
    assert [e.type for e in shown] == ["image_generation.partial_image"] * partials
    assert [e.partial_image_index for e in shown] == list(range(partials))
    assert last.type == "image_generation.completed" and last.usage.output_tokens == 16
    whole = client.images.generate(prompt="1", **more).data[0].b64_json
    assert last.b64_json == whole and all(e.b64_json != whole for e in shown)
    for event in (*shown, last):
        assert event.size == "16x16" and event.output_format == "png" and event.created_at


@pytest.mark.parametrize(("every", "count"), [(1, 15), (4, 3), (5, 3), (8, 1), (16, 0), (99, 0)])
def test_pictures_on_the_way_may_be_asked_for_by_steps(client, every, count):
    more = {"seed": 5, "preview_every": every}
    *shown, last = client.images.generate(prompt="1", stream=True, extra_body=more)
    assert last.type == "image_generation.completed" and len(shown) == count


def test_a_stream_of_several_says_which_is_which(client):
    events = list(client.images.generate(prompt="1", n=3, stream=True, extra_body={"seed": 5}))
    assert sorted(e.index for e in events) == [0, 1, 2]
    together = client.images.generate(prompt="1", n=3, extra_body={"seed": 5})
    for event in events:
        assert event.b64_json == together.data[event.index].b64_json


def left_half(size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = 255
    return mask


@pytest.mark.parametrize("kind", ["white", "transparent", "in the picture", "list"])
def test_an_edit_paints_the_mask_whatever_marks_it(client, server, picture, kind):
    """What is kept stays as it is; the left half is painted."""
    half = left_half(picture.size)
    white = Image.fromarray(half)
    clear = picture.copy()
    clear.putalpha(Image.fromarray(255 - half))
    given = {
        "white": {"image": png(picture), "mask": png(white)},
        "transparent": {"image": png(picture), "mask": png(clear)},
        "in the picture": {"image": png(clear)},
        "list": {"image": [("a.png", png(picture))], "mask": ("b.png", png(white))},
    }[kind]
    more = {"extra_body": {"seed": 3, "keep_pixels": True}}
    answer = client.images.edit(prompt="1", n=2, **given, **more)
    pipe = server.state.shared[0].pipeline
    base = clear.convert("RGB") if kind == "in the picture" else picture
    expected = pipe.edit(
        clear if kind == "in the picture" else picture,
        clear if "t" in kind and kind != "white" and kind != "list" else white,
        classes=[1], n=2, seed=3, keep_pixels=True,
    )  # fmt: skip
    for datum, image in zip(answer.data, expected, strict=True):
        found = np.asarray(opened(datum.b64_json))
        assert np.array_equal(found, np.asarray(image))
        assert np.array_equal(found[:, 8:], np.asarray(base)[:, 8:])


def test_an_edit_is_streamed_and_extended(client, picture):
    mask = png(Image.fromarray(left_half(picture.size)))
    *shown, last = client.images.edit(
        image=png(picture), mask=mask, prompt="1", stream=True, partial_images=2
    )
    assert {e.type for e in shown} <= {"image_edit.partial_image"} and shown
    assert last.type == "image_edit.completed"
    wide = client.images.edit(image=png(picture), prompt="1", extra_body={"extend": "left=8"})
    assert opened(wide.data[0].b64_json).size == (24, 16)


def test_variations_share_codes(client, picture):
    near, far = (
        client.images.create_variation(
            image=png(picture), n=2, extra_body={"seed": 1, "strength": strength}
        )
        for strength in (0.1, 0.9)
    )
    assert len({datum.b64_json for answer in (near, far) for datum in answer.data}) == 4


def test_what_a_client_is_told_of_a_mistake(client, picture):
    mistakes = [
        ({"prompt": "nothing"}, "class must be one of", "prompt"),
        ({"prompt": "0", "size": "99x16"}, "size is auto or 16x16", "size"),
        ({"prompt": "0", "size": "99996x99996"}, "up to 4 times its pixels", "size"),
        ({"prompt": "0", "n": 11}, "n must be a whole number from 1 to 10", "n"),
        ({"prompt": "0", "output_format": "gif"}, "png, jpeg or webp", "output_format"),
        ({"prompt": "0", "background": "transparent"}, "opaque", "background"),
        ({"prompt": "0", "extra_body": {"guidence": 2}}, "did you mean 'guidance'", None),
        ({"prompt": "0", "extra_body": {"guidance": -1}}, "guidance", None),
        ({"prompt": "0", "extra_body": {"top_p": "x"}}, "top_p", None),
    ]
    for fields, why, param in mistakes:
        with pytest.raises(openai.BadRequestError, match=why) as refused:
            client.images.generate(**fields)
        assert refused.value.param == param, fields
        assert refused.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.BadRequestError, match="give a mask") as refused:
        client.images.edit(image=png(picture), prompt="0")
    assert refused.value.code == "mask_required"
    small = png(Image.new("L", (8, 16)))
    with pytest.raises(openai.BadRequestError, match="the mask is 8x16, the image 16x16"):
        client.images.edit(image=png(picture), mask=small, prompt="0")


def test_keys(serve):
    keys = Keys({hashlib.sha256(b"secret").hexdigest(): "anna"})
    server = serve("llamagen", rules=Rules(keys), options=Options(strict=True))
    wrong, right = (
        openai.OpenAI(base_url=server.url, api_key=k, max_retries=0) for k in ("x", "secret")
    )
    with pytest.raises(openai.AuthenticationError) as refused:
        wrong.images.generate(prompt="0")
    assert refused.value.code == "invalid_api_key"
    assert right.images.generate(prompt="0").data
    with pytest.raises(openai.NotFoundError):
        right.images.generate(prompt="0", model="gpt-image-2")
    answer = right.images.generate(prompt="0", response_format="url")
    path = answer.data[0].url.partition(f":{server.port}")[2]
    assert server.ask("GET", path)[0] == 200  # as browsers ask, who send no key along
    assert server.error("GET", "/v1/images/other")[0] == 404
    assert server.error("POST", "/v1/images/generations", {"prompt": "0"})[0] == 401
    status, _, _ = server.ask("GET", "/v1/models", api_key="secret")
    assert status == 200
    server.ask("GET", "/v1/models", api_key="secret", x_request_id="by-anna")
    assert server.logged("by-anna")["client"] == "anna"


def test_a_full_queue_is_asked_again(serve):
    """The client tries three times; how long it is to wait it is told."""
    server = serve("llamagen", queue=1, slots=1)
    batching = server.state.shared[0].batching
    held, go = threading.Event(), threading.Event()
    batching.call(lambda: (held.set(), go.wait(20)))
    assert held.wait(5)
    waiting = threading.Thread(target=lambda: server.generate())
    waiting.start()
    while not batching.waiting:
        pass
    client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=2)
    with pytest.raises(openai.RateLimitError) as refused:
        client.images.generate(prompt="0", timeout=20)
    assert refused.value.code == "queue_full"
    assert int(refused.value.response.headers["retry-after"]) >= 1
    tries = lambda: sum(line["status"] == 429 for line in server.lines)  # noqa: E731
    for _ in range(200):  # a line is written when its answer has been sent
        if tries() == 3:
            break
        threading.Event().wait(0.01)
    assert tries() == 3
    assert not server.state.ready
    body = {"image": base64.b64encode(png(Image.new("RGB", (16, 16)))).decode(), "prompt": "0"}
    for stream in (False, True):  # before its picture is encoded, and its answer begins
        edit = body | {"extend": "left=8", "stream": stream}
        status, headers, text = server.ask("POST", "/v1/images/edits", edit)
        assert status == 429 and b"queue_full" in text and headers["retry-after"]
    counted = server.ask("GET", "/metrics")[2].decode()
    assert 'smalti_pictures_total{outcome="rejected",pipeline="llamagen"} 5.0' in counted
    go.set()
    waiting.join()
    assert server.state.ready


def test_what_takes_longer_than_a_client_waits_is_not_begun(serve, monkeypatch):
    """Where pictures are drawn; of the first one nobody knows how long it takes."""
    server = serve("llamagen")
    server.state.shared[0].batching._seconds = 2.0
    draw = lambda seconds: server.ask(  # noqa: E731
        "POST", "/v1/images/generations", {"prompt": "0"}, x_request_timeout=seconds
    )
    with monkeypatch.context() as patch:
        patch.setattr(Batching, "drawing", property(lambda batching: 1))
        status, headers, text = draw("0.5")
    assert status == 429 and b"x-request-timeout is 0.5" in text and headers["retry-after"]
    for seconds in ("0.5", "600", "soon"):
        status, headers, _ = draw(seconds)
        assert status == 200
        assert [one.split(";dur=")[0] for one in headers["server-timing"].split(", ")] == [
            "queue", "draw", "decode",
        ]  # fmt: skip


def test_places_are_given_back_where_no_thread_begins(serve, picture, monkeypatch):
    def thread(**given):
        raise RuntimeError("can't start new thread")

    server, image = serve("llamagen"), base64.b64encode(png(picture)).decode()
    room = server.state.shared[0].batching.room
    with monkeypatch.context() as patch:
        lock = threading.Lock
        patch.setattr(stage, "threading", SimpleNamespace(Thread=thread, Lock=lock))
        body = {"image": image, "prompt": "0", "extend": "left=8"}
        assert server.ask("POST", "/v1/images/edits", body)[0] == 500
    assert server.state.shared[0].batching.room == room
    turnstile = Turnstile(1, 1, 5.0)
    turnstile.drop(turnstile.enter())
    with turnstile.place(threading.Event()):
        assert turnstile.waiting == 0


def test_each_picture_has_one_outcome(serve):
    server = serve("llamagen").state
    order = order_of({"prompt": "0", "n": 3}, server.shared[0].pipeline)

    async def begun():
        return stage.Stage(server, server.shared[0], order, "")

    one = asyncio.run(begun())
    one.count("done", 1)
    one.count("failed", 2)  # of which a client read one
    one.leave()
    found = re.findall(r'pictures_total{outcome="(.*)",.*} (.*)', server.metrics.text().decode())
    assert {name: float(count) for name, count in found if float(count)} == {"done": 1, "failed": 2}


def test_what_is_counted(serve, picture):
    server = serve("llamagen")
    server.generate(n=2)
    image = base64.b64encode(png(picture)).decode()
    body = {"image": image, "prompt": "0", "extend": "left=8"}
    assert server.ask("POST", "/v1/images/edits", body)[0] == 200
    server.logged(server.ask("GET", "/v1/models")[1]["x-request-id"])
    for _ in range(100):  # it is counted when the answer is on its way
        counted = server.ask("GET", "/metrics")[2].decode()
        if 'encode_seconds_count{pipeline="llamagen"} 1.0' in counted:
            break
        time.sleep(0.01)
    steps = server.state.shared[0].batching.counts.passes
    for line in (
        'smalti_pictures_total{outcome="done",pipeline="llamagen"} 3.0',
        f'smalti_steps_total{{pipeline="llamagen"}} {float(steps)}',
        'smalti_previews_total{outcome="shown",pipeline="llamagen"} 0.0',
        'smalti_request_seconds_count{route="/v1/images/generations"} 1.0',
        'smalti_encode_seconds_count{pipeline="llamagen"} 1.0',
    ):
        assert line in counted, line


def test_more_than_the_queue_ever_takes_cannot_be(serve):
    server = serve("llamagen", queue=1, slots=1)
    client = openai.OpenAI(base_url=server.url, api_key="any")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="2 pictures at once; at most 1 may wait"):
            client.images.generate(prompt="0", n=2, stream=stream, timeout=20)


def test_closing_a_stream_gives_the_picture_up(serve):
    server = serve("llamagen", slots=1)
    batching = server.state.shared[0].batching
    turn = batching.running.step

    def slow():
        time.sleep(0.05)
        return turn()

    batching.running.step = slow
    client = openai.OpenAI(base_url=server.url, api_key="any")
    stream = client.images.generate(prompt="0", n=3, stream=True, partial_images=3)
    next(iter(stream))
    stream.close()
    for _ in range(100):
        if batching.counts.cancelled == 3:
            break
        threading.Event().wait(0.05)
    assert batching.counts.cancelled == 3 and batching.counts.done == 0
    counted = server.ask("GET", "/metrics")[2].decode()
    assert 'smalti_pictures_total{outcome="cancelled",pipeline="llamagen"} 3.0' in counted
    assert base64.b64decode(server.generate()[0]["b64_json"])  # it draws on


@pytest.mark.parametrize("name", ["llamagen-text", "var", "maskgit", "mar", "rq_transformer"])
def test_every_kind_of_model_is_served(serve, name):
    """The same pictures as the pipeline draws, but for a code that rounding decides; and a part of
    them on the way."""
    server = serve(name)
    pipe = server.state.shared[0].pipeline
    client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
    given = {"text": ["a red heart"]} if pipe.text is not None else {"classes": [1]}
    prompt = given["text"][0] if pipe.text is not None else "1"
    expected = pipe(n=3, seed=2, guidance=2.0, **given)
    more = {"extra_body": {"seed": 2, "guidance": 2.0}}
    answer = client.images.generate(prompt=prompt, n=3, **more)
    found = [np.asarray(opened(datum.b64_json)) for datum in answer.data]
    near = [
        np.abs(a - np.asarray(b, float)).mean() < 2 for a, b in zip(found, expected, strict=True)
    ]
    assert all(near)
    *_, last = client.images.generate(prompt=prompt, stream=True, partial_images=2, **more)
    assert last.type == "image_generation.completed"
    if pipe.text is not None:
        assert answer.usage.input_tokens == pipe.text.count(prompt)
        with pytest.raises(openai.BadRequestError, match="prompt is missing"):
            client.images.generate(prompt=openai.omit, extra_body={"n": 1})


def test_the_example_shows_pictures_in_a_terminal(server, tmp_path, capsys):
    path = Path(__file__).parents[2] / "examples" / "client.py"
    spec = importlib.util.spec_from_file_location("example_client", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    files = [tmp_path / "drawn.png", tmp_path / "edited.png"]
    common = ["--server", server.url, "--width", "16", "--out"]
    example.main(["1", *common, str(files[0]), "--seed", "5"])
    shown = capsys.readouterr().out
    assert shown.count("\x1b[8A") == 3 and shown.count(example.UPPER) == 4 * 16 * 8
    example.main(
        ["2", *common, str(files[1]), "--edit", str(files[0]), "--box", "0.5", "0", "1", "1"]
    )
    drawn, edited = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    assert np.array_equal(drawn[:, :8], edited[:, :8]) and (drawn[:, 8:] != edited[:, 8:]).any()

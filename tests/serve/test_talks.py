"""Conversations over HTTP by OpenAI's own client, and pictures of a model that talks."""

import base64
import io
import threading

import numpy as np
import openai
import pytest
from PIL import Image

from servers import Running, opened, png
from smalti.engine.batching import Stopped
from smalti.engine.waiting import Full
from smalti.pipeline.conversation import Turn
from smalti.pipeline.unified import Said
from smalti.serve.app import make_app
from smalti.serve.shared import Limits
from smalti.serve.state import Server
from smalti.serve.talker import Talker
from smalti.serve.turnstile import Turnstile
from unified_pipelines import made


@pytest.fixture(scope="module")
def talker():
    return Talker("talks", made("one_vocabulary"), Limits(slots=2, queue=1))


@pytest.fixture(scope="module")
def server(talker):
    state = Server([talker])
    running = Running(state, make_app(state))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)


def data_of(image: Image.Image) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def ask(client, content, **more):
    given = {"model": "talks", "max_tokens": 12, "seed": 4, "extra_body": {"pictures": 1}}
    return client.chat.completions.create(
        messages=[{"role": "user", "content": content}], **given | more
    )


def test_a_reply_is_that_of_the_pipeline(client, talker, picture):
    content = [data_of(picture), {"type": "text", "text": "what is it?"}]
    (choice,) = ask(client, content, temperature=1.0).choices
    turns = [Turn("user", [picture, "what is it?"])]
    events = [
        e for e in talker.pipeline.chat(turns, seed=4, words=12, text_temperature=1.0) if e.whole
    ]
    texts = [e.text.strip() for e in events if isinstance(e, Said)]
    assert choice.message.content == "\n".join(t for t in texts if t)
    images = [e.image for e in events if not isinstance(e, Said)]
    found = getattr(choice.message, "images", None) or []
    assert len(found) == len(images)
    for part, image in zip(found, images, strict=True):
        url = part["image_url"]["url"] if isinstance(part, dict) else part.image_url["url"]
        data = base64.b64decode(url.partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))


def test_a_reply_is_streamed(client):
    whole = ask(client, "draw", temperature=1.0).choices[0].message.content
    chunks = list(ask(client, "draw", temperature=1.0, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert "".join(text.split()) == "".join(whole.split())
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[0].object.endswith("chunk")


def test_pictures_of_a_text(client, talker):
    more = {"extra_body": {"seed": 3}}
    answer = client.images.generate(prompt="a red heart", n=2, **more)
    for datum, image in zip(answer.data, talker.pipeline("a red heart", n=2, seed=3), strict=True):
        assert np.array_equal(np.asarray(opened(datum.b64_json)), np.asarray(image))
        assert datum.smalti == image.info["smalti"]
    *_, last = client.images.generate(prompt="a red heart", stream=True, partial_images=1, **more)
    assert last.b64_json == answer.data[0].b64_json


def test_mistakes(client, server, picture):
    bad = [
        ([], "missing"),
        ([{"role": "user"}, {"role": "assistant", "content": "x"}], "ends with what the user"),
        ([{"role": "cook", "content": "x"}], "must have a role"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "a part is a text or an image"),
        ([{"role": "user", "content": 5}], "must hold a text or a list"),
    ]
    for messages, why in bad:
        with pytest.raises(openai.BadRequestError, match=why):
            client.chat.completions.create(model="talks", messages=messages)
    http = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]
    for content, more, why in (
        (http, {}, "addresses are not fetched"),
        ("x", {"extra_body": {"nonsense": 1}}, "no setting here"),
        ("x", {"extra_body": {"pictures": 99}}, "pictures must be a whole number"),
        ("x", {"temperature": -1}, "temperature"),
        ("x" * 30_000, {}, "leaves no room for text"),
    ):
        with pytest.raises(openai.BadRequestError, match=why):
            ask(client, content, **more)
    with pytest.raises(openai.BadRequestError, match="changes pictures in a chat"):
        client.images.edit(image=png(picture), prompt="x")
    status, error = server.error("POST", "/v1/images/generations", {"prompt": "x", "size": "99x99"})
    assert (status, error["code"]) == (400, "unsupported_size")


def test_streams_take_turns_and_few_wait():
    turnstile, order = Turnstile(2, 1, 5.0), []
    go = threading.Event()

    def stream(name):
        def make():
            for i in range(3):
                order.append(name)
                yield i
                go.wait(5)

        return list(turnstile.stream(make, threading.Event()))

    threads = [threading.Thread(target=stream, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    while turnstile.drawing < 2 or turnstile.waiting < 1:
        pass
    with pytest.raises(Full):
        next(turnstile.stream(lambda: iter([1]), threading.Event()))
    go.set()
    for thread in threads:
        thread.join(10)
    assert sorted(order) == list("aaabbbccc") and turnstile.counts.done == 3
    before = order[: order.index("c")]
    assert before.count("a") == 3 or before.count("b") == 3  # a place was free
    gone = threading.Event()
    events = turnstile.stream(lambda: iter(range(9)), gone)
    next(events)
    gone.set()
    assert list(events) == [] and turnstile.counts.cancelled == 1 and turnstile.drawing == 0
    turnstile.stop()
    with pytest.raises(Stopped):
        next(turnstile.stream(lambda: iter([1]), threading.Event()))

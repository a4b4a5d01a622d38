"""Conversations over HTTP by OpenAI's own client, and pictures of a model that talks."""

import asyncio
import base64
import io
import threading
from dataclasses import replace

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from servers import Running, opened, png
from smalti.engine.batching import Stopped
from smalti.engine.waiting import Full
from smalti.pipeline.conversation import Turn
from smalti.pipeline.unified import Said, Wish
from smalti.serve import talks
from smalti.serve.app import make_app
from smalti.serve.guard import Rules
from smalti.serve.shared import Gone, Limits
from smalti.serve.state import Options, Server
from smalti.serve.talker import Talker
from smalti.serve.talks import Reply, turns_of
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


CHAT = "/v1/chat/completions"


def data_of(image: Image.Image) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def ask(client, content, **more):
    given = {"model": "talks", "max_tokens": 12, "seed": 4, "extra_body": {"pictures": 1}}
    return client.chat.completions.create(
        messages=[{"role": "user", "content": content}], **given | more
    )


@pytest.mark.parametrize("failed", [None, ValueError("broken")])
def test_a_client_hears_of_the_end_when_its_place_is_free(monkeypatch, failed):
    order, done = list[object](), threading.Event()
    monkeypatch.setattr(Reply, "_tell", lambda self, what: (order.append(what), done.set()))

    def make(gone):
        if failed is not None:
            raise failed
        yield from ()

    async def ask() -> None:
        Reply(make, 0, 0, lambda: order.append("free"))

    asyncio.run(ask())
    assert done.wait(20) and order == ["free", failed]


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
    whole = ask(client, "draw", temperature=1.0, n=1).choices[0].message.content
    chunks = list(ask(client, "draw", temperature=1.0, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert "".join(text.split()) == "".join(whole.split())
    assert chunks[0].object.endswith("chunk")


def test_what_was_read_and_written_is_counted(client, talker, picture):
    content, more = (
        [data_of(picture), {"type": "text", "text": "what is it?"}],
        {"temperature": 1.0},
    )
    usage = ask(client, content, **more).usage
    turns, pipe = [Turn("user", [picture, "what is it?"])], talker.pipeline
    positions = pipe.model.spec.positions
    written = [
        event.ids if isinstance(event, Said) else positions
        for event in pipe.chat(turns, seed=4, words=12, text_temperature=1.0)
        if event.whole
    ]
    assert usage.completion_tokens == sum(written) > 0
    assert positions < usage.prompt_tokens < pipe.length
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    options = {"include_usage": True}
    *chunks, last = ask(client, content, stream=True, stream_options=options, **more)
    assert last.usage == usage and not last.choices
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_on_which_nothing_happens_says_that_it_lives(server, talker, monkeypatch):
    monkeypatch.setattr(talks, "KEEP_ALIVE", 0.1)
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 2}
    go = threading.Event()
    with talker.batching._turn():  # of somebody else
        threading.Timer(1.0, go.set).start()
        asked = threading.Thread(target=lambda: found.append(server.ask("POST", CHAT, body)))
        found = list[tuple]()
        asked.start()
        go.wait(5)
    asked.join(10)
    ((status, _, text),) = found
    assert status == 200 and b": keep-alive\n\n" in text and b"[DONE]" in text


@pytest.mark.parametrize("stops", [True, False])
def test_why_a_reply_ends_is_said(client, talker, monkeypatch, stops):
    """By an id that ends it, or because it may have no more words."""
    model, logits = talker.pipeline.model, talker.pipeline.model.logits
    (stop,) = model.marks.stops

    def biased(h):
        found = logits(h).clone()
        found[..., stop] += 1e4 if stops else -1e4
        return found

    monkeypatch.setattr(model, "logits", biased)
    expected = "stop" if stops else "length"
    more = {"extra_body": {"pictures": 0}, "max_tokens": 3}
    assert ask(client, "hello", **more).choices[0].finish_reason == expected
    *_, last = ask(client, "hello", stream=True, **more)
    assert last.choices[0].finish_reason == expected


def test_pictures_of_a_text(client, talker):
    more = {"extra_body": {"seed": 3}}
    answer = client.images.generate(prompt="a red heart", n=2, **more)
    for datum, image in zip(answer.data, talker.pipeline("a red heart", n=2, seed=3), strict=True):
        assert np.array_equal(np.asarray(opened(datum.b64_json)), np.asarray(image))
        assert datum.smalti == image.info["smalti"]
    *_, last = client.images.generate(prompt="a red heart", stream=True, partial_images=1, **more)
    assert last.b64_json == answer.data[0].b64_json


def test_pictures_lead_away_from_a_negative_text(client, talker, picture):
    more = {"seed": 3, "negative": "a blue star", "guidance": 3.0}
    answer = client.images.generate(prompt="a red heart", n=2, extra_body=more)
    expected = talker.pipeline("a red heart", n=2, **more)
    assert np.array_equal(pixels(answer.data), pixels(expected))
    assert [datum.smalti for datum in answer.data] == [i.info["smalti"] for i in expected]
    plain = talker.pipeline("a red heart", n=2, seed=3, guidance=3.0)
    assert not np.array_equal(pixels(plain), pixels(expected))
    with pytest.raises(openai.BadRequestError, match="an instruction takes no negative text"):
        client.images.edit(image=png(picture), prompt="make it blue", extra_body=more)


def test_an_instruction_may_lead_away_from_nothing(client, picture):
    plain, empty = (
        client.images.edit(image=png(picture), prompt="make it blue", extra_body={"seed": 3} | none)
        for none in ({}, {"negative": ""})
    )
    assert plain.data[0].b64_json == empty.data[0].b64_json


def test_no_conversation_begins_while_the_server_stops(client, server):
    server.state.draining = True
    try:
        with pytest.raises(openai.InternalServerError, match="being stopped"):
            ask(client, "hello")
    finally:
        server.state.draining = False
    assert ask(client, "hello").choices


def test_codes_without_places_are_shown_when_all_are_there(client, talker, monkeypatch):
    more = {"prompt": "a red heart", "extra_body": {"seed": 3}}
    (datum,) = client.images.generate(**more).data
    monkeypatch.setattr(talker.pipeline.tokenizer, "placed", False)
    (last,) = client.images.generate(stream=True, partial_images=3, **more)
    assert last.b64_json == datum.b64_json


def pixels(images) -> list[np.ndarray]:
    return [np.asarray(opened(i.b64_json) if hasattr(i, "b64_json") else i) for i in images]


def test_an_edit_by_an_instruction(client, talker, picture):
    more = {"prompt": "make it blue", "extra_body": {"seed": 3}}
    answer = client.images.edit(image=png(picture), n=2, **more)
    expected = talker.pipeline.instruct(picture, "make it blue", 2, seed=3)
    assert np.array_equal(pixels(answer.data), pixels(expected))
    assert [datum.smalti for datum in answer.data] == [i.info["smalti"] for i in expected]
    *shown, last = client.images.edit(image=png(picture), stream=True, partial_images=3, **more)
    assert [e.type for e in shown] == ["image_edit.partial_image"] * 3
    assert len({e.b64_json for e in shown}) == 3 and last.b64_json == answer.data[0].b64_json


def test_an_edit_keeps_what_the_mask_leaves(client, talker, picture):
    base = picture.resize(talker.pipeline.tokenizer.size[::-1])
    mask = Image.new("L", base.size)
    mask.paste(255, (0, 0, base.width // 2, base.height))
    more = {"seed": 3, "keep_pixels": True}
    files = {"image": png(base), "mask": png(mask)}
    answer = client.images.edit(**files, prompt="a star", n=2, extra_body=more)
    expected = talker.pipeline.edit(base, mask, text="a star", n=2, **more)
    assert np.array_equal(pixels(answer.data), pixels(expected))
    kept = slice(base.width // 2, None)
    assert np.array_equal(pixels(answer.data)[0][:, kept], np.asarray(base)[:, kept])
    near = client.images.create_variation(image=png(base), extra_body={"strength": 0.3})
    assert near.data[0].smalti["variation"] == {"strength": 0.3}


def test_mistakes(client, server, picture):
    bad = [
        ([], "missing"),
        ([{"role": "user"}, {"role": "assistant", "content": "x"}], "ends with what the user"),
        ([{"role": "cook", "content": "x"}], "must have a role"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "a part is a text or an image"),
        ([{"role": "user", "content": 5}], "must hold a text or a list"),
        ([{"role": "user", "content": "x", "images": 5}], "images must be a list of parts"),
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
        ("x", {"n": 3}, "n is 1: a conversation has one reply, got 3"),
        ("x", {"n": 0}, "n is 1"),
        ("x", {"stop": "y"}, "stop must be a number, got 'y'"),
        ("x" * 30_000, {}, "leaves no room for text"),
    ):
        with pytest.raises(openai.BadRequestError, match=why):
            ask(client, content, **more)
    for fields, why in (
        ({"prompt": openai.omit}, "prompt is missing"),
        ({"prompt": "x", "extra_body": {"keep_pixels": True}}, "keep_pixels needs a mask"),
        ({"prompt": "x", "mask": png(Image.new("L", (16, 16)))}, "mask is 16x16, the image"),
        ({"prompt": "x", "mask": png(Image.new("L", (24, 24)))}, "the mask covers nothing"),
        ({"prompt": "x", "stream": True, "extra_body": {"top_p": 7}}, "top_p"),
    ):
        with pytest.raises(openai.BadRequestError, match=why):
            client.images.edit(image=png(picture.resize((24, 24))), **fields)
    status, error = server.error("POST", "/v1/images/generations", {"prompt": "x", "size": "99x99"})
    assert (status, error["code"]) == (400, "unsupported_size")


def test_one_that_writes_sizes_is_asked_for_others(picture):
    pipe = made("emu3")
    pipe.phrases = replace(pipe.phrases, negative="a blue star")  # as a converted one has some
    state = Server([Talker("sizes", pipe)])
    server = Running(state, make_app(state))
    side, (height, width) = pipe.tokenizer.factor, pipe.tokenizer.size
    size = (height - side, width + side)
    try:
        client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
        more = {"size": f"{size[1]}x{size[0]}", "prompt": "a red heart"}
        *shown, last = client.images.generate(
            **more, extra_body={"seed": 3, "guidance": 3.0}, stream=True, partial_images=2
        )
        assert [opened(one.b64_json).size for one in (*shown, last)] == [size[::-1]] * 3
        (expected,) = pipe("a red heart", size=size, seed=3, guidance=3.0)
        assert np.array_equal(np.asarray(opened(last.b64_json)), np.asarray(expected))
        (model,) = client.models.list()
        assert model.smalti["draws_in_conversations"] == pipe.begins
        for asked in (f"{width + 1}x{height}", f"{width * 3}x{height * 3}"):
            with pytest.raises(openai.BadRequestError, match="another of up to 4 times its"):
                client.images.generate(**more | {"size": asked})
        told = client.images.edit(
            image=png(picture), prompt="draw", extra_body={"seed": 3, "guidance": 3.0}
        )
        (expected,) = pipe.instruct(picture, "draw", seed=3, guidance=3.0)
        assert np.array_equal(pixels(told.data)[0], np.asarray(expected))
        mask = Image.new("L", picture.size, 255)
        with pytest.raises(openai.BadRequestError, match="pictures are edited at size"):
            client.images.edit(image=png(picture), mask=png(mask), **more)
    finally:
        server.stop()


def test_one_that_reads_alone_is_told_of_and_draws_nothing(picture):
    reads = Talker("reads", made("flamingo"))
    state = Server([reads])
    server = Running(state, make_app(state))
    try:
        client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
        (model,) = client.models.list()
        assert model.smalti["size"] is None and model.smalti["codes"] == 0
        for ask in (
            lambda: client.images.generate(prompt="x", size="9x9"),
            lambda: client.images.edit(image=png(picture), prompt="x"),
        ):
            with pytest.raises(openai.BadRequestError, match="it draws none"):
                ask()
        assert client.chat.completions.create(
            model="reads", messages=[{"role": "user", "content": "x"}], max_tokens=2
        ).choices
    finally:
        server.stop()


def test_conversations_go_on_side_by_side(talker):
    """A pass of each in turn; one that has ended ends nothing for the others."""
    say = lambda text, **more: talker.chat(  # noqa: E731
        [Turn("user", [text])], 0, 4, {"words": 12, "text_temperature": 1.0} | more,
        threading.Event(),
    )  # fmt: skip
    alone = [
        list(say("a star", words=3)),
        list(say("draw")),
    ]  # the first ends first
    passes, shown = talker.batching.counts.passes, [list[Said](), list[Said]()]
    both = list(zip([say("a star", words=3), say("draw")], shown, strict=True))
    while both:
        for one in list(both):
            if (event := next(one[0], None)) is None:
                both.remove(one)
            else:
                one[1].append(event)
    assert shown == alone and len(shown[1]) > len(shown[0]) + 3
    assert talker.batching.counts.passes - passes == sum(map(len, shown)) + 2


def test_streams_share_a_thread_and_leave_it_as_it_was(talker, monkeypatch):
    """All compute in inference mode, whichever begins or ends first, and none leaves it on."""
    talker = Talker("three", talker.pipeline, Limits(slots=3))
    modes, write = list[bool](), type(talker.pipeline.words).write

    def noted(words, *args):
        modes.append(torch.is_inference_mode_enabled())
        return write(words, *args)

    monkeypatch.setattr(type(talker.pipeline.words), "write", noted)
    mode = lambda: talker.batching.call(torch.is_inference_mode_enabled)  # noqa: E731
    say = lambda gone, **how: talker.chat(  # noqa: E731
        [Turn("user", ["draw"])], 0, 4, {"words": 8, "text_temperature": 1.0} | how, gone
    )
    stay, go = threading.Event(), threading.Event()
    long, short, left = say(stay), say(stay, words=2), say(go)
    for one in (short, long, left):
        next(one)
    assert not mode()
    assert len(list(short)) < 4
    go.set()
    assert not list(left) and not mode()
    assert list(long) and all(modes) and not mode()


def test_a_pass_of_a_picture_is_a_turn(talker):
    pipe = talker.pipeline
    guest, before = talker.guest(), talker.batching.counts.passes
    (part,) = pipe.drawing(pipe.asked(text="a red heart"), seed=1).parts(1, 0, 1)
    codes = guest.drawn(part)
    assert talker.batching.counts.passes - before >= pipe.model.spec.positions
    assert codes.equal(pipe.drawn(part)) and guest.share == 1
    guest.leave()
    with pytest.raises(Gone):
        guest.drawn(part)
    told = list(pipe.paced(pipe.documents([["draw"]]), Wish("picture", False, 1)))
    assert told.count(None) >= pipe.model.spec.positions and told[-1].whole


def test_a_full_queue_is_said_before_an_answer_begins(client, talker):
    """A stream of 200 could not be asked for again."""
    tickets = [talker.batching.enter() for _ in range(3)]
    try:
        for ask_for in (
            lambda: ask(client, "hello", stream=True),
            lambda: client.images.generate(prompt="a red heart", stream=True),
        ):
            with pytest.raises(openai.RateLimitError) as refused:
                ask_for()
            assert refused.value.code == "queue_full"
            assert refused.value.response.headers["retry-after"]
    finally:
        for ticket in tickets:
            with talker.batching.place(threading.Event(), ticket):
                pass
    assert ask(client, "hello").choices and talker.batching.room == 3


def test_a_conversation_takes_a_place_of_its_client_until_it_ends():
    rules, state = Rules(share=1), Server([Talker("talks", made("one_vocabulary"))])
    state.hold(state.shared[0], "127.0.0.1", 1, 0)  # by another conversation, it seems
    own = Running(state, make_app(state, rules))
    try:
        narrow = openai.OpenAI(base_url=own.url, api_key="any", max_retries=0)
        with pytest.raises(openai.RateLimitError, match="1 of yours do"):
            ask(narrow, "a red heart")
        with pytest.raises(openai.RateLimitError, match="1 of yours do"):
            narrow.images.generate(prompt="a red heart")
        state.let_go("127.0.0.1", 1)
        for _ in range(2):
            assert ask(narrow, "a red heart").choices
            assert len(list(ask(narrow, "a red heart", stream=True))) > 1
            assert narrow.images.generate(prompt="a red heart").data
        with pytest.raises(openai.BadRequestError, match="at once, got 2"):
            narrow.images.generate(prompt="a red heart", n=2)
    finally:
        own.stop()
    for _ in range(200):  # a thread has a moment to end behind its last event
        if not state._held:
            break
        threading.Event().wait(0.01)
    assert not state._held


def test_few_pictures_are_sent_and_all_are_small_together(client, server, picture, monkeypatch):
    """Nothing is decoded of a request that is refused for anything else."""
    decoded, read = [], talks.picture
    monkeypatch.setattr(talks, "picture", lambda *a: decoded.append(a) or read(*a))
    one = data_of(picture)
    for content, more, why in (
        ([one] * 17, {}, "may bring 16 pictures, got 17"),
        ([one], {"extra_body": {"nonsense": 1}}, "no setting here"),
        ([one, {"type": "audio"}], {}, "a part is a text or an image"),
    ):
        with pytest.raises(openai.BadRequestError, match=why):
            ask(client, content, **more)
    assert not decoded
    area = picture.width * picture.height
    monkeypatch.setattr(server.state, "options", Options(pixels=area))
    assert ask(client, [one] * 2, extra_body={"pictures": 0}).choices
    with pytest.raises(openai.BadRequestError, match="pixels together") as refused:
        ask(client, [one] * 8)
    assert refused.value.code == "image_too_large" and len(decoded) == 2 + 5


def test_texts_that_follow_on_each_other_stay_apart():
    said = [{"type": "text", "text": "draw"}, {"type": "text", "text": "a heart"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]
    assert turns_of(messages) == [("user", ["Be brief. draw a heart"])]


def test_clients_take_turns_for_places():
    turnstile, order = Turnstile(1, 9, 30.0), []
    tickets = [turnstile.enter(client) for client in "aaaab"]
    tickets.insert(3, turnstile.enter("c"))

    def take(ticket):
        with turnstile.place(threading.Event(), ticket):
            order.append(ticket.client)

    with turnstile._changed:  # until all wait
        threads = [threading.Thread(target=take, args=(ticket,)) for ticket in tickets]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(10)
    assert "".join(order) == "abcaaa"


def test_a_device_that_computes_no_more_is_known(monkeypatch):
    turnstile, gone = Turnstile(1, 1, 5.0), threading.Event()

    def broken(*args, **more):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for dead in (False, True):
        if dead:
            monkeypatch.setattr("smalti.engine.running.torch.ones", broken)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            list(turnstile.stream(broken, gone))
        assert turnstile.broken == dead


def test_who_has_gone_waits_for_no_place():
    turnstile, gone = Turnstile(1, 1, 30.0), threading.Event()
    with turnstile.place(threading.Event()):
        gone.set()
        with pytest.raises(Gone), turnstile.place(gone):
            pass
        assert turnstile.waiting == 0 and turnstile.drawing == 1


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

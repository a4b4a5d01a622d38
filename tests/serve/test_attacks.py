"""What people send who mean no good, or do not know better: one line back, and the server draws
on."""

import base64
import hashlib
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from servers import opened, png
from smalti.data.decode import to_rgb
from smalti.serve.errors import Refused
from smalti.serve.guard import Guard, Keys, Rules
from smalti.serve.state import Options
from smalti.serve.uploads import picture as uploaded

EDITS = "/v1/images/edits"
DRAW = "/v1/images/generations"


@pytest.fixture(autouse=True)
def draws_on(server):
    """After each attack the same seed gives the same picture."""
    before = server.generate(seed=1)
    yield
    assert server.generate(seed=1) == before


def until(true: Callable[[], bool]) -> None:
    """Wait for what comes soon."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def form(**parts: str | bytes | tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its type; texts are fields, bytes are files."""
    body, mark = io.BytesIO(), "mark"
    for name, value in parts.items():
        name, file = name.rstrip("_"), ""
        if isinstance(value, tuple):
            name, value = value
        if isinstance(value, bytes):
            file = '; filename="upload"'
        body.write(
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        )
        body.write(value.encode() if isinstance(value, str) else value)
        body.write(b"\r\n")
    body.write(f"--{mark}--\r\n".encode())
    return body.getvalue(), f"multipart/form-data; boundary={mark}"


def edited(server, **parts) -> tuple[int, dict]:
    body, kind = form(**parts)
    return server.error("POST", EDITS, body, content_type=kind)


BODIES = {
    "nothing": b"",
    "no JSON": b"{prompt",
    "a list": b"[1]",
    "a number": b"1",
    "deep": b"[" * 100_000,
    "half a letter": b'{"prompt": "\xff"}',
    "twice as much": b'{"prompt": "0"} {"prompt": "0"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_object(server, name):
    status, error = server.error("POST", DRAW, BODIES[name], content_type="application/json")
    assert (status, error["code"]) == (400, "invalid_json")


FIELDS = [
    {},
    {"prompt": None},
    {"prompt": 5.5},
    {"prompt": ["0"]},
    {"prompt": True},
    {"prompt": "0" * 40_000},
    {"prompt": "\ud800"},
    {"prompt": "0\0"},
    {"prompt": "-1"},
    {"prompt": "99999999999999999999"},
    *({"prompt": "0", "n": n} for n in (0, -1, 1e9, 1.5, "x", True, [1], {})),
    *(
        {"prompt": "0", "size": s}
        for s in ("0x0", "x", "٣x٣", "16x16x16", 5, [16, 16], "-1x5", "1e3x5")
    ),
    *({"prompt": "0", "seed": s} for s in (2**70, -(2**70), 1.5, "x", True)),
    *({"prompt": "0", "first": s} for s in (-1, 2**40)),
    *({"prompt": "0", "guidance": g} for g in (-1, "x", [1], {}, 1e400, True)),
    *({"prompt": "0", "temperature": t} for t in (-1, "hot", float("nan"), float("inf"))),
    *({"prompt": "0", "top_k": k} for k in (-1, 1.5, "x", [[1]], {"a": 1})),
    *({"prompt": "0", "top_p": p} for p in (0, 2, "x", [])),
    *({"prompt": "0", "scales": s} for s in ("x", 5, [[]], ["a"])),
    *({"prompt": "0", "schedule": s} for s in ("never", 5, [])),
    *({"prompt": "0", "order": s} for s in ("never", 5, [])),
    {"prompt": "0", "steps": 3},
    {"prompt": "0", "stream": "perhaps"},
    {"prompt": "0", "stream": True, "partial_images": 4},
    {"prompt": "0", "stream": True, "preview_every": -1},
    {"prompt": "0", "stream": True, "preview_every": 4, "partial_images": 1},
    {"prompt": "0", "output_format": "svg"},
    {"prompt": "0", "output_compression": 101},
    {"prompt": "0", "response_format": "file"},
    {"prompt": "0", "model": {"a": 1}},
    {"prompt": "0", "__class__": 1},
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: json.dumps(fields)[:40])
def test_fields_that_cannot_be(server, fields):
    body = json.dumps(fields).encode("utf-8", "surrogatepass")
    status, error = server.error("POST", DRAW, body, content_type="application/json")
    assert status in (400, 404), error
    assert error["message"] and "Traceback" not in error["message"] and "\n" not in error["message"]


def bomb() -> bytes:
    """A PNG of some bytes that says it has 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def test_pictures_that_are_none(server, picture):
    whole = png(picture)
    gif = io.BytesIO()
    picture.save(gif, "GIF")
    for data, code in (
        (b"", "image_unreadable"),
        (b"GIF89a", "image_unreadable"),
        (gif.getvalue(), "image_unreadable"),
        (whole[: len(whole) // 2], "image_unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image_unreadable"),
        (bomb(), "image_too_large"),
    ):
        assert edited(server, image=data, mask=whole, prompt="0")[1]["code"] == code
        assert edited(server, image=whole, mask=data, prompt="0")[1]["param"] == "mask"
    status, error = edited(server, image="http://127.0.0.1/x.png", mask=whole, prompt="0")
    assert status == 400 and "not fetched" in error["message"]


def test_pictures_of_more_pixels_than_allowed(serve, picture):
    small = png(picture.resize((5, 5)))
    assert uploaded(small, "image", most=25).size == (5, 5)
    with pytest.raises(Refused, match="image may have 24 pixels"):
        uploaded(small, "image", most=24)
    server = serve("llamagen", options=Options(pixels=16 * 16 - 1))
    status, error = edited(server, image=png(picture), mask=small, prompt="0")
    assert (status, error["code"], error["param"]) == (400, "image_too_large", "image")


def test_forms_that_cannot_be(server, picture):
    whole = png(picture)
    assert edited(server, prompt="0")[1]["code"] == "missing_required_parameter"
    twice = {"image_": ("image[]", whole), "image__": ("image[]", whole)}
    assert "given twice" in edited(server, prompt="0", **twice)[1]["message"]
    many = {f"field{i}": "x" for i in range(200)}
    assert edited(server, image=whole, **many)[0] == 400
    files = {f"file{i}": whole for i in range(9)}
    assert edited(server, **files)[0] == 400
    assert edited(server, image=whole, extend="left=999999999")[0] == 400
    assert edited(server, image=whole, extend="{left")[0] == 400
    assert edited(server, image=whole, extend='{"left":' * 500 + "1" + "}" * 500)[0] == 400
    assert edited(server, image=whole, extend="left=8", guidance="[" * 4000)[0] == 400
    assert edited(server, image=whole, extend="left=8", keep_pixels="perhaps")[0] == 400
    status, error = server.error("POST", EDITS, b"x", content_type="multipart/form-data")
    assert status == 400, error
    assert server.error("POST", DRAW, b"x", content_type="text/plain")[0] == 415


def test_a_mask_is_never_left_out(server, picture):
    """By another name, on a route that takes none, or as what is no picture."""
    whole, half = png(picture), picture.copy()
    half.putalpha(255)
    half.paste((0, 0, 0, 0), (0, 0, 8, 16))
    for name in ("mask_image", "markup", "extend"):
        status, error = edited(server, image=png(half), prompt="0", **{name: whole})
        assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    body, kind = form(image=whole, mask=whole, prompt="0")
    status, error = server.error("POST", "/v1/images/variations", body, content_type=kind)
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", "mask")
    image = base64.b64encode(png(half)).decode()
    for mask in ({"file_id": "file-1"}, {}, [None], [], {"image_url": None}, 5):
        status, error = server.error("POST", EDITS, {"image": image, "prompt": "0", "mask": mask})
        assert (status, error["param"]) == (400, "mask"), mask


def test_a_long_value_is_not_sent_back(server, picture):
    long = "x" * 3000
    for fields in ({"n": long}, {"size": long}, {"guidance": [long]}, {"prompt": long}, {long: 1}):
        status, error = server.error("POST", DRAW, {"prompt": "0"} | fields)
        assert status == 400 and len(error["message"]) < 1100, fields
    status, error = edited(server, image=png(picture), **{long: png(picture)})
    assert status == 400 and len(json.dumps(error)) < 2300


def test_a_photo_that_lies_on_its_side_fits_a_mask_of_what_is_seen(server, picture):
    photo, lying = io.BytesIO(), Image.Exif()
    lying[0x0112] = 6
    picture.resize((40, 30)).save(photo, "JPEG", exif=lying)
    mask = Image.new("L", (30, 40))
    mask.paste(255, (0, 0, 30, 12))
    body, kind = form(image=photo.getvalue(), mask=png(mask), prompt="0", seed="1")
    assert server.ask("POST", EDITS, body, content_type=kind)[0] == 200
    mask = mask.transpose(Image.Transpose.ROTATE_90)
    status, error = edited(server, image=photo.getvalue(), mask=png(mask), prompt="0")
    assert status == 400 and error["message"] == "the mask is 40x30, the image 30x40"


def test_an_animation_is_its_first_frame(server, picture):
    frames = io.BytesIO()
    other = Image.new("RGB", picture.size)
    picture.save(frames, "WEBP", save_all=True, append_images=[other, other], lossless=True)
    body, kind = form(image=frames.getvalue(), extend="left=8", prompt="0", seed="1")
    status, _, _ = server.ask("POST", EDITS, body, content_type=kind)
    assert status == 200


def kinds(picture: Image.Image) -> dict[str, Image.Image]:
    """A picture whose left half is transparent or, of 16 bits, that has none."""
    half = Image.new("L", picture.size, 255)
    half.paste(0, (0, 0, picture.width // 2, picture.height))
    grey, palette = picture.convert("L"), picture.quantize(4)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    places = palette.point(lambda place: place)
    places.info["transparency"] = palette.getpixel((0, 0))
    with_alpha = [image.copy() for image in (picture, grey)]
    for image in with_alpha:
        image.putalpha(half)
    return {"RGBA": with_alpha[0], "LA": with_alpha[1], "P": places, "I;16": deep}


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "I;16"])
def test_pictures_of_every_kind_are_edited(server, picture, kind):
    """Where something is transparent it is painted; where nothing can be, that is said."""
    image, mask = kinds(picture)[kind], kinds(picture)["RGBA"].getchannel("A")
    data, more = io.BytesIO(), {"prompt": "1", "seed": "3", "keep_pixels": "true"}
    image.save(data, "PNG", transparency=image.info.get("transparency"))
    clear = {} if kind != "I;16" else {"mask": png(mask.point(lambda a: 255 - a))}
    body, content = form(image=data.getvalue(), **clear, **more)
    status, _, text = server.ask("POST", EDITS, body, content_type=content)
    assert status == 200, text
    drawn = np.asarray(opened(json.loads(text)["data"][0]["b64_json"]))
    kept = np.asarray(to_rgb(image, "it"))[:, 8:]
    assert np.array_equal(drawn[:, 8:], kept)
    if kind == "I;16":
        assert edited(server, image=data.getvalue(), **more)[1]["code"] == "mask_required"
        assert uploaded(data.getvalue(), "image").format == "PNG"  # which says what 16 bits are
    deep = Image.fromarray(np.asarray(mask.point(lambda a: 255 - a)).astype(np.uint16) * 257)
    body, content = form(image=png(picture), mask=png(deep), **more)
    assert server.ask("POST", EDITS, body, content_type=content)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/../../etc/passwd",
        "/v1/images/%2e%2e%2fetc%2fpasswd",
        "/v1/images/%00",
        "/static/../app.py",
        "/v1/models/../../x",
        "/v1/models/%00",
        "/nothing",
        "//evil",
    ],
)
def test_paths_lead_nowhere(server, path):
    status, _, body = server.ask("GET", path)
    assert status == 404 and b"root:" not in body


def test_methods(server):
    status, error = server.error("DELETE", "/v1/models")
    assert (status, error["code"]) == (405, "method_not_allowed")


def test_pages_of_others_and_other_hosts(serve):
    rules = Rules(hosts=("127.0.0.1",), origins=("https://friend.example",))
    server = serve("llamagen", rules=rules)
    body = {"prompt": "0"}
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:80", "origin": "http://evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ):
        status, error = server.error("POST", DRAW, body, **headers)
        assert (status, error["code"]) == (403, "origin_not_allowed"), headers
    own = f"http://127.0.0.1:{server.port}"
    for origin in (own, "https://friend.example"):
        status, headers, _ = server.ask("POST", DRAW, body, origin=origin)
        assert status == 200
        assert headers.get("access-control-allow-origin") == (None if origin == own else origin)
    assert (
        server.ask("GET", "/v1/models", origin="https://evil.example")[1].get(
            "access-control-allow-origin"
        )
        is None
    )


def test_browsers_ask_before_they_call_from_another_page(serve):
    keys = Keys({hashlib.sha256(b"secret").hexdigest(): "me"})
    server = serve("llamagen", rules=Rules(keys, origins=("https://friend.example",)))
    asks = {"access_control_request_method": "POST", "access_control_request_headers": "x-a, b"}
    status, headers, _ = server.ask("OPTIONS", DRAW, origin="https://friend.example", **asks)
    assert status == 204 and headers["access-control-allow-origin"] == "https://friend.example"
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == asks["access_control_request_headers"]
    assert server.ask("OPTIONS", DRAW, origin="https://evil.example", **asks)[0] == 403
    assert server.ask("OPTIONS", DRAW, origin="https://friend.example")[0] == 401


def test_managers_ask_by_any_name(serve):
    server = serve("llamagen", rules=Rules(hosts=("pictures.example",)))
    for path in ("/health", "/ready"):
        assert server.ask("GET", path, host="127.0.0.1:8000")[0] == 200
    assert server.ask("GET", "/v1/models", host="127.0.0.1:8000")[0] == 403
    assert server.ask("GET", "/v1/models", host="pictures.example")[0] == 200


def test_more_bytes_than_allowed(serve):
    server = serve("llamagen", rules=Rules(body=10_000))
    status, error = server.error("POST", DRAW, b" " * 20_000, content_type="application/json")
    assert (status, error["code"]) == (413, "body_too_large")
    with socket.create_connection(("127.0.0.1", server.port), 10) as place:  # of unknown length
        head = f"POST {DRAW} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        place.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = b""
        for _ in range(20):
            try:
                place.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
            except OSError:  # it has hung up
                break
        while part := place.recv(4096):
            answer += part
            if b"body_too_large" in answer:
                break
        assert b"413" in answer.split(b"\r\n")[0]
    assert server.generate(seed=1)
    server = serve("llamagen")  # a prompt is short; an edit brings a picture
    long = {"prompt": "0", "user": "x" * (1 << 20)}
    assert server.error("POST", DRAW, long)[1]["code"] == "body_too_large"
    assert server.error("POST", EDITS, long)[1]["code"] == "missing_required_parameter"


def test_connections_that_do_nothing_are_closed(serve, monkeypatch):
    """No byte, half a head, half a body."""
    monkeypatch.setattr("smalti.serve.server.HEAD", 0.5)
    server = serve("llamagen", rules=Rules(idle=0.5))
    half = f"POST {DRAW} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Le"
    body = half + 'ngth: 99\r\n\r\n{"p'
    for sent, expected in ((b"", b""), (half.encode(), b""), (body.encode(), b"body_timeout")):
        with socket.create_connection(("127.0.0.1", server.port), 10) as place:
            place.sendall(sent)
            began, answer = time.monotonic(), b""
            place.settimeout(8)
            while part := place.recv(4096):
                answer += part
                if expected and expected in answer:
                    break
            assert time.monotonic() - began < 6 and expected in answer
    with socket.create_connection(("127.0.0.1", server.port), 10) as place:  # one that is kept
        place.settimeout(8)
        place.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"\r\n\r\n" not in place.recv(4096):
            pass
        place.sendall(half.encode())
        began = time.monotonic()
        while place.recv(4096):
            pass
        assert time.monotonic() - began < 6


def test_an_answer_that_nobody_reads_is_given_up(serve, monkeypatch):
    """A reader that is slow has its whole picture; one that stops is hung up on."""
    monkeypatch.setattr("smalti.serve.server.UNREAD", 0.5)
    monkeypatch.setattr("smalti.serve.server.TAKEN", 1 << 16)
    server = serve("llamagen")
    size = 24 << 20
    ask = f"GET /v1/images/{server.state.store.put(bytes(size), 'image/png')} HTTP/1.1\r\nHost: x"
    for stops in (False, True):
        with socket.socket() as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            place.settimeout(10)
            place.connect(("127.0.0.1", server.port))
            place.sendall(f"{ask}\r\n\r\n".encode())
            taken = 0
            while not stops and taken < size:
                if taken < 8 << 20:
                    time.sleep(0.01)
                taken += len(place.recv(1 << 16))
            if stops:
                time.sleep(2)
                with pytest.raises(ConnectionError):
                    while part := place.recv(1 << 16):
                        taken += len(part)
                    raise ConnectionError
            assert (taken < size) == stops


def test_probes_are_answered_however_many_requests_are_open(serve):
    server = serve("llamagen", rules=Rules(requests=0))
    assert server.ask("GET", "/v1/models")[0] == 429
    assert [server.ask("GET", path)[0] for path in ("/health", "/ready")] == [200, 200]


def test_a_server_whose_device_computes_no_more_is_not_well(serve):
    server = serve("llamagen")
    server.state.shared[0].batching.broken = True
    for path, said in (("/health", {"status": "broken"}), ("/ready", {"ready": False})):
        status, _, text = server.ask("GET", path)
        assert (status, json.loads(text)) == (503, said)
    assert not server.state.well  # which systemd and Ray ask


def test_a_client_that_asks_too_often(serve):
    server = serve("llamagen", rules=Rules(rate=3))
    found = [server.ask("GET", "/v1/models")[0] for _ in range(5)]
    assert found == [200, 200, 200, 429, 429]
    assert server.ask("GET", "/health")[0] == 200


def test_a_client_waits_until_as_many_requests_as_it_may_make_are_a_minute_old(monkeypatch):
    """Also if its rate was lowered since."""
    monkeypatch.setattr("smalti.serve.guard.time.monotonic", lambda: 1000.0)
    guard = Guard(None, Rules(rate=2), print)
    guard._recent["anna"] = deque([950.0, 960.0, 970.0, 995.0])
    with pytest.raises(Refused) as refused:
        guard._count("anna")
    assert refused.value.retry == 60 - (1000 - 970)


def test_keys_are_read_and_lines_that_are_none_are_named(tmp_path):
    path, key = tmp_path / "keys", "a" * 64
    path.write_text(f"# those who may\nanna:{key}\n\nben:{'b' * 64} rate=2  share=0\n")
    keys = Keys.read(path)
    assert keys.names == {key: "anna", "b" * 64: "ben"}
    rules = Rules(keys, rate=9, share=7)
    assert [rules.amount(kind, "anna") for kind in ("rate", "share")] == [9, 7]
    assert [rules.amount(kind, "ben") for kind in ("rate", "share")] == [2, 0]
    for text, why in (
        ("anna\n", "line 1: a key is like"),
        ("anna:\n", "line 1: a key is like"),
        ("# none\n", "holds no key"),
        (f"\nanna:{key} speed=3\n", r"line 2: behind a key may stand rate=N and share=N"),
        (f"anna:{key} rate=-1\n", "got 'rate=-1'"),
        (f"anna:{key} rate\n", "got 'rate'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            Keys.read(path)
        with pytest.raises(ValueError, match=why):
            keys.renew()
    assert keys.names == {key: "anna", "b" * 64: "ben"}  # as they were
    path.write_text(f"carl:{key}\n")
    keys.renew()
    assert keys.names == {key: "carl"} and rules.amount("rate", "ben") == 9


def test_a_client_has_its_share_of_what_waits(serve):
    named = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("anna", "ben", "carl")}
    amounts = {"ben": {"share": 3}, "carl": {"rate": 1, "share": 0}}
    server = serve("llamagen", rules=Rules(Keys(named, amounts), share=2), slots=1)
    batching, go = server.state.shared[0].batching, threading.Event()
    stuck = batching.call(lambda: go.wait(20))

    def draw(name: str, n: int = 1, **more: object) -> int:
        body = {"prompt": "1", "n": n, "seed": 1, **more}
        return server.ask("POST", DRAW, body, api_key=name)[0]

    assert draw("anna", 3) == 400  # however long it waits
    assert draw("anna", 2, guidance="much") == 400 and not server.state._held
    with ThreadPoolExecutor() as pool:
        begun = [pool.submit(draw, name, n) for name, n in (("anna", 1), ("ben", 3))]
        until(lambda: batching.waiting == 4)
        assert draw("anna", 2) == 429 and draw("ben") == 429
        begun.append(pool.submit(draw, "anna"))
        until(lambda: batching.waiting == 5)
        begun.append(pool.submit(draw, "carl", 9))
        until(lambda: batching.waiting == 14)
        assert draw("carl") == 429  # a second request in this minute
        go.set()
        assert [one.result() for one in begun] == [200] * 4
    stuck.result()
    assert not server.state._held and draw("anna", 2) == 200


def test_nothing_of_a_request_is_in_the_log(server):
    server.ask("POST", DRAW, {"prompt": "class:3", "seed": 5}, x_request_id="mine-1")
    line = server.logged("mine-1")
    assert set(line) == {"request", "client", "method", "path", "status", "seconds"}
    server.ask("GET", "/v1/models/a%0Ab%1B[2J", x_request_id="mine-2")
    assert server.logged("mine-2")["path"] == "/v1/models/a%0Ab%1B%5B2J"
    _, headers, _ = server.ask("GET", "/v1/models", x_request_id="a b<script>")
    assert headers["x-request-id"].startswith("req-")

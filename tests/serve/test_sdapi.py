"""What clients of AUTOMATIC1111's web UI send, in the order in which they send it."""

import base64
import hashlib
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from servers import Running, opened, png
from smalti.pipeline.pipeline import Pipeline
from smalti.serve.app import make_app
from smalti.serve.guard import Keys, Rules
from smalti.serve.sdbody import init_of
from smalti.serve.shared import Limits
from smalti.serve.state import Options, Server
from smalti.serve.talker import Talker
from unified_pipelines import made

SILLY = {  # as SillyTavern 1.13 sends it, the address of its user's web UI and all
    "url": "http://localhost:7860",
    "auth": "",
    "prompt": "1",
    "negative_prompt": "lowres, bad anatomy",
    "sampler_name": "smalti",
    "scheduler": "automatic",
    "steps": 20,
    "cfg_scale": 7,
    "width": 40,
    "height": 24,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "None",
    "hr_scale": 1,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


OTHER = {"sd_model_checkpoint": "x"}


class Client:
    def __init__(self, server: Running, auth: str = "") -> None:
        self.server, self.auth = server, auth

    def ask(self, route: str, body=None, method: str | None = None):
        method = method or ("GET" if body is None else "POST")
        status, _, text = self.server.ask(
            method, f"/sdapi/v1/{route}", body, authorization=self.auth
        )
        found = json.loads(text)
        assert status == 200, found
        return found

    def refused(self, route: str, body=None) -> tuple[int, dict]:
        method = "GET" if body is None else "POST"
        return self.server.error(method, f"/sdapi/v1/{route}", body, authorization=self.auth)


@pytest.fixture(scope="module")
def server(serve):
    return serve("llamagen", "maskgit", options=Options(sdapi=True), slots=4)


@pytest.fixture
def client(server):
    return Client(server)


def pipeline_of(server: Running, name: str = "llamagen") -> Pipeline:
    return server.state.find(name).pipeline


def own(server: Running) -> tuple[int, int]:
    height, width = pipeline_of(server).tokenizer.size
    return width, height


def sent(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


# -- sequences of clients


def test_silly_tavern(client, server):
    assert "sd_model_checkpoint" in client.ask("options")  # its ping
    assert [x["name"] for x in client.ask("samplers")] == ["smalti"]
    assert [x["name"] for x in client.ask("schedulers")] == ["automatic"]
    ups = [x["name"] for x in client.ask("upscalers")] + client.ask("latent-upscale-modes")
    assert ups == ["None"] and client.ask("sd-vae") == []
    assert [x["title"] for x in client.ask("sd-models")] == ["llamagen", "maskgit"]
    client.ask("options", {"sd_model_checkpoint": "llamagen"})
    idle = client.ask("progress")
    assert idle["progress"] == 0.0 and idle["state"]["job_count"] == 0  # what it waits for
    answer = client.ask("txt2img", SILLY)
    (image,) = map(opened, answer["images"])
    assert image.size == (40, 24) and image.format == "PNG"
    info = json.loads(answer["info"])
    assert info["smalti"]["drawn_at"] == "{}x{}".format(*own(server))
    assert info["smalti"]["left_out"] == ["steps", "negative_prompt"]
    assert "Drawn at" in info["infotexts"][0] and info["all_seeds"] == [info["seed"]]
    assert json.loads(image.info["smalti"])["guidance"] == 7.0
    assert client.ask("interrupt", method="POST") == {}


def test_a_model_that_is_none_leaves_the_one_that_was_chosen(client, server):
    client.ask("options", {"sd_model_checkpoint": "maskgit"})
    try:
        status, error = client.refused("options", {"sd_model_checkpoint": "nothing"})
        assert (status, error["code"]) == (404, "model_not_found")
        assert client.ask("options")["sd_model_checkpoint"] == "maskgit"
    finally:
        client.ask("options", {"sd_model_checkpoint": "llamagen"})


def test_open_webui(client, server):
    options = client.ask("options")
    assert options["sd_model_checkpoint"] == "llamagen"
    options["sd_model_checkpoint"] = "maskgit"
    client.ask("options", options)
    try:
        assert client.ask("options")["sd_model_checkpoint"] == "maskgit"
        body = {"prompt": "1", "batch_size": 2, "width": 512, "height": 512, "steps": 50}
        answer = client.ask("txt2img", body)
        first, second = map(opened, answer["images"])
        assert first.size == second.size == (512, 512)
        assert not np.array_equal(np.asarray(first), np.asarray(second))
        info = json.loads(answer["info"])
        positions = pipeline_of(server, "maskgit").model.spec.positions
        drawn = info["smalti"]["pictures"]
        assert [p["index"] for p in drawn] == [0, 1] and drawn[0]["steps"] == min(50, positions)
        assert info["sd_model_name"] == "maskgit" and info["smalti"]["left_out"] == []
    finally:
        client.ask("options", {"sd_model_checkpoint": "llamagen"})


def test_the_picture_is_that_of_the_pipeline(client, server):
    pipe = pipeline_of(server)
    body = {"prompt": "2", "seed": 7, "cfg_scale": 2.0, "n_iter": 2}
    answer = client.ask("txt2img", body)
    (a, b), expected = map(opened, answer["images"]), pipe([2], n=2, seed=7, guidance=2.0)
    assert all(np.array_equal(x, y) for x, y in zip((a, b), expected, strict=True))
    again = client.ask("txt2img", body | {"seed": json.loads(answer["info"])["seed"]})
    assert again["images"] == answer["images"]
    others = [client.ask("txt2img", body | {"seed": -1})["images"] for _ in range(2)]
    assert others[0] != others[1]


def test_a_choice_is_of_one_client_alone(serve):
    keys = Keys({hashlib.sha256(name.encode()).hexdigest(): name for name in ("ann", "bob")})
    server = serve("llamagen", "maskgit", rules=Rules(keys), options=Options(sdapi=True))
    basic = lambda text: "Basic " + base64.b64encode(text).decode()  # noqa: E731
    ann, bob = Client(server, basic(b"user:ann")), Client(server, "Bearer bob")
    ann.ask("options", {"sd_model_checkpoint": "maskgit"})
    assert ann.ask("options")["sd_model_checkpoint"] == "maskgit"
    assert bob.ask("options")["sd_model_checkpoint"] == "llamagen"
    for auth in ("", "Basic", "Basic !!", basic(b"ann"), basic(b"ann:"), basic(b"\xff:ann")):
        assert Client(server, auth).refused("options")[0] == 401


def test_a_model_of_text_and_pictures_draws_and_edits():
    state = Server([Talker("talks", made("one_vocabulary"), Limits())], Options(sdapi=True))
    server = Running(state, make_app(state))
    try:
        client = Client(server)
        answer = client.ask("txt2img", SILLY | {"prompt": "a red heart", "seed": 3})
        info = json.loads(answer["info"])
        assert [opened(i).size for i in answer["images"]] == [(40, 24)]
        assert info["smalti"]["left_out"] == ["steps"]
        assert info["smalti"]["pictures"][0]["negative"] == SILLY["negative_prompt"]
        for mask in ({}, {"mask": sent(Image.linear_gradient("L"))}):
            answer = client.ask("img2img", {"init_images": [sent(picture(30, 30))], **mask})
            assert [opened(i).size for i in answer["images"]] == [(30, 30)]
        assert client.ask("progress")["state"]["job_count"] == 0
    finally:
        server.stop()


# -- pictures that are brought


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("invert", [0, 1])
def test_a_mask_paints_what_is_white_and_inverted_what_is_black(client, invert):
    image, mask = picture(40, 48), Image.new("L", (40, 48), 0)
    mask.paste(255, (0, 0, 20, 48))  # the left half
    body = {"init_images": ["data:image/png;base64," + sent(image)], "mask": sent(mask)}
    body |= {"inpainting_mask_invert": invert, "mask_blur": 0, "prompt": "1", "seed": 1}
    answer = client.ask("img2img", body)
    changed = (np.asarray(opened(answer["images"][0])) != np.asarray(image)).any(2)
    assert changed.shape == (48, 40)
    kept, painted = np.split(changed, 2, axis=1)[:: -1 if not invert else 1]
    assert not kept.any() and painted[4:44].mean() > 0.5
    assert "mask" not in answer["parameters"] and answer["parameters"]["seed"] == 1


def test_without_a_mask_it_is_a_variation(client, server):
    image = picture(*own(server))
    body = {"init_images": [sent(image)], "denoising_strength": 0.4, "seed": 3, "batch_size": 2}
    answer = client.ask("img2img", body)
    about = json.loads(answer["info"])["smalti"]["pictures"]
    assert [a["variation"] for a in about] == [{"strength": 0.4}] * 2
    assert [opened(i).size for i in answer["images"]] == [image.size] * 2
    pipe = pipeline_of(server)
    seen = pipe.decode(pipe.encode(image)).permute(0, 2, 3, 1)[0].numpy()
    for strength, same in ((0.0, True), (1.0, False)):
        (one,) = client.ask("img2img", body | {"denoising_strength": strength, "batch_size": 1})[
            "images"
        ]
        assert np.array_equal(np.asarray(opened(one)), seen) == same


def test_what_is_opaque_in_a_mask_is_painted():
    mask = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 4, 8))
    found = init_of({"init_images": [sent(picture(8, 8))], "mask": sent(mask)}, 100)
    assert np.array_equal(np.asarray(found.edit.mask)[0], [255] * 4 + [0] * 4)


# -- what cannot be, and what is given up


@pytest.mark.parametrize(
    ("route", "body", "status", "param"),
    [
        ("txt2img", {}, 400, "prompt"),
        ("txt2img", {"prompt": "no such class"}, 400, "prompt"),
        ("txt2img", {"prompt": "1", "width": 0, "height": 8}, 400, "width"),
        ("txt2img", {"prompt": "1", "width": 60000, "height": 60000}, 400, "width"),
        ("txt2img", {"prompt": "1", "width": 8}, 400, "height"),
        ("txt2img", {"prompt": "1", "batch_size": 9, "n_iter": 9}, 400, "n"),
        ("txt2img", {"prompt": "1", "batch_size": "x"}, 400, "n"),
        ("txt2img", {"prompt": "1", "cfg_scale": "x"}, 400, None),
        (
            "txt2img",
            {"prompt": "1", "override_settings": {"sd_model_checkpoint": "x"}},
            404,
            "model",
        ),
        ("options", OTHER, 404, "model"),
        ("img2img", {"prompt": "1"}, 400, "init_images"),
        ("img2img", {"init_images": ["http://169.254.169.254/"]}, 400, "init_images"),
        ("img2img", {"init_images": ["////"]}, 400, "init_images"),
        ("img2img", {"init_images": [3]}, 400, "init_images"),
        ("img2img", {"init_images": [sent(picture(8, 8))] * 2}, 400, "init_images"),
        (
            "img2img",
            {"init_images": [sent(picture(8, 8))], "denoising_strength": 2},
            400,
            "denoising_strength",
        ),
        (
            "img2img",
            {"init_images": [sent(picture(8, 8))], "mask": "x", "mask_blur": 1},
            400,
            "mask",
        ),
    ],
)
def test_what_cannot_be_is_refused(client, route, body, status, param):
    code, error = client.refused(route, body)
    assert (code, error["param"]) == (status, param), error


NONSENSE = (None, True, -5, 1.5, 1e300, "x", "\ud800", [[]], {"a": []})


@pytest.mark.slow
@pytest.mark.parametrize("route", ["txt2img", "img2img"])
def test_nonsense_is_refused_or_left_but_breaks_nothing(client, server, route):
    """Each field in turn holds what it should not."""
    body = {"prompt": "1", "seed": 1} | {k: v for k, v in SILLY.items() if k != "prompt"}
    body |= {"init_images": [sent(picture(8, 8))], "n_iter": 1, "batch_size": 1}
    body |= {"resize_mode": 0, "mask_blur": 0, "inpainting_mask_invert": 0, "top_k": 0, "first": 0}
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    body |= {"mask": sent(mask)} if route == "img2img" else {}
    statuses = set()
    for name in body:
        for value in NONSENSE:
            status, _, text = server.ask("POST", f"/sdapi/v1/{route}", body | {name: value})
            assert status in (200, 400, 404), (name, value, text)
            statuses.add(status)
    assert {200, 400} <= statuses
    for wrong in ("[]", "x", "", '{"prompt": NaN}'):
        assert server.ask("POST", f"/sdapi/v1/{route}", wrong)[0] in (400, 415)


def test_without_the_option_there_is_none_of_it(serve):
    assert Client(serve("llamagen")).refused("options")[0] == 404


def test_an_interrupted_request_gives_what_there_is(server, client, monkeypatch):
    """And nothing of it is drawn any more; how far it is can be asked meanwhile."""
    batching = server.state.find("llamagen").batching
    step = batching.running.step
    monkeypatch.setattr(batching.running, "step", lambda: time.sleep(0.1) or step())
    found = []
    body = {"prompt": "1", "batch_size": 6}  # of four slots
    asking = threading.Thread(target=lambda: found.append(client.ask("txt2img", body)))
    asking.start()
    end = time.monotonic() + 20
    while not 0 < (told := client.ask("progress"))["progress"] < 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert told["state"]["job_count"] == 1 and told["eta_relative"] > 0
    client.ask("interrupt", method="POST")
    asking.join(20)
    info = json.loads(found[0]["info"])
    assert info["smalti"]["interrupted"] and len(found[0]["images"]) < 6
    end = time.monotonic() + 20
    while (batching.drawing or batching.waiting) and time.monotonic() < end:
        time.sleep(0.05)
    assert batching.drawing == batching.waiting == 0
    assert client.ask("progress")["state"]["job_count"] == 0

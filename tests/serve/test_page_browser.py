"""The page as a browser shows it: what is drawn, painted and kept, by the keyboard alone too."""

import base64
import hashlib
import io
import json
import re
import shutil
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builders import build, pipeline
from servers import Running, png
from smalti.models.taming import Taming
from smalti.pipeline.pipeline import Pipeline
from smalti.serve.app import make_app
from smalti.serve.edits import edit_of
from smalti.serve.guard import Keys, Rules
from smalti.serve.shared import Limits, Shared
from smalti.serve.state import Server
from smalti.serve.talker import Talker
from smalti.tokenizers.vqgan import VQGAN
from unified_pipelines import made

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]
CLASSES = ("apple tree", "bear", "blue whale", "bear cub", "apple")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def served(
    rules: Rules | None = None,
    wait: float = 0.01,
    name: str = "llamagen",
    styles: tuple[str, ...] = (),
    **limits: Any,
) -> Running:
    """A server whose every step takes so many seconds at least: its `pace[0]`."""
    options = {"info": {"styles": [*styles]}} if "text" in name else {"classes": CLASSES}
    state = Server([Shared(name, pipeline(name, **options), Limits(**limits))])
    turn, pace = (drawn := state.shared[0].batching.running).step, [wait]

    def slow():
        time.sleep(pace[0] * bool(drawn))
        return turn()

    drawn.step = slow
    one = Running(state, make_app(state, rules))
    one.pace = pace
    return one


@pytest.fixture(scope="module")
def shared():
    one = served()
    yield one
    one.stop()


@pytest.fixture
def opened(browser):
    """Opens pages of servers; what went wrong in them, or left their server, is told at the end."""
    made, wrong = [], []

    def open_page(server: Running, ready: str = "#order", fine: tuple[str, ...] = (), **looks):
        context = browser.new_context(**looks)
        made.append(context)
        page, home = context.new_page(), f"http://127.0.0.1:{server.port}/"
        page.set_default_timeout(20_000)

        def asked(request):
            if not request.url.startswith((home, "blob:" + home)):
                wrong.append(request.url)

        def said(message):
            if message.type in ("error", "warning") and not any(f in message.text for f in fine):
                wrong.append(message.text)

        page.on("request", asked)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(home)
        page.locator(ready).wait_for()
        return page

    yield open_page
    for context in made:
        context.close()
    assert wrong == []


def finish(page, said: str = "Done."):
    page.get_by_role("status").get_by_text(said, exact=True).wait_for()


def tiles(page) -> list[str]:
    """Hashes of the files that the tiles show."""
    script = """images => Promise.all(images.map(async image => {
        await image.decode()
        const pixels = await createImageBitmap(image)
        const sheet = new OffscreenCanvas(pixels.width, pixels.height).getContext('2d')
        sheet.drawImage(pixels, 0, 0)
        return [...sheet.getImageData(0, 0, pixels.width, pixels.height).data].join()
    }))"""
    try:
        found = page.locator("#tiles img").evaluate_all(script)
    except playwright.Error:  # another has come just now
        return []
    return [hashlib.sha256(pixels.encode()).hexdigest() for pixels in found]


def draw(page, n: int = 1, seed: int | None = None):
    page.get_by_label(str(n), exact=True).check(force=True)
    page.get_by_label("Seed").fill("" if seed is None else str(seed))
    page.get_by_role("button", name="Draw").click()


def paint(page):
    """A stroke over the lower half of the picture."""
    box = page.locator("#mask").bounding_box()
    at = lambda x, y: (box["x"] + box["width"] * x, box["y"] + box["height"] * y)  # noqa: E731
    page.mouse.move(*at(0.2, 0.8))
    page.mouse.down()
    page.mouse.move(*at(0.8, 0.8), steps=6)
    page.mouse.up()


def sent_mask(page) -> set[tuple[int, int]]:
    """The pixels that the mask of the last edit asks for, read from the canvas."""
    script = """mask => {
        const {data} = mask.getContext('2d').getImageData(0, 0, mask.width, mask.height)
        const found = []
        for (let i = 3; i < data.length; i += 4) if (data[i] > 127) found.push(i >> 2)
        return found.map(i => [i % mask.width, Math.floor(i / mask.width)])
    }"""
    return {tuple(place) for place in page.locator("#mask").evaluate(script)}


# -- drawing


def test_a_picture_grows(opened, shared):
    page = opened(shared)
    shared.pace[0], seen = 0.25, list[str]()
    draw(page, n=2)
    while page.locator("#stop").is_enabled():
        for now in tiles(page)[:1]:
            if now not in seen:
                seen.append(now)
    shared.pace[0] = 0.01
    finish(page)
    assert len(seen) >= 3
    assert len(set(tiles(page))) == 2 and page.locator("#tiles li").count() == 2
    assert page.locator("#progress").evaluate("bar => bar.value") == 1


def test_the_same_seed_gives_the_same_pixels(opened, shared):
    page = opened(shared)
    drawn = []
    for seed in (5, 6, 5):
        draw(page, seed=seed)
        finish(page)
        drawn += tiles(page)
    assert drawn[0] == drawn[2] != drawn[1]
    (alone,) = shared.generate(seed=5, prompt=CLASSES[0])
    source = f"data:image/png;base64,{alone['b64_json']}"
    page.locator("#tiles img").evaluate("(image, source) => { image.src = source }", source)
    assert tiles(page) == drawn[:1]


def test_cancelling_frees_the_places(opened, shared):
    page = opened(shared)
    shared.pace[0], counts = 0.5, shared.state.shared[0].batching.counts
    before = counts.cancelled
    draw(page, n=3)
    page.get_by_text("0 of 3 finished.").wait_for()
    page.get_by_role("button", name="Cancel").click()
    finish(page, "Cancelled.")
    shared.pace[0] = 0.01
    for _ in range(100):
        if counts.cancelled == before + 3:
            break
        time.sleep(0.05)
    assert counts.cancelled == before + 3
    assert page.locator("#go").is_enabled() and page.locator("#stop").is_disabled()
    assert page.locator("#gallery li").count() == 0
    draw(page)
    finish(page)


def test_a_class_is_found_by_letters_and_by_number(opened, shared):
    page = opened(shared)
    field = page.get_by_role("combobox", name="Class")
    options = page.locator("#classes li")

    def found() -> list[str]:
        return [text.split("\n")[0] for text in options.all_inner_texts()]

    field.fill("bear")
    assert [re.sub(r"\d", "", text) for text in found()] == list(CLASSES)  # it is one: see all
    field.fill("app")
    assert [re.sub(r"\d", "", text) for text in found()] == ["apple tree", "apple"]
    field.fill("whale bl")
    assert [re.sub(r"\d", "", text) for text in found()] == ["blue whale"]
    field.fill("3")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert field.input_value() == "bear cub" and not options.first.is_visible()
    draw(page, seed=2)
    finish(page)
    page.locator("#tiles button").click()
    assert page.locator("#view-title").inner_text() == "bear cub"


def test_a_class_that_is_none_is_told_by_the_server(opened, shared):
    page = opened(shared, fine=("400",))
    page.get_by_role("combobox", name="Class").fill("aple")
    page.keyboard.press("Escape")
    draw(page)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "apple" in alert.inner_text()
    page.get_by_role("button", name="Close").click()
    assert not alert.is_visible()


def test_settings_are_those_of_the_model_and_are_sent(opened, shared):
    page = opened(shared)
    page.get_by_text("Settings", exact=True).click()
    assert page.get_by_label("Guidance").get_attribute("placeholder") == "1"
    assert not page.get_by_label("Steps").is_visible()
    page.get_by_label("Guidance").fill("2.5")
    page.get_by_label("Top-k").fill("7")
    with page.expect_request("**/generations") as asked:
        draw(page, seed=9)
    sent = json.loads(asked.value.post_data)
    assert sent == {
        "model": "llamagen", "n": 1, "seed": 9, "guidance": 2.5, "top_k": 7, "class": 0,
        "stream": True, "partial_images": 3,
    }  # fmt: skip
    finish(page)
    page.get_by_label("Top-p").fill("2")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_role("button", name="Draw").click()
    assert page.locator("#settings").get_attribute("open") is not None  # it shows what is wrong


def test_a_text_is_drawn(opened):
    server = served(name="llamagen-text")
    page = opened(server)
    page.get_by_label("Prompt", exact=True).fill("a red cube")
    assert not page.locator("#class").is_visible()
    draw(page)
    finish(page)
    assert page.get_by_role("img", name="a red cube").count() == 2  # the tile and the gallery
    server.stop()


def test_a_style_is_chosen_where_the_model_knows_some(opened, shared):
    page = opened(shared)
    page.get_by_text("Settings", exact=True).click()
    assert page.get_by_label("Top-k").is_visible() and not page.get_by_label("Style").is_visible()
    server = served(name="llamagen-text", styles=("fluent", "noto"))
    try:
        page = opened(server)
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Prompt", exact=True).fill("a red cube")
        assert page.locator("#style option").all_inner_texts() == ["", "fluent", "noto"]
        with page.expect_request("**/generations") as asked:
            draw(page, seed=3)
        assert "style" not in json.loads(asked.value.post_data)
        finish(page)
        page.get_by_label("Style").select_option("noto")
        with page.expect_request("**/generations") as asked:
            draw(page, seed=3)
        sent = json.loads(asked.value.post_data)
        assert (sent["prompt"], sent["style"]) == ("a red cube", "noto")
        finish(page)
        drawn = tiles(page)
        page.locator("#tiles button").click()
        assert page.locator("#view-title").inner_text() == "a red cube, noto"
        page.locator("#view-reuse").click()  # the style stands in the prompt, and once
        assert page.get_by_label("Style").input_value() == ""
        page.get_by_role("button", name="Draw").click()
        finish(page)
        assert tiles(page) == drawn
    finally:
        server.stop()


# -- editing


def edit_first(page):
    page.locator("#gallery button").first.click()
    page.locator("#view-edit").click()
    page.locator("#sheet.loaded").wait_for()


def test_a_painted_mask_is_what_is_drawn_anew(opened, shared):
    page = opened(shared)
    draw(page, seed=1)
    finish(page)
    before = tiles(page)
    edit_first(page)
    paint(page)
    painted = sent_mask(page)
    page.get_by_role("button", name="Paint").click()
    finish(page)
    assert painted and all(y >= 8 for _, y in painted) and len({x for x, _ in painted}) >= 8
    assert tiles(page) != before
    kept = """([image, before]) => Promise.all([image, before].map(async one => {
        const pixels = await createImageBitmap(one)
        const sheet = new OffscreenCanvas(16, 16).getContext('2d')
        sheet.drawImage(pixels, 0, 0)
        return [...sheet.getImageData(0, 0, 16, 8).data].join()
    })).then(([a, b]) => a === b)"""
    images = page.locator("#gallery img").element_handles()
    assert page.evaluate(kept, images)  # the upper half, where nothing was painted


def test_a_mask_is_taken_back_and_erased(opened, shared, picture):
    page = opened(shared)
    page.get_by_label("Edit").check(force=True)
    file = {"name": "x.png", "mimeType": "image/png", "buffer": png(picture)}
    page.locator("#file").set_input_files(file)
    page.locator("#sheet.loaded").wait_for()
    paint(page)
    once = sent_mask(page)
    page.get_by_label("Erase").check(force=True)
    paint(page)
    assert once and not sent_mask(page)
    page.get_by_role("button", name="Undo").click()
    assert sent_mask(page) == once
    page.get_by_role("button", name="Clear").click()
    assert not sent_mask(page)
    page.get_by_role("button", name="Paint", exact=True).click()
    assert "Paint over what is to change" in page.get_by_role("alert").inner_text()


def test_a_model_that_talks_edits_by_words_and_one_that_reads_alone_is_not_there(opened, picture):
    state = Server([Talker(name, made(name)) for name in ("flamingo", "one_vocabulary")])
    server = Running(state, make_app(state))
    try:
        page = opened(server)
        assert page.locator("#model option").all_inner_texts() == ["one_vocabulary"]
        page.get_by_label("Edit").check(force=True)
        file = {"name": "x.png", "mimeType": "image/png", "buffer": png(picture)}
        page.locator("#file").set_input_files(file)
        page.locator("#sheet.loaded").wait_for()
        page.locator("#text").fill("make it blue")
        page.get_by_role("button", name="Paint", exact=True).click()
        finish(page)
        assert len(tiles(page)) == 4
    finally:
        server.stop()


def test_an_uploaded_picture_is_extended(opened, shared, picture):
    page = opened(shared)
    page.get_by_label("Edit").check(force=True)
    wide = picture.resize((64, 32))  # its middle is what the model sees
    file = {"name": "x.png", "mimeType": "image/png", "buffer": png(wide)}
    page.locator("#file").set_input_files(file)
    page.locator("#sheet.loaded").wait_for()
    assert page.locator("#picture").evaluate("one => [one.width, one.height]") == [32, 32]
    page.get_by_label("Right").fill("4")
    page.get_by_role("button", name="Paint", exact=True).click()
    finish(page)
    size = "one => [one.naturalWidth, one.naturalHeight]"
    assert page.locator("#tiles img").first.evaluate(size) == [20, 16]


def test_a_file_that_is_no_picture_is_refused(opened, shared):
    page = opened(shared)
    page.get_by_label("Edit").check(force=True)
    file = {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator("#file").set_input_files(file)
    page.get_by_role("alert").get_by_text("no picture that can be opened").wait_for()


@pytest.fixture(scope="module")
def mapped():
    """A model that draws from edges, 20 x 8 pixels, and one of classes."""
    taken = pipeline("taming-map")
    height, width = taken.tokenizer.size
    model = build(Taming, replace(taken.model.config, map_grid=taken.model.config.grid))
    edges = build(VQGAN, replace(taken.map.config, size=(height, width)))
    pipes = {"edges": Pipeline(taken.tokenizer, model, map=edges), "named": pipeline("llamagen")}
    state = Server([Shared(name, pipe) for name, pipe in pipes.items()])
    one = Running(state, make_app(state))
    yield one
    one.stop()


@pytest.fixture
def sent(monkeypatch):
    """The pictures of each edit, by the names of their parts, as they reach the server."""
    found = list[dict[str, Image.Image]]()

    def noted(fields, files, *rest):
        found.append({name: Image.open(io.BytesIO(data)) for name, data in files.items()})
        return edit_of(fields, files, *rest)

    monkeypatch.setattr("smalti.serve.images.edit_of", noted)
    return found


def open_map(page, image: Image.Image, name: str = "kärtchen-地図.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": png(image)}
    page.locator("#map").set_input_files(file)


def one_edge(size: tuple[int, int], at: float) -> Image.Image:
    image = Image.new("RGB", size)
    image.paste((255, 240, 255), (0, 0, round(size[0] * at), size[1]))
    return image


def test_a_picture_is_drawn_from_a_map_and_again(opened, mapped, sent):
    page = opened(mapped, fine=("400",))
    assert page.get_by_text("Open a map: edges").is_visible()
    assert not page.locator("#class").is_visible() and not page.locator("#text").is_visible()
    draw(page, seed=3)
    page.get_by_role("alert").get_by_text("a picture whose edges are taken").wait_for()
    drawn = dict[float, list[str]]()
    for at in (0.5, 0.2):
        open_map(page, map := one_edge((20, 8), at))
        page.get_by_label("Temperature").evaluate("field => { field.value = 0.1 }")
        draw(page, seed=3)
        finish(page)
        assert sent[-1].keys() == {"image"}
        drawn[at] = tiles(page)
    pipe = mapped.state.shared[0].pipeline
    (alone,) = pipe(map=map, seed=3, temperature=0.1, n=1)
    source = f"data:image/png;base64,{base64.b64encode(png(alone)).decode()}"
    page.locator("#tiles img").evaluate("(image, source) => { image.src = source }", source)
    assert tiles(page) == drawn[0.2] != drawn[0.5]
    page.reload()  # the map is kept with what was drawn from it
    page.locator("#gallery button").nth(1).click()
    assert page.locator("#view-title").inner_text() == "kärtchen-地図.png"
    page.locator("#view-reuse").click()
    page.get_by_role("button", name="Draw").click()
    finish(page)
    assert tiles(page) == drawn[0.5]
    page.locator("#model").select_option("named")
    assert not page.locator("#map").is_visible() and page.locator("#class").is_visible()


def test_a_larger_map_is_cut_to_the_size_and_goes_with_an_edit(opened, mapped, sent):
    page = opened(mapped)
    open_map(page, one_edge((80, 64), 0.5))
    draw(page, seed=3)
    finish(page)
    assert sent[-1]["image"].size == (20, 8)
    cut = np.asarray(sent[-1]["image"].convert("L"))
    assert (cut[:, :9] > 200).all() and (cut[:, 11:] < 50).all()
    edit_first(page)
    paint(page)
    page.get_by_role("button", name="Paint", exact=True).click()
    finish(page)
    assert sent[-1].keys() == {"image", "mask", "map"}
    assert len({picture.size for picture in sent[-1].values()}) == 1
    page.locator("#map").set_input_files(
        {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_role("button", name="Paint", exact=True).click()
    page.get_by_role("alert").get_by_text("no picture that can be opened").wait_for()


# -- what is kept


def test_the_gallery_survives_a_reload_and_forgets_when_asked_twice(opened, shared):
    page = opened(shared)
    draw(page, n=2, seed=3)
    finish(page)
    assert page.locator("#gallery li").count() == 2
    page.reload()
    page.locator("#gallery li").nth(1).wait_for()
    delete = page.locator("#view-delete")
    page.locator("#gallery button").first.click()
    delete.click()
    assert delete.inner_text() == "Delete for good?"
    page.locator("#view-close").focus()  # another thought
    assert delete.inner_text() == "Delete"
    assert page.locator("#gallery li").count() == 2
    delete.click()
    delete.click()
    page.locator("#viewer").wait_for(state="hidden")
    assert page.locator("#gallery li").count() == 1
    page.reload()
    page.locator("#gallery li").first.wait_for()
    assert page.locator("#gallery li").count() == 1


def test_a_download_is_the_file_as_it_came(opened, shared, tmp_path):
    page = opened(shared)
    draw(page, seed=4)
    finish(page)
    page.locator("#tiles button").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == "smalti-4-0.png"
    saved.value.save_as(tmp_path / "x.png")
    (alone,) = shared.generate(seed=4, prompt=CLASSES[0])
    assert (tmp_path / "x.png").read_bytes() == base64.b64decode(alone["b64_json"])


def test_a_picture_of_the_gallery_is_drawn_again_by_its_settings(opened, shared):
    page = opened(shared)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Temperature").fill("0.7")
    draw(page, n=3)  # by a seed that the server chose
    finish(page)
    third = tiles(page)[2]
    page.get_by_label("Temperature").fill("")
    page.locator("#tiles button").nth(2).click()
    page.locator("#view-reuse").click()
    page.get_by_role("button", name="Draw").click()
    finish(page)
    assert tiles(page) == [third]


# -- what is refused


def test_a_full_queue_is_told_with_its_time(opened):
    server = served(slots=1, queue=4, wait=0.3)
    before = threading.Thread(target=lambda: server.generate(n=4))
    before.start()
    while not server.state.shared[0].batching.drawing:
        time.sleep(0.01)
    page = opened(server, fine=("429",))
    draw(page, n=4)
    alert = page.get_by_role("alert")
    alert.get_by_text(re.compile(r"queue is full.* place in \d+ s\.")).wait_for()
    server.pace[0] = 0.0
    page.get_by_label("1", exact=True).check(force=True)
    page.get_by_role("button", name="Try again").click()
    finish(page)
    assert not alert.is_visible()
    before.join()
    server.stop()


def test_a_key_is_asked_for_and_kept_for_the_tab(opened):
    known = Keys({hashlib.sha256(b"open-sesame").hexdigest(): "somebody"})
    server = served(Rules(known))
    page = opened(server, ready="#key", fine=("401",))
    for key in ("open", "open-sesame"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Continue").click()
    page.locator("#order").wait_for()
    draw(page)
    finish(page)
    page.reload()
    page.locator("#order").wait_for()
    assert page.evaluate("localStorage.length") == 0  # the key is gone with the tab
    server.stop()


def test_a_server_that_has_gone_is_told(opened):
    server = served()
    page = opened(server, fine=("ERR_CONNECTION_REFUSED",))
    server.stop()
    draw(page)
    page.get_by_role("alert").get_by_text("The server cannot be reached").wait_for()


# -- looks


def test_dark_follows_the_system_until_it_is_chosen(opened, shared):
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    light = opened(shared, color_scheme="light")
    dark = opened(shared, color_scheme="dark")
    assert (white := light.evaluate(colour)) != (black := dark.evaluate(colour))
    dark.get_by_role("button", name="Light or dark").click()
    assert dark.evaluate(colour) == white
    dark.reload()
    dark.locator("#order").wait_for()
    assert dark.evaluate(colour) == white
    light.get_by_role("button", name="Light or dark").click()
    assert light.evaluate(colour) == black


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def test_it_fits_a_phone_and_is_painted_by_a_finger(opened, shared):
    page = opened(shared, **PHONE)
    draw(page, n=1, seed=1)
    finish(page)
    edit_first(page)
    wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(wide)
    page.locator("#mask").tap()
    assert sent_mask(page)
    for button in ("#go", "#stop"):  # within reach wherever the page is
        assert page.locator(button).evaluate(
            "one => one.getBoundingClientRect().bottom <= window.innerHeight"
        )
    page.locator("#go").tap()
    finish(page)


def test_nothing_moves_while_a_picture_is_drawn(opened, shared):
    page = opened(shared)
    page.evaluate(
        """() => { window.moved = 0
        new PerformanceObserver(list => { for (const one of list.getEntries()) moved += one.value })
            .observe({type: 'layout-shift'}) }"""
    )
    where = lambda: [page.locator(i).bounding_box() for i in ("#go", "#stop", "#status", "#tiles")]  # noqa: E731
    before = where()[:2] + [where()[2]["y"], where()[3]]
    draw(page, n=4)
    page.get_by_text("0 of 4 finished.").wait_for()
    assert where()[:2] + [where()[2]["y"], where()[3]] == before
    finish(page)
    assert where()[:2] + [where()[2]["y"], where()[3]] == before
    assert page.evaluate("moved") < 0.01


def test_the_keyboard_is_enough(opened, shared):
    """From the first key to an edited picture that is deleted, without a mouse."""
    page = opened(shared)
    key = page.keyboard
    focused = "document.activeElement.id || document.activeElement.value || ''"

    def tab_to(name: str):
        for _ in range(60):
            if page.evaluate(focused) == name:
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                return page.evaluate(outline)
            key.press("Tab")
        raise AssertionError(f"the keyboard never reaches {name}")

    assert tab_to("class") == "solid"  # it is seen where the keyboard is
    key.type("wha")
    key.press("ArrowDown")
    key.press("Enter")
    tab_to("4")
    key.press("ArrowRight")  # goes round to 1
    assert page.get_by_label("1", exact=True).is_checked()
    assert tab_to("go") == "solid"
    key.press("Enter")
    finish(page)
    assert page.evaluate(focused) == "go"
    for _ in range(60):
        key.press("Tab")
        if page.evaluate("document.activeElement.closest('#gallery') !== null"):
            break
    key.press("Enter")
    tab_to("view-edit")
    key.press("Enter")
    page.locator("#sheet.loaded").wait_for()
    assert page.evaluate(focused) == "mask"
    key.press("ArrowDown")
    key.press(" ")
    assert sent_mask(page)
    tab_to("go")
    key.press("Enter")
    finish(page)
    page.locator("#gallery button").first.focus()
    key.press("Enter")
    tab_to("view-delete")
    key.press("Enter")
    key.press("Enter")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.locator("#gallery li").count() == 1
    page.locator("#gallery button").first.focus()
    key.press("Enter")
    key.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")


def test_everything_has_a_name_and_can_be_read(opened, shared):
    """Buttons and fields have names for those who do not see them; texts stand out enough."""
    nameless = """() =>
        [...document.querySelectorAll('button, input, select, textarea, canvas')]
        .filter(one => one.id !== 'picture' && !one.labels?.length && !one.ariaLabel
            && !one.textContent.trim()
            && !one.querySelector('img[alt]:not([alt=""])')).map(one => one.outerHTML)"""
    contrast = """() => {
        const sheet = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true})
        const light = colour => {
            sheet.fillStyle = colour
            sheet.fillRect(0, 0, 1, 1)
            const [r, g, b] = [...sheet.getImageData(0, 0, 1, 1).data].map(v => v / 255)
                .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            return .2126 * r + .7152 * g + .0722 * b
        }
        const behind = one => {
            for (; one; one = one.parentElement) {
                const {backgroundColor} = getComputedStyle(one)
                if (!/, 0\\)$|transparent/.test(backgroundColor)) return backgroundColor
            }
        }
        const found = []
        for (const one of document.querySelectorAll('body *')) {
            const own = [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim())
            if (!own || !one.checkVisibility() || one.closest(':disabled')) continue
            const both = [getComputedStyle(one).color, behind(one)].map(light)
            const ratio = (Math.max(...both) + .05) / (Math.min(...both) + .05)
            if (ratio < 4.5) found.push([one.textContent.trim(), ratio])
        }
        return found
    }"""
    for scheme in ("light", "dark"):
        page = opened(shared, color_scheme=scheme)
        draw(page)
        finish(page)
        page.get_by_label("Edit").check(force=True)
        page.get_by_text("Settings", exact=True).click()
        assert page.evaluate(nameless) == []
        assert page.evaluate(contrast) == []

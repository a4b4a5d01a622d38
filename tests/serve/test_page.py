"""The page at `/`, as far as no browser is needed: `test_page_browser.py` has the rest."""

import json
import re
from collections import Counter

import pytest

from builders import pipeline
from smalti.cli.drawing import Run
from smalti.cli.serving import Amounts, Place, application
from smalti.serve.guard import HEADERS, Keys, Rules
from smalti.serve.state import Options
from smalti.serve.static import TYPES, page_files

FILES = page_files()
TEXTS = {name: data.decode() for name, data in FILES.items()}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
INDEX = TEXTS["index.html"]
IDS = re.findall(r'\bid="([\w-]+)"', INDEX)
SVG = "http://www.w3.org/2000/svg"
"""The name of a language, which nothing fetches."""


@pytest.fixture(autouse=True)
def no_log(monkeypatch):
    """A log would go on writing to a test's output when that is closed."""
    monkeypatch.setattr("smalti.serve.server.set_log", lambda form: None)


def outside(text: str) -> list[str]:
    """Addresses of other servers."""
    return re.findall(r"(?:\w+:)?//[\w.]+|@import|url\(", text.replace(SVG, ""))


def inline(html: str) -> list[str]:
    """Scripts and styles that stand in a page itself, which its policy refuses."""
    found = re.findall(r"<style|<script>|\sstyle=|\son\w+=|javascript:", html)
    return found + [tag for tag in re.findall(r"<script[^>]*>", html) if "src=" not in tag]


def test_it_is_small():
    assert sum(map(len, FILES.values())) <= 40 << 10


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name):
    assert outside(TEXTS[name]) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_texts_never_become_elements(name):
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", SCRIPTS[name]
    )


def test_the_checks_find():
    assert outside("@import 'x'") and outside("src='//cdn.example'") and outside("https://a.b")
    assert not outside("// a comment, 1 // 2")
    assert inline("<p style='x'>") and inline("<script>") and inline("<a onclick=x>")


def test_scripts_and_styles_are_files():
    assert inline(INDEX) == []


def test_whatever_is_asked_for_by_its_id_is_there():
    assert [i for i, times in Counter(IDS).items() if times > 1] == []
    for name, script in SCRIPTS.items():
        assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= set(IDS), name
    named = re.findall(r'(?:for|aria-controls|aria-labelledby)="([\w-]+)"', INDEX)
    assert named and set(named) <= set(IDS)


def test_whatever_is_loaded_is_there():
    loaded = re.findall(r'(?:src|href)="static/([^"]*)"', INDEX)
    for script in SCRIPTS.values():
        loaded += re.findall(r'from "\./([^"]*)"', script)
    assert set(loaded) | {"index.html"} == set(FILES)


def test_fields_have_labels():
    """Each stands in a label, or has one of its own."""
    for tag in re.findall(r"<(?:input|select|textarea)\b[^>]*>", INDEX):
        own = re.search(r'id="([\w-]+)"', tag)
        before = INDEX[: INDEX.index(tag)]
        inside = before.rfind("<label") > before.rfind("</label>")
        assert inside or (own and f'for="{own[1]}"' in INDEX), tag


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_with_its_type(server, name):
    status, headers, body = server.ask("GET", f"/static/{name}")
    assert (status, body) == (200, FILES[name])
    assert headers["content-type"] == TYPES[name.rpartition(".")[2]]
    assert headers["cache-control"] == "no-cache"
    assert headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_is_at_the_root(server):
    status, headers, body = server.ask("GET", "/")
    assert (status, body) == (200, FILES["index.html"])
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    status, headers, body = server.ask("HEAD", "/")
    assert (status, body) == (200, b"") and headers["content-length"] == str(len(INDEX.encode()))


NAMES = ["x.js", "..", "../guard.py", "%2e%2e%2fguard.py", "..%5cguard.py", "/etc/passwd"]


@pytest.mark.parametrize("name", NAMES)
def test_there_is_nothing_else(server, name):
    status, error = server.error("GET", f"/static/{name}")
    assert status == 404 and error["code"] == "not_found"


def test_it_needs_no_key_but_drawing_does(serve):
    server = serve("llamagen", rules=Rules(Keys({"0" * 64: "somebody"})))
    assert server.ask("GET", "/")[0] == server.ask("GET", "/static/app.js")[0] == 200
    assert server.ask("GET", "/v1/models")[0] == 401


def test_a_server_can_be_without(serve):
    server = serve("llamagen", options=Options(page=False))
    assert server.ask("GET", "/")[0] == server.ask("GET", "/static/app.js")[0] == 404
    assert server.ask("GET", "/v1/models")[0] == 200


@pytest.mark.parametrize("page", [True, False])
def test_the_command_line_leaves_it_away(page, tmp_path):
    pipeline("llamagen").save_pretrained(tmp_path / "pipeline")
    named, place = {"x": str(tmp_path / "pipeline")}, Place(page=page)
    app, state = application(named, {}, place, Amounts(), False, False, "text", Run())
    paths = {getattr(route, "path", "") for route in app.app.routes}
    assert state.options.page is page and ("/" in paths) is page


@pytest.mark.parametrize(
    ("name", "has", "lacks"),
    [
        ("llamagen", {"guidance", "temperature", "top_k", "top_p"}, {"steps", "solver"}),
        ("maskgit", {"guidance", "temperature", "top_k", "steps"}, {"solver"}),
        ("mar", {"guidance", "temperature", "steps", "solver"}, {"top_k", "top_p"}),
    ],
)
def test_models_tell_the_settings_that_mean_something_to_them(serve, name, has, lacks):
    """And how they draw if nothing is said, so the page can show it."""
    _, _, text = serve(name).ask("GET", "/v1/models")
    (model,) = json.loads(text)["data"]
    told = model["smalti"]["sampling"]
    assert has <= told.keys() and not lacks & told.keys()
    assert told["guidance"] == 1.0

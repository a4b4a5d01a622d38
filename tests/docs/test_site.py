"""The documentation site: what must have a page has one, and what is broken is found."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import smalti
from smalti.cli import main as cli
from smalti.modules import LANGUAGES, MODELS, TOKENIZERS, TOWERS, UNIFIED
from smalti.recipes import FILES, RECIPES

ROOT = Path(__file__).parents[2]

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs" / "site"))
    import build
    import checks
    import reference
    import systems


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of all pages, and what is in each."""
    folder = tmp_path_factory.mktemp("site")
    names = build.write_pages(folder)
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def test_every_system_and_every_module_has_a_page(written):
    pages = [written[f"systems/{name}.md"] for name in FILES]
    told = "\n".join(pages)
    for name in MODELS | UNIFIED | TOWERS | LANGUAGES | TOKENIZERS:
        assert re.search(rf"(?m)^## (Model|Tokenizer) `{name}`$", told), name
        assert f"## Settings of `{name}`" in told, name
    for name, page in zip(FILES, pages, strict=True):
        recipes = re.findall(r"(?m)^\| `(\w+)` \|", page.partition("## Settings")[0])
        assert set(recipes) >= set(systems.recipes(name)) and len(page) > 400
        assert f"({name}.md)" in written["systems/index.md"]
    assert sum(len(systems.recipes(name)) for name in FILES) == len(RECIPES)


def test_a_system_says_what_was_measured_and_where_weights_are(written):
    page = written["systems/llamagen.md"]
    assert "![pictures drawn by LlamaGen](../docs/comparison-llamagen.png)" in page
    assert "| held-out bits per picture | 356.8 |" in page
    (row,) = re.findall(r"(?m)^\| `llamagen_b` \|.*\|$", page)
    assert row.split(" | ")[2:4] == ["111 M", "5.46"], "parameters and the published FID"
    assert "| LlamaGen c2i | `vqgan` | `llamagen`, raster | categorical | causal |" in page
    assert "smalti convert llamagen --tokenizer FILE --model FILE" in page
    assert "`FoundationVision/LlamaGen/c2i_B_256.pt`" in page
    assert "smalti sample runs/emoji/pipeline" in page, "what the commands above it leave"


def test_every_command_has_a_page(written):
    for name in cli.COMMANDS:
        assert f"# smalti {name}\n" in written[f"commands/{name}.md"]
        assert f"({name}.md)" in written["commands/index.md"]


def test_every_option_of_a_command_is_explained(written):
    assert "| `--out` |  | File to write. |" in written["commands/encode.md"]
    told = written["commands/info.md"]
    assert "captioned:SOURCE, qa:FILE.jsonl, text:PATH" in told, "of several lines"
    for name in cli.COMMANDS.keys() - set(reference.RECIPES):
        bare = re.findall(r"(?m)^\| `(.*?)` \|.*\|  \|$", written[f"commands/{name}.md"])
        assert bare == [], name


@pytest.mark.parametrize("words", [("edit",), ("serve",), ("eval",), ("convert", "rar")])
def test_every_flag_of_the_parsers_help_is_on_the_page(written, words):
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit):
        cli.main([*words, "--help"])
    flags = set(re.findall(r"(?m)^[^\w\n-]*(--[a-z][\w.-]*)", said.getvalue())) - {"--help"}
    assert len(flags) > 3
    page = written[f"commands/{words[0]}.md"]
    assert {flag for flag in flags if f"`{flag}`" not in page} == set()


def test_the_page_of_train_has_the_fields_of_all_kinds_of_recipes(written):
    page = written["commands/train.md"]
    for field in ("--train.optim.lr", "--model.layers", "--towers", "--vocab", "--writing.words"):
        assert f"| `{field}` |" in page, field


def test_every_public_name_has_its_documentation(written):
    for name in smalti.__all__:
        item = getattr(smalti, name)
        assert f"::: {item.__module__}.{item.__qualname__}\n" in written["api/index.md"]
    for room in ("codes", "engine", "pipeline", "sampling", "eval", "contracts"):
        assert f"api/{room}.md" in written


def test_every_example_has_a_page(written):
    for path in (ROOT / "examples").glob("*.py"):
        page = written[f"examples/{path.stem}.md"]
        assert f"python examples/{path.name}" in page and "```python\n" in page
    notebook = written["examples/quickstart.md"]
    assert "\n## Guidance\n" in notebook and "# %%" not in notebook


def test_every_page_stands_in_a_tab_once(written):
    nav = build.navigation(list(written))
    listed = [page for tab in nav for pages in tab.values() for page in pages]
    assert sorted(listed) == sorted(written)
    with pytest.raises(ValueError, match="no tab of docs/site/build.py has docs/nowhere.md"):
        build.navigation([*written, "docs/nowhere.md"])


def test_cells_of_a_notebook():
    text = '"""Doc."""\n\n# %%\na = 1\n\n# %% [markdown]\n# ## Title\n#\n# words\n\n# %%\nb = 2\n'
    assert reference.cells(text) == [
        (False, "a = 1"),
        (True, "## Title\n\nwords"),
        (False, "b = 2"),
    ]


# -- what is checked of what was built


def test_what_is_broken_or_from_elsewhere_is_found(tmp_path):
    good = '<h2 id="a">A</h2><a href="b/#c">b</a><a href="https://arxiv.org/">paper</a>'
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<p id="c"></p><img src="../x.png">')
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(good)
    checks.check(tmp_path)
    (tmp_path / "index.html").write_text(
        good
        + '<a href="gone/">1</a><a href="b/#d">2</a><a href="#e">3</a><img src="y.png">'
        + '<script src="https://cdn.example/a.js"></script><pre class="mermaid">a</pre>'
        + '<link rel="stylesheet" href="//cdn.example/b.css"><style>@import "https://c/d.css"</style>'
    )
    (tmp_path / "s.css").write_text("@font-face { src: url(https://fonts.example/f.woff2) }")
    with pytest.raises(ValueError) as error:
        checks.check(tmp_path)
    assert [line.split(" ", 1)[1] for line in str(error.value).splitlines()] == [
        "loads https://cdn.example/a.js",
        "loads https://unpkg.com/mermaid",
        "loads //cdn.example/b.css",
        "loads https://c/d.css",
        "loads https://fonts.example/f.woff2",
        "links to gone/, which is not there",
        "links to b/#d: no such place",
        "links to #e: no such place",
        "links to y.png, which is not there",
    ]


def test_programs_are_told_of_every_page(tmp_path):
    pages = {
        "README.md": "# smalti\n\n**It draws** well: a\npicture. More.",
        "docs/a.md": "# A\n\nSee [that](b.md) first.",
        "systems/index.md": "# Systems\n\n| a |\n|---|",
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    nav = [{"Start": ["README.md", "docs/a.md"]}, {"Systems": ["systems/index.md"]}]
    assert build.listing(tmp_path, nav).splitlines()[2:] == [
        "> Train, run, measure and serve autoregressive image generators",
        "",
        "## Start",
        "",
        "- [smalti](./): It draws well: a picture.",
        "- [A](docs/a/): See that first.",
        "",
        "## Systems",
        "",
        "- [Systems](systems/)",
    ]


@pytest.mark.slow
def test_the_site_is_built(tmp_path, written):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings_handlers")
    site = build.build(tmp_path)  # which checks links, and what is loaded
    for page in written:
        path = Path(page)
        index = path.stem in ("index", "README")
        assert (site / path.parent / ("" if index else path.stem) / "index.html").is_file(), page
    told = (site / "llms.txt").read_text(encoding="utf-8")
    addresses = re.findall(r"^- \[.*\]\((\S*)\)", told, re.MULTILINE)
    assert len(addresses) == len(written)
    assert all((site / address / "index.html").is_file() for address in addresses)
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("loading.load", "pipeline.pipeline.Pipeline.__call__"):
        assert f'id="smalti.{name}"' in api, name
    assert "Conditions are classes, by name or number" in api

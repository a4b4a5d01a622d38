"""Build the documentation site: `make docs`, or `python docs/site/build.py --out build/site`.

The site has the layout of the repository, so that a link between pages that is right there is right
here. Pages of systems, commands, the API and examples are made now (`systems.py`, `reference.py`);
zensical makes HTML of all of them, and `checks.py` looks at what it made.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

import checks
import reference
import systems
from systems import ROOT

NAV: dict[str, tuple[str, ...]] = {
    "Start": (
        "README.md",
        "docs/quickstart.md",
        "docs/starter.md",
        "docs/install.md",
        "docs/gallery.md",
    ),
    "How to": (
        *("docs/how-to.md", "docs/commands.md", "docs/training.md", "docs/text-to-image.md"),
        *("docs/unified.md", "docs/serving.md", "docs/serving-nodes.md"),
        *("docs/troubleshooting.md", "docs/index.md"),
    ),
    "Examples": ("examples/*",),
    "Systems": ("systems/*",),
    "Concepts": ("docs/concepts.md", "docs/architecture.md", "docs/numerics.md"),
    "Measured": (
        *("docs/evaluation.md", "docs/comparison.md", "docs/performance.md"),
        *("docs/unified-measured.md", "docs/rate-distortion.md", "docs/scaling.md"),
        "benchmarks/README.md",
    ),
    "Commands": ("commands/*",),
    "API": ("api/*",),
    "Develop": (
        *("docs/adding-a-model.md", "docs/models.md", "CONTRIBUTING.md", "CHANGELOG.md"),
        *("docs/decisions/*",),
    ),
}
"""The tabs and their pages; a page that is in none of them is an error."""
DESCRIPTION = "Train, run, measure and serve autoregressive image generators"
STYLE = "site.css"
"""What is told to look otherwise than in the theme."""
PALETTE = [
    {
        "media": f"(prefers-color-scheme: {name})",
        "scheme": scheme,
        "toggle": {"icon": f"lucide/{icon}", "name": f"{other} colours"},
    }
    for name, scheme, icon, other in (
        ("light", "default", "sun", "Dark"),
        ("dark", "slate", "moon", "Light"),
    )
]
"""Light or dark, as the reader's system is, until they choose."""
COPIED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "benchmarks/README.md")


def write_pages(folder: Path) -> list[str]:
    """Write all pages into a folder, and return their paths."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("site"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copy(Path(__file__).with_name(STYLE), folder)
    made = systems.pages() | reference.pages() | {"docs/decisions/index.md": decisions()}
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        link_folders(path)
    others = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    return list(dict.fromkeys([*made, *others]))


def decisions() -> str:
    """The list of decisions."""
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    heads = [path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in paths]
    items = [f"- [{head}]({path.name})" for head, path in zip(heads, paths, strict=True)]
    return "# Decisions\n\n" + "\n".join(items) + "\n"


def link_folders(page: Path) -> None:
    """Let links to a folder lead to its page: a repository shows folders, a site does not."""

    def whole(link: re.Match[str]) -> str:
        return f"]({link[1].rstrip('/')}/index.md)" if (page.parent / link[1]).is_dir() else link[0]

    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"\]\(([^)#:\s]+)\)", whole, text), encoding="utf-8")


def navigation(pages: list[str]) -> list[dict[str, list[str]]]:
    """The tabs. Raises ValueError for a page that none of them has."""
    left, nav = dict.fromkeys(pages), list[dict[str, list[str]]]()
    for tab, names in NAV.items():
        found = [p for name in names for p in left if p == name or _inside(p, name)]
        nav.append({tab: found})
        for page in found:
            left.pop(page)
    if left:
        raise ValueError(f"no tab of docs/site/build.py has {', '.join(left)}")
    return nav


def listing(folder: Path, nav: list[dict[str, list[str]]]) -> str:
    """What programs that read the site are told of it, as https://llmstxt.org has it: each page, by
    tabs, with its address in the site and its first sentence."""
    lines = ["# smalti", "", f"> {DESCRIPTION}", ""]
    for tab in nav:
        for name, pages in tab.items():
            lines += [f"## {name}", ""]
            for page in pages:
                text = (folder / page).read_text(encoding="utf-8")
                title = next((x.lstrip("# ") for x in text.splitlines() if x[:2] == "# "), page)
                address = re.sub(r"((README|index)\.md|\.md)$", lambda m: "/"[bool(m[2]) :], page)
                about = _first_sentence(text)
                lines.append(f"- [{title}]({address or './'})" + (f": {about}" if about else ""))
            lines.append("")
    return "\n".join(lines)


def _first_sentence(page: str) -> str:
    """That of the text right behind the title, without marks; '' if there is something else."""
    _, _, behind = page.partition("# ")
    blocks = behind.split("\n\n")[1:2]
    if not blocks or not re.match(r"[A-Za-z*`\[]", blocks[0]):
        return ""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(blocks[0].split())).replace("**", "")
    found = re.match(r".*?\.(?= |$)", plain)
    return found[0] if found else ""


def _inside(page: str, name: str) -> bool:
    return name.endswith("/*") and page.startswith(name[:-1])


def configuration(pages: list[str]) -> dict[str, Any]:
    """What mkdocs.yml says; nothing of the theme is loaded from elsewhere."""
    options = {
        "docstring_options": {"warn_unknown_params": False, "warn_missing_types": False},
        "filters": ["!^_", "^__call__$"],
        "heading_level": 2,
        "members_order": "source",
        "show_root_heading": True,
        "show_source": False,
    }
    python = {"paths": [str(ROOT / "src")], "options": options}
    marks = ["admonition", "tables", "pymdownx.superfences", "pymdownx.highlight"]
    features = ["navigation.tabs", "navigation.indexes", "toc.integrate", "content.code.copy"]
    theme = {"name": "material", "font": False, "features": features, "palette": PALETTE}
    return {
        "site_name": "smalti",
        "site_description": DESCRIPTION,
        "docs_dir": "pages",
        "site_dir": "site",
        "extra": {"generator": False},
        "theme": theme,
        "extra_css": [STYLE],
        "markdown_extensions": [*marks, {"toc": {"permalink": True}}],
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": python}}}],
        "nav": navigation(pages),
    }


def build(out: Path) -> Path:
    """Make the site in a folder, `out/site`, whatever was built there before. Raises ValueError
    for links that lead nowhere and for what is loaded from elsewhere."""
    for name in ("pages", "site"):
        shutil.rmtree(out / name, ignore_errors=True)
    pages = write_pages(out / "pages")
    (out / "pages" / "llms.txt").write_text(
        listing(out / "pages", navigation(pages)), encoding="utf-8"
    )
    settings = out / "mkdocs.yml"
    settings.write_text(yaml.safe_dump(configuration(pages), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", settings]
    if subprocess.run(list(map(str, command)), cwd=out).returncode:
        raise ValueError("zensical could not build the site; what it said is above")
    checks.check(out / "site")
    return out / "site"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs")
    start = time.perf_counter()
    try:
        site = build(parser.parse_args().out)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{site / 'index.html'}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

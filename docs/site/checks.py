"""What must be true of a built site: every link of it leads somewhere, and nothing is loaded from
elsewhere, so that it can be read without a network."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script", "img", "iframe", "source", "video", "audio", "embed", "object"}
"""Elements whose address a browser loads without being asked."""
LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload"}
"""Kinds of `<link>` that are loaded too."""
OUTSIDE = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")
"""What a stylesheet loads from elsewhere."""

FETCHED = {"mermaid", "glightbox"}
"""Classes of elements for which the theme's script fetches a library from elsewhere."""


class Page(HTMLParser):
    """The names and addresses in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names, self.links, self.loaded = set[str](), list[str](), list[str]()
        self.styles = OUTSIDE.findall(text := path.read_text(encoding="utf-8"))
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if given.get(name)}
        kinds = set(given.get("rel", "").split())
        addresses = [given[name] for name in ("href", "src", "data") if name in given]
        addresses += [
            part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()
        ]
        for name in FETCHED & set(given.get("class", "").split()):
            self.loaded.append(f"https://unpkg.com/{name}")
        loads = tag in LOADED or (tag == "link" and kinds & LINKS)
        (self.loaded if loads else self.links).extend(addresses)


def check(site: Path) -> None:
    """Raise ValueError naming links that lead nowhere, and what is loaded from elsewhere."""
    faults = [*outside(site), *broken(site)]
    if faults:
        raise ValueError("\n".join(faults))


def outside(site: Path) -> list[str]:
    """What pages and stylesheets load that is not of the site."""
    faults = []
    for path in sorted(site.rglob("*.html")):
        page = Page(path)
        loads = [a for a in page.loaded if urlsplit(a).netloc] + page.styles
        faults += [f"{path.relative_to(site)} loads {address}" for address in loads]
    for path in sorted(site.rglob("*.css")):
        loads = OUTSIDE.findall(path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(site)} loads {address}" for address in loads]
    return faults


def broken(site: Path) -> list[str]:
    """Links of pages to files, or to places in pages, that are not there."""
    faults, page_of = list[str](), cache(Page)
    for path in sorted(site.rglob("*.html")):
        page = page_of(path)
        for address in dict.fromkeys([*page.links, *page.loaded]):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                faults.append(f"{path.relative_to(site)} links to {address}, which is not there")
            elif parts.fragment and target.suffix == ".html":
                if unquote(parts.fragment) not in page_of(target).names:
                    faults.append(f"{path.relative_to(site)} links to {address}: no such place")
    return faults

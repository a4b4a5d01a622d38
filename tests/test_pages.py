"""Pages are read in a terminal as well."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for pages in ("*.md", "docs/**/*.md", "benchmarks/README.md", "integrations/**/*.md")
    for page in ROOT.glob(pages)
]


def test_lines_are_at_most_110_characters():
    """But those of tables, which cannot be wrapped."""
    long = [
        f"{page.relative_to(ROOT).as_posix()}: {line}"
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if len(line) > 110 and not line.startswith("|")
    ]
    assert long == []

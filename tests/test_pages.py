"""Pages are read in a terminal as well."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for pages in ("*.md", "docs/**/*.md", "benchmarks/README.md", "integrations/**/*.md")
    for page in ROOT.glob(pages)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_are_at_most_110_characters(page):
    """But those of tables, which cannot be wrapped."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 110 and not line.startswith("|")] == []

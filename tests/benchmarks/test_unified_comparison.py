"""The comparison of models of text and pictures: whose documents are whose, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smalti.data.shape_documents import TASKS
from smalti.eval.shape_answers import ASKED

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from unified_comparison import CASES, GROUPS, SIZES, source_of
    from unified_page import gain, page, plot

SHARES = {"small": 0.25, "middle": 0.5, "large": 0.75}


def row(name: str) -> dict[str, Any]:
    """What is measured of a case: of all tasks 0.1 more than of each alone."""
    case = CASES[name]
    more = 0.1 if case.group == "all" else 0.0
    asked = [t for t in GROUPS[case.group] if t in ASKED]
    asked += ["withheld riddle"] if case.group == "all" else []
    return {
        "case": name, "group": case.group, "size": case.size, "steps": 100, "count": 200,
        "parameters": int(1e6 * SHARES[case.size]), "operations": 1e12,
        "right": {task: (SHARES[case.size] + more, 0.2, 0.3) for task in asked},
        "facts_bits_per_byte": 0.5 if "fact" in asked else None,
        "draw_gflop": 1.0, "draw_seconds": 0.5,
    }  # fmt: skip


def test_groups_share_the_documents_of_all():
    groups = [source_of(name, 1000).split(":") for name in GROUPS]
    assert groups[0] == ["shapes-all", "1000"]
    assert sum(int(count) for _, count, _ in groups[1:]) == 1000
    assert sorted(t for *_, tasks in groups[1:] for t in tasks.split(",")) == sorted(TASKS)


def test_the_page_says_what_was_measured(tmp_path):
    rows = [row(name) for name in CASES]
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    for size in SIZES:
        assert {round(more, 6) for more in gain(rows, size).values()} == {0.1}
    about = {"hardware": "a machine", "threads": 2, "torch": "2", "commit": "abc"}
    text = page(rows, about)
    assert "right 10.0 points more often on average" in text.replace("\n  ", " ")
    assert text.count("| one model |") == len(SIZES) and "a machine" in text
    assert "| 250,000 | one each | 3.0 T | 25.0 ± 5 % |" in text

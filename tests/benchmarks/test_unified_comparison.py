"""The comparison of models of text and pictures: whose documents are whose, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smalti.eval.shape_answers import ASKED
from smalti.recipes import RECIPES

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from unified_comparison import (
        CASES,
        GROUPS,
        SIZES,
        TOKENIZERS,
        TURNS,
        WAYS,
        Shop,
        main,
        source_of,
    )
    from unified_page import TITLES, gain, page, plot

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
    groups = [source_of(name, 1200).split(":") for name in GROUPS]
    assert groups[0] == ["shapes-all", "1200", ",".join(TURNS)]
    assert sum(int(count) for _, count, _ in groups[1:]) == 1200
    assert sorted(t for *_, tasks in groups[1:] for t in tasks.split(",")) == sorted(TURNS)


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
    assert "| 250,000 | one each | 3.0 T | 25.0 ± 5 % |" in text and "Not measured" not in text


def test_a_page_of_some_says_which_ways_are_missing():
    about = {"hardware": "a machine", "threads": 2, "torch": "2", "commit": "abc"}
    rows = [row(name) for name in CASES if name not in ("illume", "small-reading")]
    text = page(rows, about)
    assert f"Not measured yet: {TITLES['illume']}." in text
    assert text.count("| one model |") == len(SIZES) - 1


def test_every_way_has_a_title_and_a_tokenizer_that_its_model_takes():
    assert [*TITLES] == [*WAYS]
    for case in WAYS.values():
        recipe = case.recipe()
        tokenizer = RECIPES[TOKENIZERS[case.tokenizer]]().model
        recipe.model.check_spec(tokenizer.spec)
        assert case.eye == (recipe.model.sight is not None)
        assert recipe.row * recipe.train.batch == pytest.approx(2400, rel=0.55)
        assert recipe.model.language.dim == 192 if hasattr(recipe.model, "language") else True


def test_what_a_way_needs_is_asked_for(capsys, tmp_path):
    shop = Shop(tmp_path, (("codes", tmp_path),))
    shop.require(WAYS["chameleon"])
    for name, words in (("illume", "dual=DIR is missing, made by shapes_dual"),
                        ("janus", "--towers DIR is missing, made by shapes_siglip")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            shop.require(WAYS[name])
    for words, *arguments in (
        ("codes=DIR is missing, made by shapes_vqgan", "--only", "janus"),
        ("must be NAME=DIR, NAME one of codes, numbers,", "--tokenizer", "vq=runs"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and words in capsys.readouterr().err

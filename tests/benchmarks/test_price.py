"""The price list: every way stands behind the exact one of its pipeline, and the page has it."""

import shutil
from argparse import Namespace
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import price


def test_exact_drawing_stands_first():
    kinds = [way.kind for way in price.WAYS]
    first = {kind: kinds.index(kind) for kind in kinds}
    for i, way in enumerate(price.WAYS):
        assert (way.flags == price.EXACT) == (i == first[way.kind]), way
        assert first[way.kind] + kinds.count(way.kind) > i, "those of a pipeline stand together"


def test_the_page_has_the_table(tmp_path, monkeypatch):
    line = {"faster_1": 1.254, "faster_64": 0.9, "fwd_exact": 0.4567, "fwd_real": 2.0}
    lines = {way.case: line for way in price.WAYS} | {"vq exact": line | {"accuracy": 0.618}}
    monkeypatch.setattr(price, "sheet", lambda *given: Image.new("RGB", (4, 4)))
    shutil.copy(ROOT / "docs" / "performance.md", tmp_path)
    for _ in range(2):
        price.written(lines, Namespace(docs=tmp_path, runs=tmp_path, reference=""))
        page = (tmp_path / "performance.md").read_text(encoding="utf-8")
        assert page.count("| vq | exact | 1.25 | 0.90 | 0.457 | 2 | 62 % |") == 1
        assert page.count("| scales | `--prune 0.4 0.5` | 1.25 | 0.90 | 0.457 | 2 |  |") == 1
    assert (tmp_path / "price.png").is_file()

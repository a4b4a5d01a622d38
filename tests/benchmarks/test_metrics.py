"""The table of every metric, of a small pipeline."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import pipeline

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import metrics


@pytest.mark.usefixtures("float32")
def test_a_row_for_each_metric_and_a_column_for_each_system(tmp_path, monkeypatch, capsys):
    pipe = pipeline("llamagen-text")
    pipe.info |= {"source": "shapes:200", "holdout": 0.1}
    pipe.save_pretrained(tmp_path / "generator" / "pipeline")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer").symlink_to(tmp_path / "generator/pipeline/tokenizer")
    names = {part: SimpleNamespace(__name__=part) for part in ("tokenizer", "generator")}
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(metrics, "DEMOS", {"llamagen": SimpleNamespace(**names)})
    monkeypatch.setattr(metrics, "SOURCE", "shapes:200")
    monkeypatch.setattr(sys, "argv", ["metrics", str(tmp_path), "--n", "4", "--level", "3"])
    metrics.main()
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["case"] for row in rows] == ["real", "LlamaGen", "tokenizer"]
    assert {"fwd", "bits_per_token", "matching_all"} <= rows[1].keys() and "psnr" in rows[2]
    assert rows[1]["fwd"] > 0 and set(rows[2]["intervals"]) >= {"rfwd", "psnr", "usage"}
    first, second = told.err.split("\n\n")[-2:]
    assert "| fwd |" in first and "LlamaGen" in first and "| rfwd |" in second

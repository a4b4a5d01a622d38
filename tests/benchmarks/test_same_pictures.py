"""Exact parallel drawing beside drawing in turn: it goes on where it ended, and others are told."""

import json
import sys
from pathlib import Path

import pytest
import torch

from builders import pipeline

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "tests" / "fixtures" / "before" / "pipeline"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import same_pictures


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run() -> tuple[int, dict]:
        words = f"same {PIPELINE} --out {tmp_path / 'lines'} --images 6 --batch 4 --windows 4 0"
        monkeypatch.setattr(sys, "argv", words.split())
        monkeypatch.setattr(same_pictures.torch, "set_num_threads", lambda count: None)
        with pytest.raises(SystemExit) as end:
            same_pictures.main()
        return int(end.value.code or 0), json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_what_was_cut_off_goes_on(run, tmp_path, monkeypatch):
    code, told = run()
    assert code == 0 and told["window_4_others"] == told["window_0_others"] == 0
    assert 1 <= told["window_4_passes"] < told["codes"] == 16
    lines = (tmp_path / "lines").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(line)["images"] for line in lines) == 2 * 6
    (tmp_path / "lines").write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    drawn, compared = list[int](), same_pictures.compared

    def watched(pipe, every, first, *rest):
        drawn.append(first)
        return compared(pipe, every, first, *rest)

    monkeypatch.setattr(same_pictures, "compared", watched)
    assert run() == (code, told) and drawn == [4]
    assert run() == (code, told) and drawn == [4]


def test_captions_in_turn(monkeypatch):
    pipe = pipeline("llamagen-text")
    pipe.info |= {"source": "shapes:40", "holdout": 0.1}
    every = same_pictures.wanted(pipe)
    assert len(every) == 4 and all("at the" in a["text"] or "centre" in a["text"] for a in every)
    both, again = (same_pictures.conditions(pipe, every, *at) for at in ((3, 2), (7, 1)))
    assert both.text.shape[0] == 2 and torch.equal(both.text[:1], again.text)


def test_another_picture_is_told(run, monkeypatch):
    plain = same_pictures.drawn

    def spoiled(model, request):
        codes, passes, seconds = plain(model, request)
        if request.parallel.window == 4:
            codes[0, -1] += 1
        return codes, passes, seconds

    monkeypatch.setattr(same_pictures, "drawn", spoiled)
    code, told = run()
    assert code == 1 and told["window_4_others"] == 2 and told["window_0_others"] == 0

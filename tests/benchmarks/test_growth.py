"""Steps of growing batches and grids: each once, and at the slot that is named."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smalti.models import llamagen
from smalti.runs.bench import Bench

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import growth


def test_each_step_is_measured_once_and_grids_in_turn():
    options = Namespace(recipe="llamagen_b", batches=[1, 8, 64], sides=[16, 24])
    found = growth.cases(options)
    assert len(found) == len(set(found)) == 1 + 2 * 2 * 3
    assert [case.side for case in found] == [16] * 7 + [24] * 6
    assert {case.at for case in found if case.side == 24} == {1, 288, 575}
    assert [case.at for case in found if case.batch == 64] == [128]


@torch.inference_mode()
def test_a_step_reads_the_cache_up_to_its_slot(monkeypatch):
    for rate in ("bandwidth", "product_rate"):  # which take a second to measure
        monkeypatch.setattr(growth.rates, rate, lambda *what: 1e9)
    model = llamagen.LlamaGen(replace(llamagen.tiny(), grid=(4, 4))).eval()
    seen = list[int]()
    plain = model.hidden
    model.hidden = lambda codes, cond, span, cache: (  # type: ignore[method-assign]
        seen.append(span.reach),
        plain(codes, cond, span, cache),
    )[1]
    case = growth.Case("tiny", 4, 2, 15)
    line = growth.measured(model, case, 2, Bench(torch.device("cpu"), torch.float32))
    assert seen == [16] * 3, "one step is not counted"
    assert line["ms_per_picture"] == line["ms"] / 2 and line["slot"] == 15
    cache = model.cache(4)
    assert growth.cache_bytes(cache, case) == cache.nbytes * 16 / 17

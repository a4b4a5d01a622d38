"""Beside official code: steps of a whole picture are timed, or those of its middle."""

from argparse import Namespace
from itertools import count
from pathlib import Path

import pytest
import torch

from builders import build, models
from smalti.pipeline.sampling import Sampling
from smalti.runs.bench import GOALS, Drawer

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers


@pytest.mark.parametrize(("steps", "timed"), [(0, range(2, 16)), (4, range(7, 11))])
def test_steps_are_of_the_whole_picture_or_of_its_middle(monkeypatch, steps, timed):
    monkeypatch.setattr(peers, "limit", lambda *given: 1.0)
    of = Drawer("tiny", build(*models()["llamagen"]), Sampling(), GOALS["causal"])
    assert of.model.spec.positions == 16
    theirs, clock = count(), count(step=0.5)
    setting = peers.Setting(torch.float32, 3, Namespace(steps=steps))
    case = peers.steps("tiny", setting, of, 1, theirs)
    found = peers.measured(case, lambda: next(clock))
    assert next(theirs) == timed.stop and found["rounds"] == len(timed)
    assert found["ratio"] == found["ratio_mean"] == 1 and found["smalti_ms_mean"] == 500

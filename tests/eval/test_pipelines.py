from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from smalti.eval import pipelines
from smalti.eval.conditioning import Recognised
from smalti.eval.metrics import How
from smalti.eval.sets import open_set


def test_accuracies_say_of_which_pictures_they_are(tmp_path, monkeypatch):
    drawn = Recognised(np.array([0, 0, 1, 1]), np.array([True, False, True, True]))
    held = Recognised(np.arange(30).repeat(2), np.ones(60, bool))
    monkeypatch.setattr(pipelines, "class_accuracy", lambda *_: (drawn, held))
    monkeypatch.setattr(pipelines, "oracle", pytest.fail)
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    (tmp_path / "p" / "cats").mkdir(parents=True)
    (tmp_path / "p" / "dogs").mkdir()
    for name in ("cats", "dogs"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p" / name / "1.png")
    pictures = open_set(tmp_path / "a.npz")
    found = pipelines.conditioning(pictures, f"folder:{tmp_path / 'p'}", How(draws=20))
    told = {m.metric: (m.value, m.images, m.resampled) for m in found}
    assert told == {
        "class_accuracy_4": (0.75, 4, "images"),
        "class_held_out_accuracy_60": (1.0, 60, "reference"),
        "class_chance": (0.5, 0, "images"),
    }
    assert [m.interval is None for m in found] == [False, False, True]


def test_what_is_drawn_from_captions_of_shapes_has_a_judge_whatever_learned_them():
    def learned(source: str) -> SimpleNamespace:
        return SimpleNamespace(info={"source": source} if source else {}, classes=[])

    for source in ("shapes:20", "captioned:shapes:20"):
        assert pipelines.source_of(learned(source)) == "shapes:20"
        pipelines.check_judge(learned(source))
    for source, what in (
        ("captioned:emoji", "captions of other sources"),
        ("", "without a source"),
    ):
        with pytest.raises(ValueError, match=what):
            pipelines.check_judge(learned(source))

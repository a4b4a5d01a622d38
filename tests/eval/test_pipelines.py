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
    monkeypatch.setattr(pipelines, "class_accuracy", lambda *_, **__: (drawn, held))
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


def learned(source: str, **more) -> SimpleNamespace:
    info = {"source": source} if source else {}
    return SimpleNamespace(**{"info": info, "classes": [], "map": None} | more)


@pytest.fixture
def named(tmp_path):
    """Six pictures of three names in two classes."""
    for i, name in enumerate(("grin", "grin", "laugh", "pear", "pear", "fig")):
        folder = tmp_path / "named" / ("faces" if i < 3 else "food")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(name)
    return f"folder:{tmp_path / 'named'}"


def test_what_is_drawn_from_captions_of_shapes_has_a_judge_whatever_learned_them(named):
    for source in ("shapes:20", "captioned:shapes:20"):
        assert pipelines.source_of(learned(source)) == "shapes:20"
        pipelines.check_judge(learned(source), open_set("shapes:20"))
        assert pipelines.asked_of(learned(source), open_set("shapes:20"), 4) is None
    other = named.replace("named", "named/food")
    for pipe, reference, what in (
        (learned(""), named, "no judge of a pipeline without a source"),
        (learned(named, map="edges"), named, "no judge of what is drawn from maps"),
        (learned(other), other, "2 classes, got 0 of the captions of the reference"),
        (learned("shapes:20", classes=["a"]), named, "2 classes, got 1 of the pipeline"),
        (learned(named), "shapes:20", r"has other classes \(faces, food\) than the captions of"),
    ):
        with pytest.raises(ValueError, match=what):
            pipelines.check_judge(pipe, open_set(reference))


def test_captions_are_judged_by_the_classes_of_their_pictures(named, tmp_path, monkeypatch):
    pipe, reference, found = learned(f"captioned:{named}"), open_set(named), []
    pipelines.check_judge(pipe, reference)
    for balanced, texts in (
        (False, ["grin", "grin", "laugh", "pear", "pear", "fig"]),
        (True, ["grin", "laugh", "pear", "fig"]),
    ):
        assert pipelines.asked(pipe, reference, balanced) == {"text": texts}
        labels = pipelines.asked_of(pipe, reference, 8, balanced)
        faces = {"grin", "laugh"}
        turns = [texts[i % len(texts)] for i in range(8)]
        assert labels.tolist() == [int(text not in faces) for text in turns]

    def judge(drawn, source, labels):
        found.append((source, labels.tolist()))
        some = Recognised(labels, np.ones(8, bool))
        return some, some

    monkeypatch.setattr(pipelines, "class_accuracy", judge)
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((8, 8, 8, 3), np.uint8))
    measured = pipelines.conditioning(open_set(tmp_path / "a.npz"), named, How(draws=0), labels)
    assert [m.metric for m in measured][0] == "class_accuracy_8"
    assert found == [(named, labels.tolist())]

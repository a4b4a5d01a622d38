"""What towers know, counted by hand and by slow loops."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from smalti.eval.clip import clip_score, cmmd
from smalti.eval.matching import CAPTIONS
from smalti.eval.metrics import How
from smalti.eval.sets import open_set
from smalti.eval.towers import (
    Seen,
    clip_score_of,
    cmmd_of,
    features_of,
    named_in,
    ranks,
    retrieval,
    seen,
    zero_shot,
)
from smalti.models.towers import Matcher, Towers, tiny
from smalti.text.words import Words

HOW = How((), draws=20)


@pytest.fixture(scope="module")
def matcher():
    words = Words.train(["a small red circle at the top left"], 300)
    torch.manual_seed(0)
    return Matcher(Towers(replace(tiny(), size=16).fitted(words)).eval(), words)


class Knowing:
    """Reads texts as one direction each, and in pictures sees the text that it is told."""

    def __init__(self, texts, towers):
        self.texts, self.towers = list(texts), towers

    def fits(self, text):
        return True

    def read(self, texts):
        return F.one_hot(
            torch.tensor([self.texts.index(t) for t in texts]), len(self.texts)
        ).float()


def values(found):
    return {m.metric.rpartition("_")[0]: m.value for m in found}


def test_ranks_are_counted():
    torch.manual_seed(0)
    pictures, texts = (F.normalize(torch.randn(n, 4), dim=-1) for n in (7, 3))
    own = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    near = pictures @ texts.T
    to_text, to_image = ranks(pictures, texts, own)
    for i, j in enumerate(own):
        assert to_text[i] == sum(near[i, k] >= near[i, j] for k in range(3) if k != j)
    for j in range(3):
        best = max(near[i, j] for i in range(7) if own[i] == j)
        assert to_image[j] == sum(near[i, j] >= best for i in range(7) if own[i] != j)


def test_who_makes_no_difference_finds_nothing():
    same = torch.ones(4, 2)
    to_text, to_image = ranks(same, same[:3], torch.tensor([0, 1, 2, 2]))
    assert to_text.tolist() == [2, 2, 2, 2] and to_image.tolist() == [3, 3, 2]


def test_blocks_make_no_difference(monkeypatch):
    pictures, texts = torch.randn(9, 4), torch.randn(5, 4)
    own = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    whole = ranks(pictures, texts, own)
    monkeypatch.setattr("smalti.eval.towers.BLOCK", 2)
    assert all(map(torch.equal, ranks(pictures, texts, own), whole))


def test_retrieval_counts_equal_texts_once(matcher):
    pictures = open_set("shapes:40", 16)
    texts = [pictures.caption(i) for i in range(40)]
    every = list(dict.fromkeys(texts))
    knows: Any = Knowing(every, matcher.towers)
    right = Seen(knows, pictures, list(range(40)), knows.read(texts))
    assert set(values(retrieval(right, HOW)).values()) == {1.0}
    wrong = right.features.clone()
    wrong[0] = right.features[texts.index(next(t for t in texts if t != texts[0]))]
    found = values(retrieval(Seen(knows, pictures, list(range(40)), wrong), HOW))
    assert found["image_to_text_1"] == pytest.approx(39 / 40)
    assert found["image_to_text_5"] == pytest.approx(39 / 40)  # all others are equally far


def test_attributes_are_those_of_the_nearest_caption(matcher):
    pictures = open_set("shapes:30", 16)
    numbers = list(range(30))
    knows: Any = Knowing(CAPTIONS, matcher.towers)
    texts = [pictures.caption(i) for i in numbers]
    found = values(zero_shot(Seen(knows, pictures, numbers, knows.read(texts)), HOW))
    names = ("", "_colour", "_shape", "_size", "_position", "_all")
    assert found == {f"zero_shot{name}": 1.0 for name in names}
    other = next(c for c, a in CAPTIONS.items() if a == CAPTIONS[texts[0]]._replace(size="small"))
    if other == texts[0]:
        other = texts[0].replace("small", "large")
    found = values(zero_shot(Seen(knows, pictures, numbers, knows.read([other, *texts[1:]])), HOW))
    assert found["zero_shot_size"] == found["zero_shot_all"] == pytest.approx(29 / 30)
    assert found["zero_shot_colour"] == found["zero_shot"] == 1.0


def test_sentences_of_classes_are_read_off_captions():
    captions = ["a small red circle", "a large blue star", "a small blue star"]
    classes = ["red circle", "blue star", "blue star"]
    assert named_in(captions, classes) == ("a small {}", "a large {}")
    assert named_in(captions, ["red circle", "blue star", "cat"]) == ()


def test_classes_are_means_of_their_sentences(matcher, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cats", "dogs", "cows"):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    pictures = open_set(f"folder:{tmp_path}", 16)
    found = seen(matcher, pictures)
    templates = ("a {}", "no {} at all")
    (told,) = zero_shot(found, HOW, templates)
    vectors = torch.stack(
        [
            matcher.read([t.replace("{}", name) for t in templates]).sum(0)
            for name in pictures.classes
        ]
    )
    best = (found.features @ F.normalize(vectors, dim=-1).T).argmax(1).numpy()
    assert told.value == pytest.approx(np.mean(best == pictures.labels[found.numbers]))
    assert told.metric == "zero_shot_12" and "of 3 classes, each in 2 sentences" in told.definition
    assert "a photo of a {}." in zero_shot(found, HOW)[0].definition
    with pytest.raises(ValueError, match="must have {} where a class is named, got 'a cat'"):
        zero_shot(found, HOW, ["a cat"])


def test_scores_are_those_of_their_formulas(matcher):
    a, b = (seen(matcher, open_set(name, 16)) for name in ("shapes:25", "shapes:30"))
    texts = matcher.read([a.pictures.caption(i) for i in range(25)])
    for some in (a, replace(a, features=-a.features)):
        (score,) = clip_score_of(some, HOW)
        assert score.value == pytest.approx(clip_score(some.features, texts), rel=1e-6)
        assert score.metric == "clip_score_25" and score.interval
        assert score.interval[0] <= score.value <= score.interval[1]
    (apart,) = cmmd_of(a, b, HOW)
    assert apart.value == pytest.approx(cmmd(a.features, b.features), rel=1e-9)
    assert apart.interval and apart.interval[0] <= apart.value <= apart.interval[1]
    assert apart.reference == b.pictures.hash and apart.reference_images == 30


def test_texts_that_are_cut_are_told(matcher, capsys):
    found = seen(matcher, open_set("shapes:4", 16))
    texts = set(found.texts())
    assert not any(map(matcher.fits, texts)) and matcher.fits("a small")
    for measure in (clip_score_of, retrieval):
        measure(found, HOW)
        told = f"{len(texts)} of {len(texts)} texts are longer than the 8 ids that the towers read"
        assert told in capsys.readouterr().err
    features_of(matcher, ["a small"])
    assert not capsys.readouterr().err


def test_pictures_without_words_or_classes_are_refused(matcher, tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    found = seen(matcher, open_set(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="does not say what picture 0 is to show"):
        clip_score_of(found, HOW)
    with pytest.raises(ValueError, match="zero_shot needs at least 2 classes and one of each"):
        zero_shot(found, HOW)
    statistics = SimpleNamespace(mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "b.npz", **vars(statistics))
    with pytest.raises(ValueError, match="a tower needs pictures"):
        seen(matcher, open_set(tmp_path / "b.npz"))

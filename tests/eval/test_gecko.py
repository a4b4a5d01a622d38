"""Marks of words by readers that are oracles, that lie, and that cannot answer."""

import numpy as np
import pytest
from PIL import Image

from smalti.data.drawn_shapes import Attributes, draw, recognise
from smalti.eval.gecko import Answer, Judged, agreement, judged, named, records
from smalti.eval.metrics import How
from smalti.eval.prompts import COLOURS, NUMBERS, YES, prompt_of
from smalti.eval.sets import open_set
from smalti.files import write_json

HOW = How((), draws=50, batch=4)
ASKS = {"What colour": "colour", "Which shape": "shape", "How large": "size", "Where": "position"}


class Oracle:
    """Reads the one shape of a picture from its pixels."""

    fingerprint = "oracle"

    def __init__(self, **instead):
        self.instead, self.asked = instead, 0

    def read(self, asked):
        self.asked += len(asked)
        return [self.answer(one) for one in asked]

    def answer(self, one):
        seen = recognise(np.asarray(one.pictures[0]))
        name = next(n for begin, n in ASKS.items() if one.text.startswith(begin))
        return self.instead.get(name, "nothing" if seen is None else getattr(seen, name))


@pytest.fixture
def drawn(tmp_path):
    """Pictures in an .npz file with what they were to show."""

    def of(pictures, texts):
        np.savez(tmp_path / "d.npz", arr_0=np.stack([np.asarray(p) for p in pictures]))
        write_json(tmp_path / "d.json", {"text": texts, "first": 0})
        return open_set(tmp_path / "d.npz")

    return of


def values(found):
    return {m.metric.rpartition("_")[0]: m.value for m in found}


RIGHT = [Attributes("red", "heart", "small", "at the top left"),
         Attributes("blue", "star", "large", "in the centre"),
         Attributes("green", "circle", "small", "at the bottom right")]  # fmt: skip
TEXTS = [one.caption for one in RIGHT]


def test_right_pictures_are_right(drawn):
    pictures, reader = drawn([draw(one) for one in RIGHT], TEXTS), Oracle()
    found = judged(pictures, reader, HOW)
    assert reader.asked == 12 and [one.score for one in found] == [1, 1, 1]
    assert found[0].marks == [
        "not asked", "right", "right", "right", "not asked", "not asked", "right", "right"
    ]  # fmt: skip
    told = values(records(found, reader, pictures, HOW))
    assert told["gecko"] == told["gecko_colour"] == told["gecko_agreement_words"] == 1
    assert told["gecko_unanswered"] == 0 and 0.5 < told["gecko_covered"] < 0.7


def test_one_wrong_attribute_marks_its_words(drawn):
    wrong = [RIGHT[0]._replace(colour="blue"), RIGHT[1]._replace(position="at the top left"),
             RIGHT[2]._replace(shape="star")]  # fmt: skip
    pictures = drawn([draw(one) for one in wrong], TEXTS)
    found = judged(pictures, Oracle(), HOW)
    marked = [
        [word for word, mark in zip(one.prompt.words, one.marks, strict=True) if mark == "wrong"]
        for one in found
    ]
    assert marked == [["red"], ["centre"], ["circle"]]
    assert [one.score for one in found] == pytest.approx([4 / 5, 3 / 4, 4 / 5])
    told = values(records(found, Oracle(), pictures, HOW))
    assert told["gecko"] == pytest.approx((4 / 5 + 3 / 4 + 4 / 5) / 3)
    assert told["gecko_colour"] == pytest.approx(2 / 3) and told["gecko_agreement_all"] == 1


def test_agreement_is_counted_where_a_reader_is_wrong(drawn):
    pictures = drawn([draw(one) for one in RIGHT], TEXTS)
    found = judged(pictures, Oracle(colour="red"), HOW)
    same = agreement(found)
    assert same["colour"] == [1, 0, 0] and same["shape"] == [1, 1, 1]
    assert same["words"] == same["right"] == [1, 0.75, 0.75] and same["all"] == [1, 0, 0]
    wrong = drawn([draw(RIGHT[0]._replace(colour="blue", size="large"))], TEXTS[:1])
    same = agreement(judged(wrong, Oracle(colour="red"), HOW))
    assert same["wrong"] == [0.5] and same["right"] == [1] and same["words"] == [0.75]
    blank = drawn([Image.new("RGB", (64, 64), "white")], TEXTS)
    assert agreement(judged(blank, Oracle(), HOW))["words"] == [1]  # both see nothing of it


def test_who_does_not_answer_is_wrong_and_counted(drawn):
    pictures, said = drawn([draw(one) for one in RIGHT], TEXTS), []
    reader = Oracle(colour="", shape="heart or star")
    found = judged(pictures, reader, HOW, said.append)
    told = values(records(found, reader, pictures, HOW))
    assert told["gecko_unanswered"] == 0.5 and told["gecko_colour"] == told["gecko_shape"] == 0
    assert said == [
        "gecko: 6 of 12 questions were not answered, which counts as wrong, such as "
        "'What colour is the heart?' by ''"
    ]
    judged(pictures, Oracle(colour="well " * 500), HOW, said.append)
    assert len(said[1]) < 250


def test_records_say_what_they_are(drawn):
    pictures = drawn([draw(one) for one in RIGHT], TEXTS)
    reader = Oracle(size="small")
    found = records(judged(pictures, reader, HOW), reader, pictures, HOW)
    names = ["gecko", "gecko_colour", "gecko_shape", "gecko_size", "gecko_position"]
    names += ["gecko_covered", "gecko_unanswered"]
    kinds = ("words", "right", "colour", "shape", "size", "position")
    names += [f"gecko_agreement_{kind}" for kind in kinds]
    assert [m.metric for m in found] == [f"{name}_3" for name in [*names, "gecko_agreement_all"]]
    assert all(m.extractor == "oracle" and m.kind == "conditioning" for m in found)
    first = found[0]
    assert first.interval and first.interval[0] < first.value < first.interval[1]
    assert {m.better for m in found if m.metric != "gecko_unanswered_3"} == {"higher"}


def test_free_prompts_have_no_oracle_and_are_told_what_is_not_asked(drawn):
    texts, said = ["a red cat at night", "cats", "two dogs"], []
    pictures = drawn([draw(one) for one in RIGHT], texts)

    class Says:
        fingerprint = "says"

        def read(self, asked):
            return ["Yes." if one.text.startswith(("Is", "Are")) else "red" for one in asked]

    found = judged(pictures, Says(), HOW, said.append)
    assert [one.number for one in found] == [0, 2] and found[1].score == 0.5
    assert said[0] == "gecko: 1 pictures left out: templates know nothing of their prompts"
    assert said[1] == "gecko: no question covers the words a, at, night"
    assert "1 of 4 questions were not answered" in said[2]
    told = values(records(found, Says(), pictures, HOW))
    assert "gecko_agreement_words" not in told and told["gecko_number"] == 0
    with pytest.raises(ValueError, match="no oracle of pictures of 'a red cat"):
        agreement(found)
    with pytest.raises(ValueError, match="its templates know nothing of the prompts of"):
        judged(drawn([draw(RIGHT[0])], ["cats"]), Says(), HOW)
    with pytest.raises(ValueError, match="does not say what picture 0 is to show"):
        judged(drawn([draw(RIGHT[0])], []), Says(), HOW)


@pytest.mark.parametrize(
    ("said", "allowed", "meant"),
    [
        ("The cat is red.", COLOURS, "red"),
        ("red", COLOURS, "red"),
        ("reddish", COLOURS, ""),
        ("red and blue", COLOURS, ""),
        ("Gray", COLOURS, "grey"),
        ("there are 2", NUMBERS, "two"),
        ("Yes, it is", YES, "yes"),
        ("yes and no", YES, ""),
        ("it is at the top left", ("at the top left", "at the bottom left"), "at the top left"),
        ("", YES, ""),
    ],
)
def test_the_answer_that_is_named(said, allowed, meant):
    assert named(said, allowed) == meant


def test_a_word_that_two_questions_cover_needs_both():
    prompt = prompt_of("red circle")
    first, second = prompt.questions
    both = first._replace(text="What is it?", covers=(0, 1))
    answers = (Answer(first, "red"), Answer(both, "blue"), Answer(second, "circle"))
    one = Judged(0, prompt, answers)
    assert one.marks == ["wrong", "wrong"] and one.score == 0
    assert one.told()["words"] == [("red", "wrong"), ("circle", "wrong")]

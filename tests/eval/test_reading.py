"""Questions of documents, and what is measured of answers."""

import json

import numpy as np
import pytest
from PIL import Image

from smalti.data.documents import CAPTION, Piece, asked
from smalti.eval.metrics import How
from smalti.eval.reading import (
    Answered,
    Asked,
    Questions,
    Reader,
    Unread,
    answered,
    known_in,
    measured,
)
from smalti.pipeline.conversation import Phrases

HOW = How((), draws=30)


class Says:
    """Answers in turn, and keeps what it was asked."""

    fingerprint = "says"

    def __init__(self, *said):
        self.said, self.asked = said, []

    def read(self, asked):
        start = len(self.asked)
        self.asked += asked
        return [self.said[(start + i) % len(self.said)] for i in range(len(asked))]


@pytest.fixture
def file(tmp_path):
    """A .jsonl file of rows about one red picture."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")

    def of(*rows):
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"qa:{tmp_path / 'q.jsonl'}"

    return of


def values(found):
    return {m.metric: m.value for m in found}


TEN = ["red"] * 2 + ["dark red"] * 3 + ["pink"] * 5


def test_a_document_is_asked_what_it_begins_with():
    picture, question = Piece(image=Image.new("RGB", (4, 4)), learned=False), asked("Which?")
    ask = Piece(question, learned=False)
    one = known_in([picture, ask, Piece("this"), Piece("more", learned=False)])
    assert one and one.asked == Asked((picture.image,), "Which?") and one.answers == ("this",)
    two = known_in([picture, picture, ask, Piece("a", answers=("a", "b"))])
    assert two and len(two.asked.pictures) == 2 and two.answers == ("a", "b")
    for document in (
        [Piece("a cat", learned=False), picture],
        [Piece("a cat", learned=False), Piece(image=picture.image)],
        [Piece("The sea is "), Piece("blue")],
        [picture, Piece("make it blue", learned=False), Piece("done")],
        [ask, ask, Piece("this")],
        [picture],
    ):
        assert known_in(document) is None


def test_what_is_asked_is_put_in_the_manner_of_the_pipeline():
    class Pipe:
        fingerprint, phrases = "abc", Phrases(caption="<image>!", ask="Q: {} A:")

        def __init__(self):
            self.put = []

        def room(self, pieces):
            return 1

        def answers(self, documents, seed, first):
            self.put += [(pieces, seed, first) for pieces in documents]
            return ["x"] * len(documents)

    pipe, image = Pipe(), Image.new("RGB", (4, 4))
    reader = Reader(pipe, batch=2, seed=3)
    given = [Asked((image,), "Which?"), Asked((), "2 + 2?"), Asked((image,), CAPTION.strip())]
    assert reader.read(given) == ["x"] * 3 and reader.fingerprint == "abc"
    assert [pieces for pieces, _, _ in pipe.put] == [
        [image, "Q: Which? A:"], ["Q: 2 + 2? A:"], [image, "!"]
    ]  # fmt: skip
    assert [(seed, first) for _, seed, first in pipe.put] == [(3, 0), (3, 0), (3, 2)]
    reader.read(given[:1])
    assert pipe.put[-1][2] == 3


def test_people_may_give_several_answers(file):
    name = file({"image": "a.png", "question": "Which colour?", "answer": TEN},
                {"question": "2 + 2?", "answer": "4"})  # fmt: skip
    reader = Says("Red.", "four")
    found = answered(reader, Questions.open(name))
    assert found.answers == [tuple(TEN), ("4",)] and found.said == ["Red.", "four"]
    assert np.asarray(reader.asked[0].pictures[0])[0, 0].tolist() == [255, 0, 0]
    assert values(measured(found, ["exact_match"], HOW)) == {"exact_match_2": 1}
    one = Answered(found.asked[:1], found.answers[:1], found.said[:1])
    assert values(measured(one, ["vqa"], HOW))["vqa_1"] == pytest.approx(0.6)
    documents = Questions.open(name).documents
    assert documents[0][-1].text == "pink" and documents.texts(0) == ["Which colour?\n", "pink"]


def test_the_answers_of_people_are_part_of_what_documents_are(file):
    rows = [{"question": "a", "answer": answer} for answer in ("b", ["b"], ["b", "b", "c"])]
    assert len({Questions.open(file(row)).documents.fingerprint() for row in rows}) == 3


def test_captions_of_a_source_are_questions(capsys):
    questions = Questions.open("shapes:5")
    captions = [questions.documents[2 * i][0].text for i in range(5)]
    assert questions.name == "shapes:5" and len(questions) == 10
    reader = Says(*captions)
    found = answered(reader, questions, batch=4)
    assert {one.text for one in reader.asked} == {CAPTION.strip()}
    told = values(measured(found, ["cider_d", "cider", "exact_match"], HOW))
    assert told == pytest.approx({"cider_d_5": 10, "cider_5": 10, "exact_match_5": 1})
    assert "shapes:5: 5 of 10 documents ask nothing: left out" in capsys.readouterr().err
    held = Questions.open("captioned:shapes:40@held", 0.25)
    assert len(held) == 20 and len(Questions.open("captioned:shapes:40@train", 0.25)) == 60


def test_yes_and_no_have_their_own_numbers():
    found = Answered(["?"] * 4, [("yes",), ("no",), ("Yes.",), ("yes",)],
                     ["Yes, it is", "yes", "no", "it is"])  # fmt: skip
    records = measured(found, ["yes_no"], HOW, reference="abc")
    told = values(records)
    assert told == pytest.approx({
        "yes_no_f1_4": 2 / 3, "yes_no_precision_4": 2 / 3, "yes_no_recall_4": 2 / 3,
        "yes_no_share_4": 0.75,
    })  # fmt: skip
    assert all(m.interval and m.interval[0] <= m.value <= m.interval[1] for m in records)
    assert {m.reference for m in records} == {"abc"} and records[0].kind == "reading"
    with pytest.raises(ValueError, match="answered by yes or no, got 'perhaps'"):
        measured(Answered(["?"], [("perhaps",)], ["yes"]), ["yes_no"], HOW)
    spelled = Answered(["?"] * 3, [("NO",), ("No!",), ("Yes", "no", "YES", "no", "yes")],
                       ["yes", "no", "yes"])  # fmt: skip
    found = {name: value for name, value in values(measured(spelled, ["yes_no"], HOW)).items()}
    assert (found["yes_no_precision_3"], found["yes_no_recall_3"]) == (0.5, 1.0)
    most = Answered(["?"], [("no", "yes", "yes")], ["yes"])
    assert values(measured(most, ["yes_no"], HOW))["yes_no_precision_1"] == 1


def test_what_was_not_read_is_wrong():
    found = Answered(["a?"] * 4, [("yes",), ("no",), ("yes",), ("no",)], ["yes", "no", "", ""])
    unread = Answered(found.asked, found.answers, ["yes", "no", Unread(), Unread()])
    names = ["yes_no_recall_4", "yes_no_precision_4"]
    assert [values(measured(found, ["yes_no"], HOW))[n] for n in names] == [1.0, 2 / 3]  # as POPE's
    assert [values(measured(unread, ["yes_no"], HOW))[n] for n in names] == [0.5, 0.5]


def test_answers_that_a_metric_is_not_for_are_told_before_anything_is_asked(file):
    name, reader = file({"question": "2 + 2?", "answer": "4"}), Says("4")
    for metric, words in (("vqa", "at least 4 people"), ("yes_no", "by yes or no, got '4'")):
        with pytest.raises(ValueError, match=words):
            answered(reader, Questions.open(name), metrics=[metric])
    assert not reader.asked


def test_answers_that_nothing_equals_are_told(capsys):
    found = Answered(["?"], [("two",) * 9 + ("one",)], ["two"])
    assert values(measured(found, ["vqa"], HOW)) == {"vqa_1": 0}
    assert "10 answers of people cannot be met" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 4 people"):
        measured(Answered(["?"], [("two",)], ["two"]), ["vqa"], HOW)


def test_documents_that_ask_nothing(file):
    name = file({"parts": [{"text": "once upon a time"}]})
    with pytest.raises(ValueError, match="asks nothing: no document begins with a question"):
        answered(Says("x"), Questions.open(name))
    with pytest.raises(ValueError, match=r"q.jsonl, line 1: answer must be a text that is not"):
        Questions.open(file({"question": "a", "answer": []}))
    with pytest.raises(ValueError, match="line 2: answer must be a text .* got None"):
        Questions.open(file({"question": "a", "answer": "b"}, {"question": "a"}))
    with pytest.raises(ValueError, match="line 1: answer must be a text .* got 3"):
        Questions.open(file({"question": "a", "answer": ["b", 3]}))

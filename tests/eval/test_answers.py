"""Answers: VQAv2's accuracy and form beside its rules written slowly, exact match, yes and no."""

import itertools
import re

import pytest

from smalti.eval.answers import exact, is_yes, normalised, unreachable, vqa_accuracy, yes_no


@pytest.mark.parametrize(
    ("said", "form"),
    [
        ("The Sea.", "sea"),
        ("two\nCats", "2 cats"),
        ("none", "0"),
        ("ten a an the", "10"),
        ("eleven", "eleven"),
        ("1,000", "1000"),  # a comma between digits
        ("t-shirt", "t shirt"),  # a mark between letters is a blank
        ("red - blue", "red blue"),  # one beside a blank is left out
        ("a-b - c", "ab c"),  # and so are all of its kind
        ("yes, it is!", "yes it is"),
        ("3.5 m.", "3.5 m"),
        ("its dont", "its don't"),
        ("couldnt've couldn'tve couldntve", "couldn't've couldn't've couldntve"),
        ("somebody'd", "somebodyd"),
        ("shell well id", "shell well id"),  # words of their own
        ("." * 40 + "x", "." * 8 + "x"),
        ("", ""),
    ],
)
def test_the_form_of_answers(said, form):
    assert normalised(said) == form


def slow_accuracy(answer, people):
    """As the article says it: the mean over the sets that leave one person out."""
    rest = itertools.combinations(people, len(people) - 1)
    each = [min(1.0, sum(one == answer for one in some) / 3) for some in rest]
    return sum(each) / len(each)


def test_the_accuracy_is_the_mean_over_sets_of_nine():
    for count in range(11):
        people = ["red"] * count + ["blue"] * (10 - count)
        assert vqa_accuracy("Red.", people) == pytest.approx(slow_accuracy("red", people))
    counts = [vqa_accuracy("red", ["red"] * n + [str(i) for i in range(10 - n)]) for n in range(5)]
    assert counts == pytest.approx([0, 0.3, 0.6, 0.9, 1])


def test_what_people_said_is_compared_as_the_official_code_does():
    two = ["two"] * 9 + ["2"]
    assert vqa_accuracy("two", two) == pytest.approx(0.3)  # what is said becomes 2, people's stays
    assert unreachable(two) == ["two"] * 9
    differ = ["t-shirt"] * 9 + ["shirt"]
    assert vqa_accuracy("t-shirt", differ) == 1 and not unreachable(differ)
    same = ["t-shirt"] * 10  # nothing is taken away where all say the same
    assert vqa_accuracy("t-shirt", same) == 0 and len(unreachable(same)) == 10
    with pytest.raises(ValueError, match="answers of at least 4 people .* got 3: exact_match"):
        vqa_accuracy("red", ["red"] * 3)


def test_exact_match_brings_both_to_one_form():
    assert exact("The two cats.", ("2 cats",)) and exact("red", ("blue", "Red"))
    assert not exact("red cat", ("red",)) and not exact("", ("red",))
    assert exact("a.", ("A",)), "the answer of a choice is no article"
    assert not exact("", ("A",)) and not exact("the", ("A",))


def test_yes_and_no():
    for text, yes in (("Yes, it is.", True), ("No.", False), ("It is not. Yes", False), ("", True),
                      ("nothing", True), ("Yes. No", True), ("Well, no", False)):  # fmt: skip
        assert is_yes(text) is yes, text
    said, right = [True, True, False, True], [True, False, True, True]
    found = yes_no(said, right)
    assert found == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "share": 0.75})
    assert yes_no([False], [True]) == {"f1": 0, "precision": 0, "recall": 0, "share": 0}
    assert set(yes_no([], []).values()) == {0}


def test_every_mark_of_the_official_code_is_left_out():
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        assert normalised(f"red{mark} sea") == "red sea" and normalised(f"a{mark}b") == "b"
    assert re.sub(r"\W", "", normalised("it's: 5%")) == "its5" and normalised("x:y") == "x:y"

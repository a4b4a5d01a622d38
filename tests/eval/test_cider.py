"""CIDEr and CIDEr-D beside a slow reference that follows their formulas word by word."""

import math

import numpy as np
import pytest

from smalti.eval.cider import cider, words

PEOPLE = [
    ["a man rides a brown horse", "A man on a horse.", "someone rides a horse in a field"],
    ["a red bus on a street", "the bus is red and the street is wet"],
    ["two cats sleep", "two cats asleep on a sofa"],
    ["a red horse", "a horse"],
]
SAID = ["a man rides a horse", "a red red red bus", "dogs", ""]


def slow(said, people, defended):
    """The score of each caption, by loops over all runs of words that there are."""

    def runs(text, n):
        parts = text.lower().replace(".", "").split()
        return [" ".join(parts[i : i + n]) for i in range(len(parts) - n + 1)]

    def frequency(run, n):
        return sum(any(run in runs(text, n) for text in texts) for texts in people)

    def weight(text, run, n):
        rarity = math.log(len(people)) - math.log(max(1, frequency(run, n)))
        return runs(text, n).count(run) * rarity

    def norm(text, n):
        return math.sqrt(sum(weight(text, run, n) ** 2 for run in set(runs(text, n))))

    def likeness(a, b, n):
        total = 0.0
        for run in set(runs(a, n)):
            mine, theirs = weight(a, run, n), weight(b, run, n)
            total += (min(mine, theirs) if defended else mine) * theirs
        norms = norm(a, n) * norm(b, n)
        total = total / norms if norms else 0.0
        apart = len(runs(a, 2)) - len(runs(b, 2))
        return total * math.exp(-(apart**2) / 72) if defended else total

    return [
        10 * np.mean([[likeness(a, b, n) for n in (1, 2, 3, 4)] for b in texts])
        for a, texts in zip(said, people, strict=True)
    ]


@pytest.mark.parametrize("defended", [True, False])
def test_scores_are_those_of_the_formulas(defended):
    found = cider(SAID, PEOPLE, defended)
    assert found == pytest.approx(slow(SAID, PEOPLE, defended), abs=1e-12)
    assert found[0] > 1 and found[2] == 0 and found[3] == 0


def test_what_people_wrote_themselves_is_best():
    texts = ["one two three four five", "six seven eight nine ten"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx([10, 10])
    assert cider(["one two three", texts[1]], [[text] for text in texts])[0] < 8


def test_repeating_a_word_gains_where_nothing_defends():
    people = [["red bus"], ["blue car"]]
    plain, defended = (cider(["red red red", "x"], people, way)[0] for way in (False, True))
    assert plain == pytest.approx(10 / math.sqrt(2) / 4)
    assert defended == pytest.approx(10 / 3 / math.sqrt(2) / 4 * math.exp(-1 / 72))


def test_words_are_lower_case_without_punctuation():
    assert words("Don't touch: the T-shirt, 5%!") == ["don't", "touch", "the", "t-shirt", "5"]
    assert words("l’été — 東京.") == ["l’été", "東京"] and words("") == []


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="at least 2 pictures"):
        cider(["a"], [["a"]])
    with pytest.raises(ValueError, match="got 2 and 1"):
        cider(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="at least one text of people of each"):
        cider(["a", "b"], [["a"], []])

"""Whether a written answer is right: as VQAv2's evaluation code counts it, exactly, by yes and no.

The accuracy is that of Antol et al. 2015 (VQA, arXiv:1505.00468) as the evaluation code of VQAv2
(Goyal et al. 2016, arXiv:1612.00837) computes it.

Unusual: that code brings what a model says into its own form (no articles, digits for numbers, no
punctuation), but of what people said it takes only punctuation away, and only where they differ.
So an answer of people such as "two" is never right there; `unreachable` finds those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ARTICLES = ("a", "an", "the")
NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
"""Punctuation that is left out, or a blank: where the text has a comma between digits, or the mark
somewhere beside a blank, it is left out."""
COMMA, PERIOD = re.compile(r"\d,\d"), re.compile(r"\.(?!\d)")
PERIODS = 32
"""So many periods are left out at most: the official code gives a flag in the place of a count."""
SHORT = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've "
    "you'd you'd've you'll you're you've"
).split()
APOSTROPHES = {"somebody'd": "somebodyd"} | {
    word[:at] + word[at + 1 :]: word
    for word in SHORT
    for at in (i for i, letter in enumerate(word) if letter == "'")
}
"""Contractions that lack one apostrophe, and what they are brought to."""
PEOPLE = 4
"""So many answers of people a question needs: of fewer no answer could be wholly right."""


def without_marks(text: str) -> str:
    """A text without punctuation, as the official code has it."""
    comma, left = COMMA.search(text), text
    for mark in MARKS:
        gone = comma or f"{mark} " in text or f" {mark}" in text
        left = left.replace(mark, "" if gone else " ")
    return PERIOD.sub("", left, count=PERIODS)


def normalised(text: str) -> str:
    """An answer in the form in which VQAv2's answers are: lower case, without punctuation and
    articles, numbers up to ten as digits, contractions with their apostrophes."""
    text = without_marks(text.replace("\n", " ").replace("\t", " ").strip())
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """How far an answer is what people said, in [0, 1]: each of them is left out in turn, and the
    answer is right by a third for each of the others who said it, at most wholly; the mean.

    Raises ValueError for fewer than 4 answers of people, who cannot make one wholly right.
    """
    if len(people) < PEOPLE:
        raise ValueError(
            f"vqa needs the answers of at least {PEOPLE} people to a question, as VQAv2 has those "
            f"of 10; got {len(people)}: exact_match is for fewer"
        )
    same = sum(said == normalised(answer) for said in _compared(people))
    others = [same - 1] * same + [same] * (len(people) - same)
    return sum(min(1.0, count / 3) for count in others) / len(people)


def unreachable(people: Sequence[str]) -> list[str]:
    """The answers of people that nothing a model says can equal, as `vqa_accuracy` compares."""
    return [said for said in _compared(people) if normalised(said) != said]


def _compared(people: Sequence[str]) -> list[str]:
    """What people said, as the official code compares it."""
    return [without_marks(said) for said in people] if len(set(people)) > 1 else list(people)


def exact(answer: str, allowed: Sequence[str]) -> bool:
    """Whether an answer is one of those that are right, both `normalised`; one of which nothing
    would be left, such as the A of a choice, keeps its articles."""

    def plain(text: str) -> str:
        return normalised(text) or without_marks(text.lower()).strip()

    return plain(answer) in {plain(one) for one in allowed}


def is_yes(answer: str) -> bool:
    """Whether an answer is yes as POPE's evaluation code takes it (Li et al. 2023,
    arXiv:2305.10355): that is, unless its first sentence has one of the words no and not."""
    words = answer.split(".")[0].replace(",", "").split()
    return not {"No", "not", "no"} & set(words)


def yes_no(said: Sequence[bool], right: Sequence[bool]) -> dict[str, float]:
    """Precision, recall and F1 of yes, and the share of yes among what was said; a ratio without a
    denominator is 0."""
    both = sum(a and b for a, b in zip(said, right, strict=True))
    precision, recall = (both / max(1, sum(some)) for some in (said, right))
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    share = sum(said) / max(1, len(said))
    return {"f1": f1, "precision": precision, "recall": recall, "share": share}

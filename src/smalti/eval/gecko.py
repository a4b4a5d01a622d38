"""Whether pictures show what their prompts say, word by word, as a reader answers questions.

In the manner of Gecko (Wiles et al. 2024, "Revisiting text-to-image evaluation with Gecko",
arXiv:2404.16820): questions cover words of the prompt, a word is right where all questions that
cover it are answered as expected, and the score of a picture is the mean over its covered words.
Questions are made by templates (`eval.prompts`), and answers come from anything that reads.

Unusual: an answer that names none of the answers that there are, or several, is wrong and counted.
On pictures of `shapes` the exact oracle is asked too, and how often both agree is told: that says
what the reader's marks are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from smalti.eval.answers import normalised
from smalti.eval.bootstrap import of_means
from smalti.eval.matching import hits
from smalti.eval.measure import preparation
from smalti.eval.metrics import PROMPTED, How
from smalti.eval.prompts import Prompt, Question, prompt_of
from smalti.eval.reading import Asked, Reads
from smalti.eval.report import Measured, counted
from smalti.eval.sets import ImageSet
from smalti.eval.towers import told
from smalti.progress import track

Mark = Literal["right", "wrong", "not asked"]
SAME = {"gray": "grey"}
"""Words that are spelled in two ways."""


class Answer(NamedTuple):
    """A question and what a reader said."""

    question: Question
    said: str

    @property
    def meant(self) -> str:
        """The one of the allowed answers that is named; '' if none or several are."""
        return named(self.said, self.question.allowed)

    @property
    def right(self) -> bool:
        return self.meant != "" and _plain(self.meant) == _plain(self.question.expected)


@dataclass(frozen=True)
class Judged:
    """A picture, its prompt, and the answers about it."""

    number: int
    """Where it is in its set."""
    prompt: Prompt
    answers: tuple[Answer, ...]
    oracle: dict[str, bool] | None = None
    """Which attributes are right, and "all" of them; None where there is no oracle."""

    @property
    def marks(self) -> list[Mark]:
        """Of each word of the prompt whether the picture shows it."""
        wrong = {i for answer in self.answers if not answer.right for i in answer.question.covers}
        covered = self.prompt.covered
        return [
            "not asked" if i not in covered else "wrong" if i in wrong else "right"
            for i in range(len(self.prompt.words))
        ]

    @property
    def score(self) -> float:
        """The share of the covered words that are right."""
        marks = [mark for mark in self.marks if mark != "not asked"]
        return marks.count("right") / len(marks)

    def told(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "picture": self.number,
            "prompt": self.prompt.text,
            "score": self.score,
            "words": list(zip(self.prompt.words, self.marks, strict=True)),
            "answers": [
                {"question": a.question.text, "expected": a.question.expected, "said": a.said,
                 "right": a.right}
                for a in self.answers
            ],
        }  # fmt: skip


def named(said: str, allowed: Sequence[str]) -> str:
    """The one of the allowed answers that an answer names, in whole words; '' if it names none of
    them or several."""
    text = f" {_plain(said)} "
    found = [one for one in allowed if f" {_plain(one)} " in text]
    return found[0] if len({_plain(one) for one in found}) == 1 else ""


def _plain(text: str) -> str:
    """A text as answers are compared."""
    return " ".join(SAME.get(word, word) for word in normalised(text).split())


def judged(
    pictures: ImageSet, reader: Reads, how: How, say: Callable[[str], None] = lambda text: None
) -> list[Judged]:
    """Ask a reader about every picture of a set what its prompt lets templates ask. `say` gets what
    a reader of the numbers should know.

    Raises ValueError for a picture that has no prompt, and if nothing can be asked of any.
    """
    pictures.require("a reader")
    prompts, found, bare = dict[str, Prompt](), list[Judged](), 0
    rows = track(pictures.numbered(how.batch), "asking", scale=how.batch, of=len(pictures))
    for some in rows:
        pixels = some.images.permute(0, 2, 3, 1).numpy()
        texts = [told(pictures, i) for i in some.numbers.tolist()]
        prompts |= {text: prompt_of(text) for text in texts if text not in prompts}
        of = [prompts[text] for text in texts]
        asked = [
            Asked((Image.fromarray(picture),), question.text)
            for picture, prompt in zip(pixels, of, strict=True)
            for question in prompt.questions
        ]
        said = iter(reader.read(asked))
        for i, picture, prompt in zip(some.numbers.tolist(), pixels, of, strict=True):
            answers = tuple(Answer(question, next(said)) for question in prompt.questions)
            bare += not answers
            if answers:
                found.append(Judged(i, prompt, answers, oracle(picture, prompt)))
    if not found:
        raise ValueError(f"gecko: its templates know nothing of the prompts of {pictures.name}")
    for text in _warnings(found, bare):
        say(text)
    return found


def oracle(picture: np.ndarray, prompt: Prompt) -> dict[str, bool] | None:
    """What the oracle of `shapes` says of uint8 pixels (H, W, 3); None of other prompts, and of
    pictures that are not square."""
    if not prompt.exact or picture.shape[0] != picture.shape[1]:
        return None
    return {name: bool(right[0]) for name, right in hits([(picture, prompt.text)]).items()}


def _warnings(found: Sequence[Judged], bare: int) -> list[str]:
    """What a reader of the numbers should know."""
    answers = [answer for one in found for answer in one.answers]
    lost = [answer for answer in answers if not answer.meant]
    lines = list[str]()
    if bare:
        lines.append(f"gecko: {bare} pictures left out: templates know nothing of their prompts")
    if not all(one.prompt.exact for one in found):
        words = {word for one in found for word in one.prompt.uncovered}
        some = ", ".join(sorted(words)[:8]) + (", ..." if len(words) > 8 else "")
        lines.append(f"gecko: no question covers the words {some}" if words else "")
    if lost:
        first = lost[0]
        lines.append(
            f"gecko: {len(lost)} of {len(answers)} questions were not answered, which counts as "
            f"wrong, such as {first.question.text!r} by {shorten(first.said, 80)!r}"
        )
    return [text for text in lines if text]


def records(found: Sequence[Judged], reader: Reads, pictures: ImageSet, how: How) -> list[Measured]:
    """The score, that of each skill, what was covered and what was not answered; where there is an
    oracle of all prompts, also how often it agrees."""
    about: dict[str, Any] = {"kind": "conditioning", "better": "higher"}
    about |= {"preparation": preparation(pictures), "extractor": reader.fingerprint}

    def record(name: str, values: Sequence[float], definition: str, **more: Any) -> Measured:
        array, count = np.array(values, np.float64), len(values)
        interval, value = of_means(array, how.draws, how.seed), float(array.mean())
        fields = about | more
        return Measured(counted(name, count), definition, value, count, interval=interval, **fields)

    definition = PROMPTED["gecko"].definition
    made = [record("gecko", [one.score for one in found], definition)]
    skills = dict.fromkeys(a.question.skill for one in found for a in one.answers)
    for skill in skills:
        text = f"gecko_{skill}/1: share of the questions about it that are answered as expected"
        made.append(record(f"gecko_{skill}", _of_skill(found, skill), text))
    covered = [len(one.prompt.covered) / len(one.prompt.words) for one in found]
    text = "gecko_covered/1: share of the words of a prompt that a question covers"
    made.append(record("gecko_covered", covered, text))
    lost = [float(np.mean([not a.meant for a in one.answers])) for one in found]
    text = "gecko_unanswered/1: share of the questions of a picture whose answer is none of those"
    made.append(record("gecko_unanswered", lost, text, better="lower"))
    if all(one.oracle is not None for one in found):
        for name, values in agreement(found).items():
            text = f"gecko_agreement_{name}/1: share in which the oracle of shapes says the same of"
            made.append(record(f"gecko_agreement_{name}", values, f"{text} {name}"))
    return made


def _of_skill(found: Sequence[Judged], skill: str) -> list[float]:
    """Of each picture that is asked about a skill the share of right answers."""
    each = ([a.right for a in one.answers if a.question.skill == skill] for one in found)
    return [sum(right) / len(right) for right in each if right]


def agreement(found: Sequence[Judged]) -> dict[str, list[float]]:
    """Of each picture whether reader and oracle say the same: of each attribute, of whether "all"
    is right, and of the "words", the share of its attributes in which they do; the same of those
    that are "right" and "wrong" to the oracle, of pictures that have some.

    A reader that always says what is expected agrees in all that is right and nothing that is
    wrong. Raises ValueError for pictures that have no oracle.
    """
    same: dict[str, list[float]] = {}
    for one in found:
        if one.oracle is None:
            raise ValueError(f"there is no oracle of pictures of {one.prompt.text!r}")
        mine = {answer.question.skill: answer.right for answer in one.answers}
        alike = {name: float(right == one.oracle[name]) for name, right in mine.items()}
        groups = {
            "words": list(alike.values()),
            "right": [value for name, value in alike.items() if one.oracle[name]],
            "wrong": [value for name, value in alike.items() if not one.oracle[name]],
            **{name: [value] for name, value in alike.items()},
            "all": [float(all(mine.values()) == one.oracle["all"])],
        }
        for name, values in groups.items():
            if values:
                same.setdefault(name, []).append(sum(values) / len(values))
    return same

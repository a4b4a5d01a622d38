"""What a model that reads is asked, and how often it says what people said.

Questions come from documents: those that begin with the pictures that it is about, if any, a
question, and an answer that is learned. All others ask nothing and are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from smalti.data.documents import CAPTION, Doc, Documents, is_documents, open_documents
from smalti.data.skipped import read, tell
from smalti.data.source import split
from smalti.eval.answers import exact, is_yes, normalised, unreachable, vqa_accuracy, yes_no
from smalti.eval.bootstrap import bootstrap, of_means
from smalti.eval.cider import cider
from smalti.eval.metrics import READING, How
from smalti.eval.report import Measured, counted
from smalti.eval.sets import PARTS
from smalti.progress import say, track

ADVICE = "--skip-bad leaves out what is asked about such pictures"


class Asked(NamedTuple):
    """A question about pictures, or about nothing but itself."""

    pictures: tuple[Image.Image, ...]
    text: str


class Reads(Protocol):
    """What answers questions: a `Reader`, or an oracle that takes its place."""

    @property
    def fingerprint(self) -> str: ...

    def read(self, asked: Sequence[Asked]) -> list[str]: ...


@dataclass
class Reader:
    """A pipeline of text and pictures as a reader."""

    pipe: Any
    """`UnifiedPipeline`."""
    batch: int = 16
    """Questions at a time."""
    seed: int = 0
    number: int = 0
    """Questions that were asked so far: the next one's number in the request `seed`."""
    unread: int = 0
    """How many of these were longer than the pipeline reads."""

    @property
    def fingerprint(self) -> str:
        return self.pipe.fingerprint

    def read(self, asked: Sequence[Asked]) -> list[str]:
        """The answers, in the pipeline's manner of being asked; `CAPTION` asks for a caption. A
        question that is longer than the pipeline reads is answered by `Unread`."""
        phrases, found = self.pipe.phrases, list[str]()
        for at in range(0, len(asked), self.batch):
            some = asked[at : at + self.batch]
            put = [
                phrases.put(phrases.caption, pictures=one.pictures)
                if one.text == CAPTION.strip()
                else phrases.put(phrases.ask, [one.text], one.pictures)
                for one in some
            ]
            fits = [self.pipe.room(pieces) > 0 for pieces in put]
            short = phrases.put(phrases.ask, ["?"])  # what stands in has the number of the long one
            put = [pieces if fit else short for pieces, fit in zip(put, fits, strict=True)]
            said = self.pipe.answers(put, seed=self.seed, first=self.number)
            found += [text if fit else Unread() for text, fit in zip(said, fits, strict=True)]
            self.number, self.unread = self.number + len(some), self.unread + fits.count(False)
        return found

    def tell(self) -> None:
        """Say how many questions were too long, if any were."""
        if self.unread:
            say(
                f"{self.unread} of {self.number} questions are longer than the {self.pipe.length} "
                "positions that the pipeline reads: counted as answered by nothing"
            )


class Unread(str):
    """The answer to a question that was too long to be read: wrong, whatever is right."""


class Known(NamedTuple):
    """A question with what people answered."""

    asked: Asked
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Questions:
    """Documents that are asked, as the text that names them."""

    name: str
    documents: Documents
    chosen: tuple[int, ...]
    skip_bad: bool = False

    @staticmethod
    def open(name: str, holdout: float = 0.1, skip_bad: bool = False) -> Questions:
        """The documents of a name (see `open_documents`), or captions of a source of pictures;
        @train or @held behind it takes one part, of which @held is the share `holdout` that
        training never saw. `skip_bad` leaves out documents with pictures that cannot be decoded;
        else the first one is an error."""
        whole, _, part = name.rpartition("@")
        given = whole if part in PARTS else name
        documents = open_documents(given if is_documents(given) else f"captioned:{given}")
        if documents.skipped and not skip_bad:
            key = min(documents.skipped)
            raise ValueError(f"{key}: {documents.skipped[key]}; {ADVICE}")
        chosen = range(len(documents))
        if part in PARTS:
            chosen = split(documents, holdout)[PARTS.index(part)]
        return Questions(name, documents, tuple(chosen), skip_bad)

    def __len__(self) -> int:
        return len(self.chosen)

    def some(self, at: int, count: int) -> list[Known]:
        """The questions that so many documents begin with, from one on. Raises ValueError for the
        first document that cannot be decoded, unless those are left out."""
        documents = map(self._document, self.chosen[at : at + count])
        return [known for one in documents if one and (known := known_in(one)) is not None]

    def _document(self, i: int) -> Doc | None:
        """Document i; None, with a note, if it cannot be decoded and may be left out."""
        if self.skip_bad:
            return read(self.documents, i)
        try:
            return self.documents[i]
        except ValueError as error:
            raise ValueError(f"{error}; {ADVICE}") from error


def known_in(document: Doc) -> Known | None:
    """The question that a document begins with, and its answers; None if it does not."""
    at = next((i for i, piece in enumerate(document) if piece.learned), 0)
    *pictures, question = document[:at] or [document[0]]
    answer, images = document[at], [p.image for p in pictures if p.image is not None]
    if not at or not answer.text or not question.text.endswith("\n"):
        return None
    if len(images) < len(pictures):
        return None
    return Known(Asked(tuple(images), question.text.strip()), answer.answers or (answer.text,))


@dataclass(frozen=True)
class Answered:
    """Questions, what people answered, and what a reader did."""

    asked: list[str]
    answers: list[tuple[str, ...]]
    said: list[str]

    def __len__(self) -> int:
        return len(self.said)


def require(people: Sequence[str], metrics: Sequence[str]) -> None:
    """Raise ValueError for answers to a question that a metric is not for, naming what it needs."""
    if "vqa" in metrics:
        vqa_accuracy("", people)
    if "yes_no" in metrics and (said := usual(people)) not in ("yes", "no"):
        raise ValueError(f"yes_no is of questions answered by yes or no, got {said!r}")


def usual(people: Sequence[str]) -> str:
    """The most frequent of several answers, as `normalised`, the first of those."""
    return Counter(normalised(one) for one in people).most_common(1)[0][0]


def answered(
    reader: Reads, questions: Questions, batch: int = 64, metrics: Sequence[str] = ()
) -> Answered:
    """What a reader says to all questions. Raises ValueError if there are none, and as `require`
    does, for the first of those that would be asked next."""
    found, count = Answered([], [], []), len(questions)
    bad = questions.documents.skipped
    before = len(bad)
    for at in track(range(0, count, batch), "asking", scale=batch, of=count):
        known = questions.some(at, batch)
        for one in known:
            require(one.answers, metrics)
        found.said.extend(reader.read([one.asked for one in known]))
        found.asked.extend(one.asked.text for one in known)
        found.answers.extend(one.answers for one in known)
    tell(questions.documents)
    if not len(found):
        raise ValueError(f"{questions.name} asks nothing: no document begins with a question")
    if left := count - len(found) - (len(bad) - before):
        say(f"{questions.name}: {left} of {count} documents ask nothing: left out")
    return found


def measured(found: Answered, metrics: Sequence[str], how: How, **about: Any) -> list[Measured]:
    """The metrics of `READING`; `about` are further fields of their records.

    Raises ValueError as `require` does.
    """
    for people in found.answers:
        require(people, metrics)
    records = list[Measured]()
    about |= {"images": len(found), "kind": "reading", "better": "higher"}
    about |= {"resampled": "reference", "reference_images": len(found)}
    for metric in metrics:
        told = READING[metric].definition
        if metric == "yes_no":
            records += _yes_no(found, how, told, about)
            continue
        values = _values(metric, found)
        interval = of_means(values, how.draws, how.seed)
        name = counted(metric, len(found))
        records.append(Measured(name, told, float(values.mean()), interval=interval, **about))
    return records


def _values(metric: str, found: Answered) -> np.ndarray:
    """The score of each answer, (N,) float64."""
    pairs = list(zip(found.said, found.answers, strict=True))
    if metric in ("cider", "cider_d"):
        return cider(found.said, found.answers, metric == "cider_d")
    if metric == "exact_match":
        return np.array([float(exact(said, people)) for said, people in pairs])
    values = np.array([vqa_accuracy(said, people) for said, people in pairs])
    if lost := [answer for _, people in pairs for answer in unreachable(people)]:
        say(
            f"vqa: {len(lost)} answers of people cannot be met as VQAv2's code compares them, such "
            f"as {lost[0]!r}, which it would write {normalised(lost[0])!r}"
        )
    return values


def _yes_no(found: Answered, how: How, told: str, about: dict[str, Any]) -> Iterator[Measured]:
    """Precision, recall and F1 of yes."""
    truth = np.array([usual(people) == "yes" for people in found.answers])
    said = np.array(
        [
            not right if isinstance(text, Unread) else is_yes(text)
            for text, right in zip(found.said, truth, strict=True)
        ]
    )

    def value(name: str, times: np.ndarray) -> float:
        return yes_no(np.repeat(said, times).tolist(), np.repeat(truth, times).tolist())[name]

    whole = np.ones(len(found), np.int64)
    for name in yes_no([], []):
        interval = bootstrap(
            lambda times, name=name: value(name, times), len(found), how.draws, how.seed, (0, 1)
        )
        metric = counted(f"yes_no_{name}", len(found))
        definition = told.format(name=name)
        yield Measured(metric, definition, value(name, whole), interval=interval, **about)

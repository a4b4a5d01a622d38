"""Questions that a picture of a prompt must answer rightly, made by templates.

As in Gecko (Wiles et al. 2024, arXiv:2404.16820) each question covers words of the prompt and tests
one skill. There a language model writes them; here templates do, so nothing is asked of a prompt
but what they know, and every other word is told to be not covered.

Of the captions and classes of `shapes` the questions are those of `shape_documents`, exact in all
that is said. Of free prompts they are: whether there is what a noun names, how many of it there
are, which colour it has, whether it is as an adjective says, and whether it is where the words
between two nouns say. A noun is what stands behind an article, a number or a known adjective.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from smalti.data.drawn_shapes import Attributes
from smalti.data.shape_documents import questions
from smalti.data.shape_scenes import VALUES
from smalti.eval.matching import wanted


class Question(NamedTuple):
    """What is asked about a picture of a prompt."""

    text: str
    expected: str
    """The answer that is right."""
    allowed: tuple[str, ...]
    """The answers that there are."""
    skill: str
    """What is tested: object, number, colour, attribute, place; of shapes an attribute's name."""
    covers: tuple[int, ...]
    """Numbers of the words of the prompt that are tested."""


class Prompt(NamedTuple):
    """A prompt and what can be asked of a picture of it."""

    text: str
    words: tuple[str, ...]
    questions: tuple[Question, ...]
    exact: bool = False
    """Whether it is of `shapes`, so that there is an oracle."""

    @property
    def covered(self) -> set[int]:
        """Numbers of the words that a question covers."""
        return {word for question in self.questions for word in question.covers}

    @property
    def uncovered(self) -> list[str]:
        """The words that no question covers."""
        return [word for i, word in enumerate(self.words) if i not in self.covered]


YES = ("yes", "no")
NUMBERS = tuple("two three four five six seven eight nine ten".split())
SINGLE = ("a", "an", "one", "this", "that")
ARTICLES = (*SINGLE, *"the these those some its his her their my your our".split())
COLOURS = tuple(
    "red orange yellow green blue purple violet pink brown black white grey gray beige turquoise "
    "gold silver".split()
)
ADJECTIVES = tuple(
    "small large big tiny huge tall short long round square thin thick old young new wooden metal "
    "glass plastic stone leather paper striped spotted open closed empty full wet dry broken "
    "smiling sleeping happy sad bright dark furry fluffy shiny transparent".split()
)
PLACES = tuple(
    "on the left of|on the right of|to the left of|to the right of|left of|right of|on top of|"
    "in front of|next to|in the middle of|inside of|on|in|under|beneath|below|above|over|behind|"
    "beside|near|inside|between|against".split("|")
)
"""Words that say where something is; longer ones first where one begins another."""
BETWEEN = ("is", "are", "sitting", "standing", "lying", "sleeping", "hanging", "floating")
"""Words that may stand between a noun and its place."""
OTHERS = tuple(
    "of with and or but as at by for from to into onto through is are was were has have had that "
    "which who while there it he she they not no very".split()
)
"""Words that end a noun."""
NAMES = tuple("ring king string wing building painting ceiling evening morning clothing".split())
"""Nouns in ing, which ends a noun otherwise: "a cat sleeping"."""
MEDIA = tuple("photo photograph picture image painting drawing illustration sketch".split())
"""What a picture is called, before "of", which is nothing in it."""
LONGEST = 3
"""Words of a noun, at most."""
SMALL = ("in", "at", "the")
"""Words of a place of `shapes` that say nothing."""


def prompt_of(text: str) -> Prompt:
    """A prompt with its words and its questions, of which there may be none."""
    tokens = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]", text)
    words = tuple(token for token in tokens if token[0].isalnum())
    try:
        told = wanted(text)
    except ValueError:  # it is no caption of shapes
        return Prompt(text, words, tuple(_free(tokens)))
    return Prompt(text, words, tuple(_of_shape(told, words)), exact=True)


# -- shapes


def _of_shape(told: dict[str, str], words: Sequence[str]) -> Iterator[Question]:
    """A question for each attribute that a text says, the first of its kind."""
    some = {name: told.get(name, values[0]) for name, values in VALUES.items()}
    asked = questions((Attributes(**some),))
    kinds = {"colour": "colour", "shape": "shape", "size": "size", "position": "where"}
    for name, value in told.items():
        text, answer = asked[kinds[name]][0]
        parts = [part for part in value.split() if part not in SMALL]
        covers = tuple(i for i, word in enumerate(words) if word in parts)
        yield Question(text, answer, VALUES[name], name, covers)


# -- free prompts


class Noun(NamedTuple):
    """A noun of a prompt with what stands before it; numbers of words, `end` behind the last."""

    name: str
    at: tuple[int, ...]
    plural: bool
    number: tuple[int, ...]
    """The word that counts it, or none."""
    adjectives: tuple[int, ...]
    end: int

    @property
    def be(self) -> str:
        return "Are" if self.plural else "Is"

    @property
    def some(self) -> str:
        """The noun in "Is there a cat?"."""
        article = "an" if self.name[0] in "aeiou" else "a"
        return self.name if self.plural else f"{article} {self.name}"


def _free(tokens: Sequence[str]) -> Iterator[Question]:
    """The questions of a prompt that the templates know, noun by noun."""
    words = [token.lower() for token in tokens if token[0].isalnum()]
    stops = _stops(tokens)
    nouns = list(_nouns(words, stops))
    for noun in nouns:
        yield from _about(noun, words)
    for noun, other in zip(nouns, nouns[1:], strict=False):
        yield from _between(noun, other, words, stops)


def _stops(tokens: Sequence[str]) -> set[int]:
    """Numbers of words behind punctuation."""
    found, count = set[int](), 0
    for token in tokens:
        if token[0].isalnum():
            count += 1
        else:
            found.add(count)
    return found


def _nouns(words: Sequence[str], stops: set[int]) -> Iterator[Noun]:
    """The nouns that can be told from what stands before them."""
    at = 0
    while at < len(words):
        noun = _noun(words, stops, at)
        if noun is not None and not (noun.name in MEDIA and words[noun.end :][:1] == ["of"]):
            yield noun
        at = at + 1 if noun is None else noun.end


def _noun(words: Sequence[str], stops: set[int], begin: int) -> Noun | None:
    """The noun of a phrase that begins at a word; None if none does."""

    def run(start: int, among: Sequence[str], most: int) -> int:
        end = start
        while end < min(len(words), start + most) and words[end] in among:
            if end > begin and end in stops:
                break
            end += 1
        return end

    first = run(begin, ARTICLES, 1)
    counted = first
    if first < len(words) and (words[first] in NUMBERS or words[first].isdecimal()):
        counted += 1
    named = run(counted, (*COLOURS, *ADJECTIVES, "and"), len(words))
    end = named
    while end < min(len(words), named + LONGEST) and not _ends(words, stops, named, end):
        end += 1
    if named == begin or end == named:
        return None
    number = tuple(range(first, counted))
    single = any(words[i] in SINGLE for i in range(begin, first))
    plural = bool(number) or (not single and words[end - 1].endswith("s"))
    adjectives = tuple(i for i in range(counted, named) if words[i] != "and")
    at = tuple(range(named, end))
    return Noun(" ".join(words[i] for i in at), at, plural, number, adjectives, end)


def _ends(words: Sequence[str], stops: set[int], start: int, at: int) -> bool:
    """Whether a noun that began at `start` goes no further than before a word."""
    word = words[at]
    known = (*OTHERS, *ARTICLES, *NUMBERS, *COLOURS, *ADJECTIVES, *BETWEEN)
    place = any(_place(words, at) == place for place in PLACES)
    doing = word.endswith("ing") and word not in NAMES
    return word in known or place or doing or (at in stops) or word.isdecimal()


def _place(words: Sequence[str], at: int) -> str:
    """The words of a place that begin at a word; '' if none do."""
    for place in PLACES:
        if list(words[at : at + len(place.split())]) == place.split():
            return place
    return ""


def _about(noun: Noun, words: Sequence[str]) -> Iterator[Question]:
    """Whether there is what a noun names, how many, in which colour, and as what adjectives say."""
    there = "Are there" if noun.plural else "Is there"
    yield Question(f"{there} {noun.some}?", "yes", YES, "object", noun.at)
    for i in noun.number:
        allowed = tuple(dict.fromkeys((words[i], "one", *NUMBERS)))
        yield Question(f"How many {noun.name} are there?", words[i], allowed, "number", (i,))
    colours = [i for i in noun.adjectives if words[i] in COLOURS]
    for i in noun.adjectives:
        if colours == [i]:
            text = f"What colour {noun.be.lower()} the {noun.name}?"
            yield Question(text, words[i], COLOURS, "colour", (i,))
        else:
            skill = "colour" if i in colours else "attribute"
            text = f"{noun.be} the {noun.name} {words[i]}?"
            yield Question(text, "yes", YES, skill, (i,))


def _between(noun: Noun, other: Noun, words: Sequence[str], stops: set[int]) -> Iterator[Question]:
    """Whether one noun is where a prompt says that it is, beside the other."""
    at = noun.end
    while at < len(words) and words[at] in BETWEEN:
        at += 1
    place = _place(words, at)
    end = at + len(place.split())
    first = min((*other.at, *other.number, *other.adjectives))
    behind = all(words[i] in ARTICLES for i in range(end, first))
    if place and end <= first and behind and not stops & set(range(noun.end, end + 1)):
        text = f"{noun.be} the {noun.name} {place} the {other.name}?"
        yield Question(text, "yes", YES, "place", tuple(range(at, end)))

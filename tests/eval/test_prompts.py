"""Questions of prompts: exact of shapes, few and honest of all others."""

import pytest

from smalti.data.drawn_shapes import Attributes
from smalti.data.shape_documents import questions
from smalti.eval.matching import CAPTIONS
from smalti.eval.prompts import Prompt, prompt_of


def asked(prompt: Prompt) -> dict[str, tuple[str, str]]:
    """The words of each question, with the question and its answer."""
    return {
        " ".join(prompt.words[i] for i in q.covers): (q.text, q.expected) for q in prompt.questions
    }


def test_of_every_caption_each_attribute_is_asked():
    for text, about in CAPTIONS.items():
        prompt = prompt_of(text)
        right = {pair for pairs in questions((about,)).values() for pair in pairs}
        assert {(q.text, q.expected) for q in prompt.questions} <= right
        assert [q.skill for q in prompt.questions] == ["colour", "shape", "size", "position"]
        assert all(q.expected in q.allowed for q in prompt.questions) and prompt.exact
    prompt = prompt_of(Attributes("red", "heart", "small", "at the top left").caption)
    assert asked(prompt) == {
        "red": ("What colour is the heart?", "red"),
        "heart": ("Which shape is red?", "heart"),
        "small": ("How large is the heart?", "small"),
        "top left": ("Where is the heart?", "at the top left"),
    }
    assert prompt.uncovered == ["a", "at", "the"]


def test_a_class_of_shapes_says_colour_and_shape():
    prompt = prompt_of("blue star")
    assert asked(prompt) == {
        "blue": ("What colour is the star?", "blue"),
        "star": ("Which shape is blue?", "star"),
    }


def test_nouns_numbers_colours_adjectives_and_places():
    prompt = prompt_of("Two black cats sleeping on a wooden table, next to an orange vase")
    assert asked(prompt) == {
        "cats": ("Are there cats?", "yes"),
        "Two": ("How many cats are there?", "two"),
        "black": ("What colour are the cats?", "black"),
        "on": ("Are the cats on the table?", "yes"),
        "table": ("Is there a table?", "yes"),
        "wooden": ("Is the table wooden?", "yes"),
        "vase": ("Is there a vase?", "yes"),
        "orange": ("What colour is the vase?", "orange"),
    }
    assert prompt.uncovered == ["sleeping", "a", "next", "to", "an"] and not prompt.exact
    assert {q.skill for q in prompt.questions} == {
        "object", "number", "colour", "attribute", "place"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("a photo of an astronaut riding a horse", ["astronaut", "horse"]),
        ("cats on sofas", []),
        ("the old brick building at night", ["old", "brick building"]),
        ("a red and white umbrella", ["red", "white", "umbrella"]),
        ("3 green apples in front of it", ["3", "green", "apples"]),
        ("a cat is in the house", ["cat", "in", "house"]),
        ("a cat. On a hill", ["cat", "hill"]),  # what punctuation parts is no place of it
        ("a dog to the left of two cats", ["dog", "to the left of", "two", "cats"]),
        ("a ring", ["ring"]),
        ("the red", []),
        ("", []),
        ("…!", []),
        ("a", []),
    ],
)
def test_what_the_templates_know(text, covered):
    prompt = prompt_of(text)
    assert sorted(asked(prompt)) == sorted(covered)
    left = [w for w in prompt.words if not any(w in some.split() for some in covered)]
    assert set(left) <= set(prompt.uncovered)


def test_two_colours_are_asked_one_by_one():
    prompt = prompt_of("a red and white umbrella")
    assert asked(prompt)["white"] == ("Is the umbrella white?", "yes")
    assert [q.skill for q in prompt.questions] == ["object", "colour", "colour"]

"""Names, numbers and other libraries' words, as people give them."""

import re

import numpy as np
import pytest
import torch

from smalti.arguments import (
    an,
    by,
    choose,
    choose_number,
    fitting,
    in_our_words,
    several,
    sides,
    whole,
)

# -- names


@pytest.mark.parametrize(
    ("article", "names"),
    [
        ("a", "VQGAN VAR MAR RAR HART KLVAE LlamaGen MaskBitVQGAN UniTok PaletteTokenizer rar"),
        ("an", "OpenMAGVIT2LFQ IBQTokenizer InfinityVAE FSQTokenizer RQVAE imagegpt ibq"),
    ],
)
def test_names_have_the_article_that_they_are_spoken_with(article, names):
    assert {an(name) for name in names.split()} == {f"{article} {name}" for name in names.split()}


@pytest.mark.parametrize(
    ("name", "names", "wanted"),
    [
        ("a", "A a B", 1),  # an exact name comes first
        ("A", "A a B", 0),
        ("b", "A a B", 2),  # then one in other case
        ("2", "0 1 10 11 2", 4),  # a name before a number
        ("10", "0 1 2 10 11", 3),
        ("1", "cat dog 1", 2),
        ("1", "cat dog cow", 1),  # a number that is no name
        ("2", "cat 7 dog", 2),
        ("x2", "2 X2", 1),
        (np.int64(2), "0 1 10 11 2", 2),  # an integer is a number, never a name
        (torch.tensor(1), "cat dog", 1),
        (np.str_("dog"), "cat dog", 1),
        ("CAFE\u0301", "tea caf\u00e9", 1),  # an accent of its own, as some file systems have it
        ("STRASSE", "stra\u00dfe", 0),
    ],
)
def test_a_name_comes_before_a_number_before_other_case(name, names, wanted):
    assert choose_number(name, names.split(), "class") == wanted


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        ("cat", "CAT Cat", "class 'cat' could be 'CAT' (number 0) or 'Cat' (number 1)"),
        ("crane", "crane x crane", "'crane' (number 0) or 'crane' (number 2)"),
        (
            "1",
            "01 02 03",
            "could be the class named '01', or number 1, which is the class named '02",
        ),
        ("3", "0 1 2 10 11", "could be number 3, which is the class named '10': give the name"),
        ("5", "0 1 2 10 11", "class must be one of 0 ... 4 or 0, 1, 2, 10, 11, got '5'"),
        (10, "0 1 2 10 11", "got 10; the class named '10' is number 3"),
        ("-1", "cat dog", "class must be one of 0 ... 1 or cat, dog, got '-1'"),
        ("²", "cat dog cow", "got '²'"),
        ("1.0", "cat dog", "got '1.0'"),
        ("", "cat dog", "got ''"),
        (-1, "cat dog", "got -1"),
        (True, "cat dog", "a class must be a name or a number, got True"),
        (1.0, "cat dog", "a class must be a name or a number, got 1.0"),
        (None, "cat dog", "a class must be a name or a number, got None"),
        (b"cat", "cat dog", "a class must be a name or a number, got b'cat'"),
        ("kat", "cat dog", "got 'kat'; did you mean 'cat'?"),
    ],
)
def test_what_could_be_two_things_or_none_is_refused(name, names, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        choose_number(name, names.split(), "class")


def test_names_without_numbers():
    assert choose("FID", {"fid": 1, "sfid": 2}, "metric") == "fid"
    assert choose("a", ["A", "a"], "recipe") == "a"
    with pytest.raises(ValueError, match="recipe must be one of A, a, got '0'"):
        choose("0", ["A", "a"], "recipe")
    with pytest.raises(ValueError, match="could be 'AB' .number 0. or 'Ab'"):
        choose("ab", ["AB", "Ab"], "recipe")


# -- numbers


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), torch.tensor(3), np.uint64(3)])
def test_numbers_of_any_library_are_numbers(value):
    number = whole(value, "n", 3)
    assert number == 3 and type(number) is int
    number = fitting(value, "guidance", (float,))
    assert number == 3 and type(number) is int


@pytest.mark.parametrize(
    "value", [True, np.True_, 3.0, np.float32(3), "3", None, [3], float("nan")]
)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(ValueError, match="^n must be a whole number, got "):
        whole(value, "n")


def test_an_integer_has_a_least_value():
    with pytest.raises(ValueError, match="^first must be at least 0, got -1$"):
        whole(np.int64(-1), "first", 0)


@pytest.mark.parametrize(
    ("value", "types", "words"),
    [
        (True, (float,), "x must be a number, got True"),
        ("2", (float, type(None)), "x must be a number, got '2'"),
        (2.5, (int,), "x must be a whole number, got 2.5"),
        (1, (bool, type(None)), "x must be True or False, got 1"),
        (torch.tensor([1.0]), (float,), "x must be a number, got (1.0,)"),
        (None, (int,), "x must be a whole number, got None"),
        (np.float32("nan"), (float,), "x must be a finite number, got nan"),
        (torch.tensor(-float("inf")), (float,), "x must be a finite number, got -inf"),
        (np.array([1, np.inf]), (float, ...), "x must be a finite number, got inf"),
    ],
)
def test_settings_of_another_type_are_named(value, types, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fitting(value, "x", types)


def test_settings_become_pythons_own():
    assert fitting(np.array([1.0, 2.0]), "scales", (float, ...)) == (1.0, 2.0)
    assert fitting(None, "steps", (int, type(None))) is None
    assert fitting("list", "schedule", ("list", "linear")) == "list"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ("cats", ["cats"]),
        (0, [0]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor(2), [2]),
        (("a", "b"), ["a", "b"]),
        (range(2), [0, 1]),
        (b"a", [b"a"]),
        (None, [None]),
    ],
)
def test_one_or_several(values, wanted):
    assert several(values) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("48x32", (48, 32)),
        ("48", (48, 48)),
        (48, (48, 48)),
        ((48, 32), (48, 32)),
        ([np.int64(48), torch.tensor(32)], (48, 32)),
        (np.array([48, 32]), (48, 32)),
        (torch.tensor([48, 32]), (48, 32)),
    ],
)
def test_height_and_width(value, wanted):
    assert sides(value, "size") == wanted
    assert sides(by(wanted), "size") == wanted


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("48x", "size must be a height and a width, such as 48x32, got '48x'"),
        ("48x32x3", "such as 48x32, got '48x32x3'"),
        ("-48x32", "such as 48x32, got '-48x32'"),
        ("", "such as 48x32, got ''"),
        ((), r"such as 48x32, got \(\)"),
        ((1, 2, 3), r"such as 48x32, got \(1, 2, 3\)"),
        ((48, "32"), "size must be a whole number, got '32'"),
        ((48, 32.0), "size must be a whole number, got 32.0"),
        (True, "size must be a whole number, got True"),
        ("0x32", "size must be at least 1, got 0"),
        ((48, -1), "size must be at least 1, got -1"),
    ],
)
def test_what_is_no_height_and_width(value, words):
    with pytest.raises(ValueError, match=words):
        sides(value, "size")


# -- other libraries' words

OURS = ["guidance", "text", "seed", "n", "steps", "classes", "top_k", "head_steps"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("guidance_scale", "guidance_scale is guidance here: u + s * (c - u), 1 is off"),
        ("prompt", "prompt is text here"),
        ("generator", "generator is seed here"),
        ("num_images_per_prompt", "is n here"),
        ("num_inference_steps", "is steps here"),
        ("class_labels", "is classes here"),
        ("max_new_tokens", "max_new_tokens has no counterpart here"),
        ("num_sampling_steps", "is head_steps here"),
    ],
)
def test_words_of_others_are_answered_with_ours(word, words):
    assert words in in_our_words(word, OURS)


def test_words_at_the_command_line():
    assert "height has no counterpart here" in in_our_words("height", OURS)
    assert "height is size here" in in_our_words("height", [*OURS, "size"])
    text = in_our_words("num-sampling-steps", OURS, "--")
    assert text.startswith("--num-sampling-steps is --head-steps here")
    assert in_our_words("prompt", ["data"]) == "" and in_our_words("banana", OURS) == ""


def test_numbers_where_a_text_is_wanted_are_that_of_them():
    assert fitting(20, "head_steps", (str,)) == "20"
    assert fitting((10, 5, 5), "head_steps", (str,)) == "10,5,5"
    assert fitting([0.8, 0.4, 0], "reveal", (str,)) == "0.8,0.4,0"
    for wrong in (True, None, {}, (), ["a"]):
        with pytest.raises(ValueError, match="order must be a text, got"):
            fitting(wrong, "order", (str,))

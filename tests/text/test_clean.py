"""What goes from captions of the web, and what stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.text.clean import clean


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("A Small Red Heart", "a small red heart"),
        ("see https://www.shop.com/cats/4 now", "see now"),
        ("photo by www.cats.org", "photo by"),
        ("a <b>bold</b> cat<br/>", "a bold cat"),
        ("a &lt;person&gt; &amp;amp; a dog", "a person a dog"),
        ("<person> on a horse", "person on a horse"),
        ("a cat by @painter_7 today", "a cat by today"),
        ("猫 a cat 㐀", "a cat"),
        ("a black—white cat", "a black-white cat"),
        ("“quoted” cat’s tail", '"quoted" cat\'s tail'),
        ("server 192.168.0.12 room", "server room"),
        ("lamp #12345678 blue #7", "lamp blue"),
        ("lamp 12345678 blue", "lamp blue"),
        ("IMG_0012.jpg of a cat", "of a cat"),
        ("wow... a cat", "wow a cat"),
        ("a cat !!! ((*)) ### [new]", "a cat !!! new"),
        ("blue_car_on_a_road", "blue car on a road"),
        ("blue_car-park", "blue_car-park"),
        ("vase jc6640 and jc6640vc and 6640vc231", "vase and and"),
        ("vase j2d1a2a", "vase"),
        ("lamp free shipping", "lamp"),
        ("a cat free download", "a cat"),
        ("a cat click for more", "a cat"),
        ("a cat png images", "a cat"),
        ("comic page 17", "comic"),
        ("wallpaper 1000x1000 of a cat", "wallpaper of a cat"),
        ("cat : grey", "cat: grey"),
        ("cats,dogs", "cats, dogs"),
        ("'a cat'", "a cat"),
        ("- a cat -", "a cat"),
        ("a%20cat+here", "a cat here"),
        ("", ""),
        (".html", ""),
    ],
)
def test_by_example(given, wanted):
    assert " ".join(clean(given).split()) == wanted


@given(st.lists(st.sampled_from("a red cat on the mat near trees".split()), min_size=1))
def test_plain_words_stay(words):
    assert clean(" ".join(words).upper()) == " ".join(words)


@given(st.text(max_size=80))
def test_any_text_comes_out_in_lower_case_and_without_tags(text):
    found = clean(text)
    assert not any("A" <= c <= "Z" for c in found) and "\n" not in found

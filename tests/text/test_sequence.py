"""Rows of text and pictures: by hand, by a slow definition, and as released models write them."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.codes import TokenSpec
from smalti.text.sequence import CODE, IGNORED, SEEN, VECTOR, Part, Wrapping, fitted, rows_of

SPEC, NUMBERS = TokenSpec(((2, 3),), 8), TokenSpec(((1, 2),), channels=4)


@dataclass(frozen=True)
class Lines(Wrapping):
    """Codes as ids from 20 on, every row of them with a 9 at its end, between 7 and 8 1."""

    def begin(self, spec):
        return (7,)

    def end(self, spec):
        return (8, 1)

    def plan(self, spec):
        (height, width), *_ = spec.grids
        return ([CODE] * width + [9]) * height if spec.discrete else super().plan(spec)

    def id_of(self, codes):
        return None if codes.is_floating_point() else codes + 20


def text(*ids, learned=True) -> Part:
    return Part(torch.tensor(ids, dtype=torch.int64), learned=learned)


def picture(learned=True) -> Part:
    return Part(torch.arange(6), SPEC, learned)


def numbers(learned=True) -> Part:
    return Part(torch.ones(2, 4), NUMBERS, learned)


def test_a_row_by_hand():
    rows = rows_of([[text(3, 4, learned=False), picture(), text(5)], [text(6)]], Lines(), pad=2)
    assert rows.ids.tolist() == [
        [3, 4, 7, 20, 21, 22, 9, 23, 24, 25, 9, 8, 1, 5],
        [6, *[2] * 13],
    ]
    assert rows.learned[0].tolist() == [False] * 2 + [True] * 12
    assert rows.kept.sum(1).tolist() == [14, 1]
    assert rows.positions[0].tolist() == list(range(14))
    assert rows.labels[0].tolist() == [IGNORED] * 2 + rows.ids[0, 2:].tolist()
    assert rows.labels[1].tolist() == [6] + [IGNORED] * 13
    assert rows.cells[0, 3:11].tolist() == [
        *([0, 0], [0, 1], [0, 2], [0, 0], [1, 0], [1, 1], [1, 2], [0, 0])
    ]
    assert not rows.cells[0, :3].any() and not rows.cells[0, 11:].any()
    assert not rows.spans.any() and rows.vectors is None


EYE = TokenSpec(((1, 3),), channels=5)


@dataclass(frozen=True)
class Between(Wrapping):
    """A 7 before a picture, and nothing behind it."""

    def begin(self, spec):
        return (7,)


def seen(*values) -> Part:
    return Part(torch.tensor(values).repeat(5, 1).T, EYE, learned=False, seen=True)


@pytest.mark.parametrize("drawn", [picture, numbers])
def test_what_an_eye_sees_stands_beside_what_is_drawn(drawn):
    """Whether codes are drawn or numbers; it is never learned, nor is what is around it."""
    wrapping = Lines(seen=Between())
    document = [text(3), seen(0.5, 1.5, 2.5), text(4), drawn(), text(5)]
    rows = rows_of([document, [text(6), drawn()]], wrapping, pad=2, left=True)
    length = wrapping.size(document)
    assert length == rows.ids.shape[1] == 3 + 4 + wrapping.length(drawn())
    assert rows.ids[0, :6].tolist() == [3, 7, SEEN, SEEN, SEEN, 4]
    assert rows.seen.nonzero().tolist() == [[0, 2], [0, 3], [0, 4]]
    assert rows.features is not None and rows.features.shape == (2, length, 5)
    assert rows.features[rows.seen][:, 0].tolist() == [0.5, 1.5, 2.5]
    assert not rows.features[~rows.seen].any()
    assert rows.learned[0].tolist() == [True, *[False] * 4, *[True] * (length - 5)]
    assert rows.labels[0, :6].tolist() == [3, *[IGNORED] * 4, 4]
    without = rows_of([[text(6), drawn()]], wrapping)
    assert without.features is None and not without.seen.any()
    if drawn is numbers:
        assert rows.vectors is not None and rows.vectors.shape == (2, length, 4)
        assert rows.drawn.sum(1).tolist() == [2, 2]
        assert rows.vectors[rows.drawn].eq(1).all() and not rows.vectors[~rows.drawn].any()
    else:
        assert rows.vectors is None and not rows.drawn.any()


def test_what_an_eye_sees_is_refused_where_it_cannot_stand():
    with pytest.raises(ValueError, match="reads pictures as codes, it has no eye"):
        rows_of([[seen(0.0, 0.0, 0.0)]], Lines())
    for content, spec, learned in ((picture().content, SPEC, False), (torch.ones(3, 5), EYE, True)):
        with pytest.raises(ValueError, match="a picture of numbers that is not learned"):
            Part(content, spec, learned, seen=True)


def test_what_stands_around_a_picture_may_not_be_learned():
    rows = rows_of([[picture()]], Lines(learns_begin=False, learns_end=False))
    assert rows.learned[0].tolist() == [False] + [True] * 8 + [False] * 2
    assert not rows_of([[picture(learned=False)]], Lines()).learned.any()


def test_padding_on_the_left():
    right = rows_of([[text(3, 4)], [text(5)]], Lines())
    left = rows_of([[text(3, 4)], [text(5)]], Lines(), left=True)
    assert right.ids.tolist() == [[3, 4], [5, 0]] and left.ids.tolist() == [[3, 4], [0, 5]]
    assert left.kept.tolist() == [[True, True], [False, True]]
    assert left.positions.tolist() == [[0, 1], [0, 0]]


def test_vectors_stand_in_the_place_of_ids():
    rows = rows_of([[text(3), numbers(), text(4)], [text(5)]], Lines(one_position=True))
    assert rows.ids[0].tolist() == [3, 7, VECTOR, VECTOR, 8, 1, 4]
    assert rows.positions[0].tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert rows.vectors is not None and rows.vectors.shape == (2, 7, 4)
    assert rows.vectors.sum(-1).tolist() == [[0, 0, 4, 4, 0, 0, 0], [0] * 7]
    assert rows.labels[0].tolist() == [3, 7, IGNORED, IGNORED, 8, 1, 4]


@pytest.mark.parametrize(("full", "around"), [("none", 0), ("picture", 0), ("wrapped", 1)])
def test_who_sees_a_picture_whole(full, around):
    rows = rows_of([[text(3), numbers(), text(4), numbers()]], Lines(full))
    inside = int(full != "none")
    assert rows.spans[0].tolist() == [
        *(0, around, inside, inside, around, around),
        *(0, 2 * around, 2 * inside, 2 * inside, 2 * around, 2 * around),
    ]


PARTS = st.lists(
    st.builds(
        lambda kind, n, learned: {
            "text": text(*range(3, 3 + n), learned=learned),
            "picture": picture(learned),
            "numbers": numbers(learned),
        }[kind],
        st.sampled_from(("text", "picture", "numbers")),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=5,
)


@given(
    st.lists(PARTS, min_size=1, max_size=3),
    st.sampled_from(("none", "picture", "wrapped")),
    st.booleans(),
)
def test_the_mask_is_what_it_says(documents, full, left):
    rows = rows_of(documents, Lines(full), left=left)
    spans, kept, mask = rows.spans.tolist(), rows.kept.tolist(), rows.mask().tolist()
    batch, length = rows.ids.shape
    for b in range(batch):
        for i in range(length):
            for j in range(length):
                own = spans[b][i] and spans[b][i] == spans[b][j]
                seen = bool((j <= i or own) and kept[b][j]) or i == j
                assert mask[b][i][j] == seen


@given(PARTS, st.integers(0, 40))
def test_no_picture_is_cut(document, length):
    wrapping = Lines()
    parts = fitted(document, wrapping, length)
    assert sum(map(wrapping.length, parts)) <= length
    for mine, whole in zip(parts, document, strict=False):
        assert mine.spec == whole.spec and mine.learned == whole.learned
        assert torch.equal(mine.content, whole.content[: len(mine.content)])
        assert mine.spec is None or len(mine.content) == len(whole.content)
    if sum(map(wrapping.length, document)) <= length:
        assert len(parts) == len(document)
    elif len(parts) < len(document):
        used = sum(map(wrapping.length, parts))
        assert used + wrapping.length(document[len(parts)]) > length, "nothing more fits"


def test_what_is_no_part():
    with pytest.raises(ValueError, match=r"a picture must have codes \(6,\), got \(5,\)"):
        Part(torch.arange(5), SPEC)
    with pytest.raises(ValueError, match=r"text must be ids \(n,\), got torch.float32 \(2,\)"):
        Part(torch.ones(2))
    wide = Part(torch.ones(2, 5), TokenSpec(((1, 2),), channels=5))
    with pytest.raises(ValueError, match=r"vectors of one width, got \[4, 5\]"):
        rows_of([[numbers()], [wide]], Wrapping())


def test_segments():
    assert text(1, 2).segment.kind == "text" and text(1, 2).segment.length == 2
    assert picture().segment.kind == "codes" and numbers().segment.kind == "numbers"


def test_stacks_of_codes_stand_beside_ids():
    """As vectors do, on either side of padding, in a tensor of their own."""
    spec = TokenSpec(((1, 2),), 9, depth=3)
    stacks = Part(torch.arange(6).view(2, 3), spec)
    rows = rows_of(
        [[text(3), stacks], [text(4), text(5, 6), stacks, text(7)]], Wrapping(), left=True
    )
    assert rows.ids.tolist() == [[0, 0, 0, 3, VECTOR, VECTOR], [4, 5, 6, VECTOR, VECTOR, 7]]
    assert rows.vectors is None and rows.codes is not None
    assert rows.codes.dtype == torch.int64 and torch.equal(rows.codes[0, 4:], stacks.content)
    assert torch.equal(rows.codes[rows.drawn], stacks.content.repeat(2, 1))
    assert not rows.codes[~rows.drawn].any()
    assert rows.labels[0].tolist() == [IGNORED] * 3 + [3, IGNORED, IGNORED]
    taken = rows.take(torch.tensor([1]))
    assert taken.codes is not None and torch.equal(taken.codes[0, 3:5], stacks.content)

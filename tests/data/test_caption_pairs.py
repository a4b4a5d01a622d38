"""Pairs of texts of one picture, and the texts that sources have of one."""

import pytest
import torch
from torch import Tensor

from smalti.data.caption_pairs import CaptionPairs
from smalti.data.drawn_shapes import Shapes
from smalti.data.source import Source, wordings


def tokenize(texts) -> Tensor:
    """The bytes of the texts, filled up."""
    rows = torch.zeros(len(texts), 64, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text.encode()))
    return rows


def written(rows: Tensor) -> list[str]:
    return [bytes(row[row > 0].tolist()).decode() for row in rows]


class Bare(Source):
    """A source with captions, and keywords of the first picture alone."""

    name = "bare"

    def caption(self, i: int) -> str:
        return f"picture {i}"

    def keywords(self, i: int) -> str:
        return "" if i else "one, two"

    def key(self, i: int) -> str:
        return f"key {i}"


def test_the_texts_of_a_picture():
    shapes = Shapes(5)
    texts = wordings(shapes, 3)
    about = shapes.attributes(3)
    assert texts[0] == about.caption and texts[1:] == list(about.wordings)
    assert len(set(texts)) == len(texts)
    assert all(word in text for text in texts for word in about)
    assert wordings(Bare(), 0) == ["picture 0", "one, two"] and wordings(Bare(), 1) == ["picture 1"]


def test_a_batch_is_a_function_of_its_step_and_leaves_the_last_text_out():
    shapes = Shapes(12)
    pairs, seen = CaptionPairs(shapes, range(12), tokenize, 6, seed=3), set()
    for step in range(40):
        batch = pairs.batch(step)
        again = CaptionPairs(shapes, range(12), tokenize, 6, seed=3).batch(step)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
        two = zip(pairs.names(step), *map(written, batch.values()), strict=True)
        for key, caption, other in two:
            texts = wordings(shapes, int(key))
            assert caption == texts[0] and other in texts[1:-1]
            seen.add(texts.index(other))
    assert seen == set(range(1, 8))
    held = [written(batch["other_tokens"]) for batch in pairs.evaluation(5)]
    assert sum(held, []) == [wordings(shapes, i)[-1] for i in range(12)]


def test_ranks_have_parts_of_a_batch():
    whole = CaptionPairs(Shapes(9), range(9), tokenize, 6).batch(4)
    parts = [CaptionPairs(Shapes(9), range(9), tokenize, 6, 0, r, 2).batch(4) for r in (0, 1)]
    for name, rows in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), rows)


def test_pictures_with_one_text_are_left_out():
    pairs = CaptionPairs(Bare(), range(3), tokenize, 2)
    assert len(pairs) == 1 and pairs.names(0) == ["key 0", "key 0"]
    assert written(pairs.batch(0)["other_tokens"]) == ["one, two"] * 2
    with pytest.raises(ValueError, match="no picture of bare has two texts"):
        CaptionPairs(Bare(), range(1, 3), tokenize, 2)

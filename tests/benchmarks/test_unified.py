"""What is counted of the answers of a pipeline of text and pictures."""

from pathlib import Path

import pytest

from smalti.data.shape_documents import ShapeDocuments
from smalti.eval.shape_answers import Judged

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from unified import With, by_kind


def test_questions_are_counted_by_how_they_begin_and_by_shapes():
    documents = ShapeDocuments(200, 1, ("ask",))
    scripts = [documents.script(i) for i in range(200)]
    starts = [script.parts[1][0].startswith("Where") for script in scripts]
    found = [Judged(script, "", start) for script, start in zip(scripts, starts, strict=True)]
    counts = by_kind(found)
    shapes = {kind: counts.pop(kind) for kind in ("shapes: 1", "shapes: 2", "shapes: 3")}
    assert set(counts) == {"How large", "How many", "What colour", "Where is", "Which shape"}
    assert counts.pop("Where is") == [sum(starts), sum(starts)]
    assert not any(right for right, _ in counts.values())
    assert sum(asked for _, asked in shapes.values()) == 200
    assert sum(right for right, _ in shapes.values()) == sum(starts)


class Pipe:
    """Says and draws what it is told to be asked."""

    def recaption(self, texts, phrase, *, seed, **settings):
        return [phrase.format(text, seed) for text in texts]

    def __call__(self, texts, *, seed, guidance):
        return [(text, seed, guidance) for text in texts]

    def follow(self, documents, picture, *, seed, guidance):
        return [(document, picture) for document in documents]


def test_a_riddle_is_drawn_as_the_pipeline_says_it():
    documents, settings = [["draw a heart\n"], ["draw a star\n"]], {"guidance": 2}
    drawn = With(Pipe(), settings, "{} is {}.").follow(documents, True, seed=5)
    assert drawn == [("a heart is 5.", 5, 2), ("a star is 5.", 5, 2)]
    for phrase, picture in ((None, True), ("{} is {}.", False)):
        plain = With(Pipe(), settings, phrase).follow(documents, picture, seed=5)
        assert plain == [(document, picture) for document in documents]
